//! Reading the lines of the input on a thread of its own, as soon as they are there.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::mpsc as std_mpsc,
};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

const READ_SIZE: usize = 64 * 1024;

/// Longer lines are reported, not kept: no broker setting makes them readable by consumers.
pub(crate) const MAX_LINE: usize = 16 * 1024 * 1024;

/// How many reads may wait to be sent.
const READ_AHEAD: usize = 4;

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
}

/// Something to read lines from.
pub(crate) struct Source {
    name: String,
    reader: Box<dyn Read + Send>,
}

/// Opens the files, or stdin if there are none. `-` stands for stdin.
pub(crate) fn open(files: &[PathBuf]) -> Result<Vec<Source>, (String, io::Error)> {
    let stdin = || Source { name: "stdin".to_owned(), reader: Box::new(io::stdin()) };
    if files.is_empty() {
        return Ok(vec![stdin()]);
    }
    let open = |path: &PathBuf| {
        if path == Path::new("-") {
            return Ok(stdin());
        }
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Ok(Source { name, reader: Box::new(file) }),
            Err(error) => Err((name, error)),
        }
    };
    files.iter().map(open).collect()
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
        std::thread::spawn(move || {
            for source in sources {
                let failed =
                    |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", source.name));
                if let Err(error) = read_source(source.reader, &permit_receiver, &batch_sender) {
                    // If nobody listens any more, nobody wants to know.
                    let _ = batch_sender.send(Err(failed(error)));
                    return;
                }
            }
        });
        Self { batches, permits }
    }

    /// The lines that come next; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Batch> {
        let batch = self.batches.recv().await;
        // The thread may have ended.
        let _ = self.permits.send(());
        batch
    }

    /// What was read and not taken.
    pub(crate) fn take_rest(mut self) -> Vec<Line> {
        drop(self.permits);
        let mut rest = Vec::new();
        while let Ok(batch) = self.batches.try_recv() {
            rest.extend(batch.into_iter().flatten());
        }
        rest
    }
}

fn read_source(
    mut reader: Box<dyn Read + Send>,
    permits: &std_mpsc::Receiver<()>,
    batches: &mpsc::UnboundedSender<Batch>,
) -> io::Result<()> {
    let mut splitter = Splitter::default();
    let mut chunk = vec![0; READ_SIZE];
    while permits.recv().is_ok() {
        let length = match reader.read(&mut chunk) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let lines = if length == 0 { splitter.end() } else { splitter.push(&chunk[..length]) };
        if batches.send(Ok(lines)).is_err() || length == 0 {
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
