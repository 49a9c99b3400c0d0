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
    let output = duplicate(io::stdout()).and_then(|output| output.metadata()).ok();
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

    /// Whether it can be read, as far as that can be known without a look at what is in it.
    fn check(&self, output: Option<&Metadata>) -> io::Result<()> {
        let metadata = match self {
            Self::Stdin => self.open()?.metadata()?,
            Self::File(path) => path.metadata()?,
        };
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // Opening a pipe would be seen at its other end.
        if metadata.is_file() {
            self.open()?;
            let is_same =
                |output: &Metadata| (output.dev(), output.ino()) == (metadata.dev(), metadata.ino());
            if output.is_some_and(is_same) {
                return Err(io::Error::other("it is the output, too"));
            }
        }
        Ok(())
    }
}

/// The same open file, without the buffer that the standard library has.
pub(crate) fn duplicate(file: impl AsFd) -> io::Result<File> {
    file.as_fd().try_clone_to_owned().map(File::from)
}
