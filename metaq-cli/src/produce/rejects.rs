//! The file of messages that were not acknowledged.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use crate::input::{Framing, Line};

/// Appends messages to a file in the form of the input.
#[derive(Debug)]
pub(super) struct Rejects {
    path: PathBuf,
    framing: Framing,
    file: BufWriter<File>,
    /// The first failure; nothing is written after it.
    failure: Option<io::Error>,
    /// The number of messages that could not be written.
    lost: u64,
}

/// Opens a file to append to.
pub(super) fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl Rejects {
    pub(super) fn open(path: &Path, framing: Framing) -> io::Result<Self> {
        let file = BufWriter::new(append(path)?);
        Ok(Self { path: path.to_owned(), framing, file, failure: None, lost: 0 })
    }

    /// Appends the message of a line. One that was too long to be read is not known.
    pub(super) fn add(&mut self, line: &Line) {
        let Line::Whole(payload) = line else {
            self.lost += 1;
            return;
        };
        let mut text = Vec::with_capacity(payload.len() + 8);
        self.framing.write(payload, &mut text);
        let written = match self.failure {
            Some(_) => false,
            None => self.file.write_all(&text).map_err(|error| self.failure = Some(error)).is_ok(),
        };
        self.lost += u64::from(!written);
    }

    /// Writes what is buffered. Returns a text about the messages that are not in the file, if there are any.
    pub(super) fn finish(mut self) -> Option<String> {
        if self.failure.is_none()
            && let Err(error) = self.file.flush()
        {
            self.failure = Some(error);
        }
        let path = self.path.display();
        match (self.failure, self.lost) {
            (Some(error), lost) => {
                Some(format!("{path} can't be written: {error}; {lost} messages or more are not in it"))
            }
            (None, 0) => None,
            (None, lost) => {
                Some(format!("{lost} messages are not in {path}, as they were not read completely"))
            }
        }
    }
}
