//! Reading the lines of the input on a thread of its own, as soon as they are there.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    os::{fd::AsFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use tokio::sync::mpsc;

const READ_SIZE: usize = 64 * 1024;

/// Longer lines are reported, not kept: no broker setting makes them readable by consumers.
pub(crate) const MAX_LINE: usize = 16 * 1024 * 1024;

/// How many reads may wait to be sent.
const READ_AHEAD: usize = 4;

/// How long a read that is under way is waited for when no more is to be read. It was known not to have to wait, but
/// somebody else may have taken what was there, or a disk may hang.
const LAST_READ: Duration = Duration::from_secs(1);

/// A line of the input, without its line feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Whole(Bytes),
    /// It has more than [`MAX_LINE`] bytes.
    TooLong,
}

/// What the thread hands over: the lines that one read has completed, or why there are no more.
pub(crate) type Batch = io::Result<Vec<Line>>;

/// The lines that were read and not taken yet.
#[derive(Debug)]
pub(crate) struct Lines {
    batches: mpsc::UnboundedReceiver<Batch>,
    /// Lets the thread read once more for each.
    permits: std_mpsc::Sender<()>,
    reading: Arc<Mutex<Reading>>,
}

/// Locked from before bytes are taken from the input until they are handed over or kept here.
#[derive(Debug, Default)]
struct Reading {
    splitter: Splitter,
    /// Nothing is to be taken any more.
    is_over: bool,
}

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
    fn name(&self) -> String {
        match self {
            Self::Stdin => "stdin".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }

    fn open(&self) -> io::Result<File> {
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
fn duplicate(file: impl AsFd) -> io::Result<File> {
    file.as_fd().try_clone_to_owned().map(File::from)
}

impl Lines {
    /// Starts to read.
    pub(crate) fn read(sources: Vec<Source>) -> Self {
        let (batch_sender, batches) = mpsc::unbounded_channel();
        let (permits, permit_receiver) = std_mpsc::channel();
        for _ in 0..READ_AHEAD {
            // The receiver is still here, so that this can't fail.
            let _ = permits.send(());
        }
        let reading = Arc::default();
        let lines = Self { batches, permits, reading: Arc::clone(&reading) };
        std::thread::spawn(move || {
            for source in sources {
                let read = source
                    .open()
                    .and_then(|file| read_source(file, &reading, &permit_receiver, &batch_sender));
                if let Err(error) = read {
                    let text = format!("{}: {error}", source.name());
                    // If nobody listens any more, nobody wants to know.
                    let _ = batch_sender.send(Err(io::Error::new(error.kind(), text)));
                    return;
                }
            }
        });
        lines
    }

    /// The lines that come next; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Batch> {
        let batch = self.batches.recv().await;
        // The thread may have ended.
        let _ = self.permits.send(());
        batch
    }

    /// What was taken from the input and not from here, a line that has only begun included. From now on nothing is taken
    /// from the input.
    pub(crate) fn take_rest(mut self) -> Vec<Line> {
        let reading = self.reading.try_lock_for(LAST_READ);
        let mut rest = Vec::new();
        while let Ok(batch) = self.batches.try_recv() {
            rest.extend(batch.into_iter().flatten());
        }
        if let Some(mut reading) = reading {
            reading.is_over = true;
            rest.extend(reading.splitter.end());
        }
        rest
    }
}

fn read_source(
    mut file: File,
    reading: &Mutex<Reading>,
    permits: &std_mpsc::Receiver<()>,
    batches: &mpsc::UnboundedSender<Batch>,
) -> io::Result<()> {
    let mut chunk = vec![0; READ_SIZE];
    while permits.recv().is_ok() {
        let length = loop {
            // What can't be waited for is read at once, and may make somebody wait who wants to end the reading.
            let _ = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
            let mut reading = reading.lock();
            if reading.is_over {
                return Ok(());
            }
            match file.read(&mut chunk) {
                Ok(length) => {
                    let splitter = &mut reading.splitter;
                    let lines = if length == 0 { splitter.end() } else { splitter.push(&chunk[..length]) };
                    if batches.send(Ok(lines)).is_err() {
                        return Ok(());
                    }
                    break length;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Whoever shares the input may have asked not to be kept waiting.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        };
        if length == 0 {
            return Ok(());
        }
    }
    Ok(())
}

/// Cuts chunks into lines.
#[derive(Debug, Default)]
struct Splitter {
    /// The beginning of a line whose end has not come yet.
    begun: BytesMut,
    /// It is longer than the limit; its bytes are dropped.
    too_long: bool,
}

impl Splitter {
    fn push(&mut self, chunk: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut parts = chunk.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            if self.begun.len() + part.len() > MAX_LINE {
                self.too_long = true;
                self.begun = BytesMut::new();
            } else if !self.too_long {
                self.begun.extend_from_slice(part);
            }
            if parts.peek().is_some() {
                lines.push(self.take());
            }
        }
        lines
    }

    /// The last line, if it has no line feed.
    fn end(&mut self) -> Vec<Line> {
        if self.begun.is_empty() && !self.too_long {
            return Vec::new();
        }
        vec![self.take()]
    }

    fn take(&mut self) -> Line {
        let line = self.begun.split().freeze();
        if std::mem::take(&mut self.too_long) { Line::TooLong } else { Line::Whole(line) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<Line> {
        let mut splitter = Splitter::default();
        let mut lines: Vec<_> = chunks.iter().flat_map(|chunk| splitter.push(chunk)).collect();
        lines.extend(splitter.end());
        lines
    }

    fn whole(lines: &[&'static str]) -> Vec<Line> {
        lines.iter().map(|line| Line::Whole(Bytes::from_static(line.as_bytes()))).collect()
    }

    #[test]
    fn every_line_feed_ends_a_line_and_the_end_does_if_something_is_left() {
        assert_eq!(split(&[b"a\n\nb\r\n"]), whole(&["a", "", "b\r"]));
        assert_eq!(split(&[b"a\nb"]), whole(&["a", "b"]));
        assert_eq!(split(&[b"a", b"b", b"\n", b"c"]), whole(&["ab", "c"]));
        assert_eq!(split(&[]), []);
        assert_eq!(split(&[b"\n"]), whole(&[""]));
    }

    #[test]
    fn a_line_beyond_the_limit_is_dropped_and_the_next_one_is_not() {
        let chunk = vec![b'x'; MAX_LINE / 2 + 1];
        assert_eq!(
            split(&[&chunk, &chunk, b"more\nnext\n"]),
            [&[Line::TooLong][..], &whole(&["next"])].concat()
        );
        assert_eq!(split(&[&chunk, &chunk]), [Line::TooLong]);
    }
}
