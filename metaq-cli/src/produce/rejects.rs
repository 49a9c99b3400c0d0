//! The file of messages that were not acknowledged.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    future::pending,
    io,
    path::{Path, PathBuf},
};

use crate::{
    input::{Framing, Line},
    output::Output,
    report::count_messages,
};

/// The reason to leave out a message that the form of the input can't hold.
pub(super) const UNFIT: &str =
    "what ends with the beginning of the delimiter would be read as another message";

/// The number of messages that are looked through for those that are written.
const MAX_ENDS: usize = 65_536;

/// Appends messages to a file in the form of the input. A thread of its own writes them, so that a pipe whose
/// reader is stuck blocks nothing else.
#[derive(Debug)]
pub(super) struct Rejects {
    path: PathBuf,
    framing: Framing,
    output: Output,
    /// The number of bytes that were handed to the output.
    added: usize,
    /// Where each message ends among them; those that are certainly written are left out.
    ends: VecDeque<usize>,
    /// The number of messages that came after writing had failed.
    late: u64,
    /// The number of messages that were not read completely.
    unread: u64,
    /// The number of messages that would be read as others.
    unfit: u64,
}

/// What the file lacks.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) text: String,
    /// False if only messages are missing that were not read completely.
    pub(super) is_failure: bool,
}

/// Opens a file to append to. Opening a named pipe waits for its reader.
pub(super) fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl Rejects {
    /// Begins to write to a file. `path` is its name in messages.
    ///
    /// # Errors
    /// When no thread is available.
    pub(super) fn new(path: &Path, file: File, framing: Framing) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            framing,
            output: Output::new(file)?,
            added: 0,
            ends: VecDeque::new(),
            late: 0,
            unread: 0,
            unfit: 0,
        })
    }

    /// Appends the message of a line. One that was too long to be read is not known.
    pub(super) fn add(&mut self, line: &Line) {
        let Line::Whole(payload) = line else {
            self.unread += 1;
            return;
        };
        if self.output.has_failed() {
            self.late += 1;
            return;
        }
        let text = self.output.text();
        let before = text.len();
        if !self.framing.write(payload, text) {
            self.unfit += 1;
            return;
        }
        self.added += text.len() - before;
        self.ends.push_back(self.added);
        if self.ends.len() >= MAX_ENDS {
            self.forget_written();
        }
    }

    fn forget_written(&mut self) {
        let written = self.added - self.output.unwritten_len();
        let count = self.ends.partition_point(|end| *end <= written);
        self.ends.drain(..count);
    }

    /// Returns whether more should be added before [`changed`](Self::changed) completes. After writing has
    /// failed this is always true: what can't be written is only counted.
    pub(super) fn has_capacity(&mut self) -> bool {
        self.output.has_failed() || self.output.has_capacity()
    }

    /// Waits until there may be capacity again; forever after writing has failed. May return early.
    pub(super) async fn changed(&mut self) {
        if self.output.has_failed() {
            pending().await
        }
        self.output.changed().await;
    }

    /// Hands what was added to the thread that writes.
    pub(super) fn flush(&mut self) {
        self.output.flush();
    }

    /// Waits until all is written, or writing has failed.
    pub(super) async fn written(&mut self) {
        self.output.written().await;
    }

    /// Stops writing for `reason`.
    pub(super) fn give_up(&mut self, reason: io::Error) {
        self.output.give_up(reason);
    }

    /// Returns what the file lacks, if it lacks anything.
    pub(super) fn finish(mut self) -> Option<Missing> {
        self.forget_written();
        let unwritten = self.ends.len() as u64 + self.late;
        // Writing may complete just when it is given up.
        let failure = self.output.take_failure();
        let failure = failure.filter(|error| error.kind() != io::ErrorKind::TimedOut || unwritten > 0);
        let is_failure = failure.is_some() || self.unfit > 0;
        let path = self.path.display();
        let lacks =
            |count, text| (count > 0).then(|| format!("{path} lacks {}: {text}", count_messages(count)));
        let texts: Vec<_> = failure
            .map(|error| format!("{path} can't be written: {error}; it lacks {}", count_messages(unwritten)))
            .into_iter()
            .chain(lacks(self.unfit, UNFIT))
            .chain(lacks(self.unread, "what was not read completely is not known"))
            .collect();
        (!texts.is_empty()).then(|| Missing { text: texts.join("; "), is_failure })
    }
}
