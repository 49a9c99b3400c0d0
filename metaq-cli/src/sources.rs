//! What lines are read from: files, or standard input.

use std::{
    fs::{File, Metadata},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

/// Something to read lines from.
#[derive(Debug)]
pub(crate) enum Source {
    Stdin,
    File(PathBuf),
}

/// What is read: the files, or stdin if there are none. `-` stands for stdin. Files are opened when their turn comes; those
/// that could not be are told of now.
///
/// # Errors
/// The first file that can't be read, and why.
pub(crate) fn sources(files: &[PathBuf]) -> Result<Vec<Source>, (String, io::Error)> {
    let output = output_metadata();
    let mut sources: Vec<_> = (files.iter())
        .map(|path| if path == Path::new("-") { Source::Stdin } else { Source::File(path.clone()) })
        .collect();
    if sources.is_empty() {
        sources.push(Source::Stdin);
    }
    for source in &sources {
        source.check(output.as_ref()).map_err(|error| (source.name(), error))?;
    }
    Ok(sources)
}

impl Source {
    /// What it is called in messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Stdin => "stdin".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// Opens it.
    pub(crate) fn open(&self) -> io::Result<File> {
        match self {
            Self::Stdin => duplicate(io::stdin()),
            Self::File(path) => File::open(path),
        }
    }

    /// Fails if it certainly can't be read, as far as that is known without a look at what is in it.
    fn check(&self, output: Option<&Metadata>) -> io::Result<()> {
        let metadata = self.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // Opening a pipe would be seen at its other end.
        if metadata.is_file() {
            self.open()?;
        }
        ensure_not_same(&metadata, output)
    }

    /// Fails if it is a file to which standard output is written, too: there would be no end of it.
    pub(crate) fn ensure_not_output(&self) -> io::Result<()> {
        ensure_not_same(&self.metadata()?, output_metadata().as_ref())
    }

    fn metadata(&self) -> io::Result<Metadata> {
        match self {
            Self::Stdin => self.open()?.metadata(),
            Self::File(path) => path.metadata(),
        }
    }
}

fn output_metadata() -> Option<Metadata> {
    duplicate(io::stdout()).and_then(|output| output.metadata()).ok()
}

fn ensure_not_same(input: &Metadata, output: Option<&Metadata>) -> io::Result<()> {
    let is_same = |output: &Metadata| (output.dev(), output.ino()) == (input.dev(), input.ino());
    if input.is_file() && output.is_some_and(is_same) {
        return Err(io::Error::other("it is the output, too"));
    }
    Ok(())
}

/// The same open file, without the buffer that the standard library has.
pub(crate) fn duplicate(file: impl AsFd) -> io::Result<File> {
    file.as_fd().try_clone_to_owned().map(File::from)
}
