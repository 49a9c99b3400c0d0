//! The sources of lines: files, or standard input.

use std::{
    fs::{File, Metadata},
    io::{self, IsTerminal as _},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

/// A source of lines.
#[derive(Debug)]
pub(crate) enum Source {
    Stdin,
    File(PathBuf),
}

/// Returns the sources that `files` names, or stdin if there are none; `-` stands for stdin. A source is
/// opened when its turn comes, but one that can't be opened is reported now.
///
/// # Errors
/// The name of the first source that can't be read, and the cause.
pub(crate) fn checked_sources(files: &[PathBuf]) -> Result<Vec<Source>, (String, io::Error)> {
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
    /// Returns the name of the source in messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Stdin => "stdin".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// Returns whether the source is the file at `path`.
    pub(crate) fn is_file(&self, path: &Path) -> bool {
        let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let (Ok(own), Ok(other)) = (self.metadata(), path.metadata()) else { return false };
        own.is_file() && id(own) == id(other)
    }

    /// Returns whether a person types the source.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self, Self::Stdin) && io::stdin().is_terminal()
    }

    /// Opens the source.
    pub(crate) fn open(&self) -> io::Result<File> {
        match self {
            Self::Stdin => duplicate(io::stdin()),
            Self::File(path) => File::open(path),
        }
    }

    /// Returns an error if the source can't be read, as far as that is known without reading from it.
    fn check(&self, output: Option<&Metadata>) -> io::Result<()> {
        let metadata = self.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // The process at the other end of a named pipe would notice that it was opened.
        if metadata.is_file() {
            self.open()?;
        }
        ensure_not_same(&metadata, output)
    }

    /// Returns an error if standard output is written to the same file, since reading it would never end.
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

/// Returns whether two paths name the same file or pipe, which need not exist yet.
pub(crate) fn are_same(one: &Path, other: &Path) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => would_mix(&one, &other),
        (Err(_), Err(_)) => {
            let place = |path: &Path| {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                Some(folder.unwrap_or_else(|| Path::new(".")).canonicalize().ok()?.join(path.file_name()?))
            };
            place(one).is_some_and(|one| Some(one) == place(other))
        }
        _ => false,
    }
}

/// Returns whether a path names the file or pipe that standard output is.
pub(crate) fn is_stdout(path: &Path) -> bool {
    let (Ok(path), Some(output)) = (path.metadata(), output_metadata()) else { return false };
    would_mix(&path, &output)
}

/// Returns whether two outputs with this metadata would be mixed. A device, such as `/dev/null`, may have any
/// number of writers.
fn would_mix(one: &Metadata, other: &Metadata) -> bool {
    let is_kept = one.is_file() || one.file_type().is_fifo();
    is_kept && (one.dev(), one.ino()) == (other.dev(), other.ino())
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

/// Duplicates the descriptor, which bypasses the standard library's buffer.
pub(crate) fn duplicate(file: impl AsFd) -> io::Result<File> {
    file.as_fd().try_clone_to_owned().map(File::from)
}
