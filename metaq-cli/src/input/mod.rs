//! The lines of the input, read by a dedicated thread as soon as they are available.
//!
//! [`Lines`] is the handle; `source` names and opens the files, `framing` says how their bytes are divided
//! into lines, and `splitter` divides them.

mod framing;
mod source;
mod splitter;

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::AsFd as _,
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use parking_lot::{Condvar, Mutex};
use tokio::sync::mpsc;

use self::splitter::Splitter;
pub(crate) use self::{
    framing::{Delimiter, Framing},
    source::{Source, are_same, checked_sources, duplicate, is_stdout},
};

const READ_SIZE: usize = 64 * 1024;

/// Limit on the length of a line. Longer ones are reported, not kept: no broker setting makes them readable
/// by consumers.
pub(crate) const MAX_LINE: usize = 16 * 1024 * 1024;

/// Limit on the number of reads whose lines were not taken yet.
const READ_AHEAD: usize = 4;

/// Limit on waiting for a read in progress from a regular file after reading has stopped: a disk may hang.
const LAST_FILE_READ: Duration = Duration::from_secs(1);

/// The same limit for other inputs. Such a read begins only when data is available, but another process that
/// reads the same input may have taken the data first.
const LAST_OTHER_READ: Duration = Duration::from_millis(250);

/// A message of the input, in general a line without its line feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Whole(Bytes),
    /// A line of more than [`MAX_LINE`] bytes.
    TooLong,
    /// The part of a line, before which its length stands, at the end of the input.
    Incomplete,
}

/// The lines that one read has completed, or the error after which there are no more.
pub(crate) type Batch = io::Result<Vec<Line>>;

/// Handle to the lines that were read and not taken yet.
#[derive(Debug)]
pub(crate) struct Lines {
    batches: mpsc::UnboundedReceiver<Batch>,
    /// Each message permits the thread one more read.
    permits: std_mpsc::Sender<()>,
    shared: Arc<Shared>,
}

/// The part of the input that was read and not taken when reading stopped.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// The lines, an incomplete last one included.
    pub(crate) lines: Vec<Line>,
    /// True if the last line was not read to its end.
    pub(crate) has_cut_line: bool,
    /// The error that ended reading, if it was not returned before.
    pub(crate) error: Option<io::Error>,
    /// True if a read in progress may have taken data that is in none of these lines.
    pub(crate) is_incomplete: bool,
}

/// State that both threads share. It is not locked during a read, which may block.
#[derive(Debug, Default)]
struct Shared {
    reading: Mutex<Reading>,
    /// Notified when a read that `take_rest` waits for has completed.
    has_read: Condvar,
}

#[derive(Debug, Default)]
struct Reading {
    splitter: Splitter,
    /// Set while a read is in progress: the limit on waiting for it.
    in_progress: Option<Duration>,
    /// Set when no further read may begin.
    is_over: bool,
    /// Set when the handle is gone, so that no lines are taken any more.
    is_abandoned: bool,
}

impl Lines {
    /// Starts the thread that reads `sources`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn read(sources: Vec<Source>, framing: Framing) -> io::Result<Self> {
        let (batch_sender, batches) = mpsc::unbounded_channel();
        let (permits, permit_receiver) = std_mpsc::channel();
        for _ in 0..READ_AHEAD {
            // The receiver still exists, so this can't fail.
            let _ = permits.send(());
        }
        let shared = Arc::<Shared>::default();
        shared.reading.lock().splitter = Splitter::new(framing);
        let lines = Self { batches, permits, shared: Arc::clone(&shared) };
        thread::Builder::new().name("input".to_owned()).spawn(move || {
            if let Err(error) = read_sources(&sources, &shared, &permit_receiver, &batch_sender) {
                // If the handle is gone, the error is of no interest.
                let _ = batch_sender.send(Err(error));
            }
        })?;
        Ok(lines)
    }

    /// Waits for the next lines; `None` at the end of the input.
    pub(crate) async fn next(&mut self) -> Option<Batch> {
        let batch = self.batches.recv().await;
        // The thread may have finished.
        let _ = self.permits.send(());
        batch
    }

    /// Stops reading, and counts the lines that were read and not taken. After that, only a read that was in
    /// progress and did not complete in time can still take data from the input.
    pub(crate) fn take_rest(mut self) -> Rest {
        let mut reading = self.shared.reading.lock();
        reading.is_over = true;
        if let Some(limit) = reading.in_progress {
            let deadline = Instant::now() + limit;
            while reading.in_progress.is_some() {
                if self.shared.has_read.wait_until(&mut reading, deadline).timed_out() {
                    break;
                }
            }
        }
        reading.is_abandoned = true;
        let mut rest = Rest { is_incomplete: reading.in_progress.is_some(), ..Rest::default() };
        while let Ok(batch) = self.batches.try_recv() {
            match batch {
                Ok(lines) => rest.lines.extend(lines),
                Err(error) => rest.error = Some(error),
            }
        }
        let cut = reading.splitter.end();
        rest.has_cut_line = !cut.is_empty();
        rest.lines.extend(cut);
        rest
    }
}

/// Reads one source after the other.
///
/// # Errors
/// When a source can't be opened. The text names it, the cause, and the sources that are skipped because of
/// it.
fn read_sources(
    sources: &[Source],
    shared: &Shared,
    permits: &std_mpsc::Receiver<()>,
    batches: &mpsc::UnboundedSender<Batch>,
) -> io::Result<()> {
    for (at, source) in sources.iter().enumerate() {
        let named = |error: io::Error| {
            let mut text = format!("{}: {error}", source.name());
            let left: Vec<_> = sources[at + 1..].iter().map(Source::name).collect();
            if !left.is_empty() {
                text += &format!("; not read because of that: {}", left.join(", "));
            }
            io::Error::new(error.kind(), text)
        };
        match source.open().and_then(|file| read_source(file, shared, permits, batches, named)) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return Err(named(error)),
        }
    }
    Ok(())
}

/// Reads a file to its end, and returns whether to continue with the next one. A read error is sent to the
/// handle as `named` formats it.
fn read_source(
    mut file: File,
    shared: &Shared,
    permits: &std_mpsc::Receiver<()>,
    batches: &mpsc::UnboundedSender<Batch>,
    named: impl Fn(io::Error) -> io::Error,
) -> io::Result<bool> {
    let limit = if file.metadata()?.is_file() { LAST_FILE_READ } else { LAST_OTHER_READ };
    let mut chunk = vec![0; READ_SIZE];
    shared.reading.lock().splitter.begin_file();
    while permits.recv().is_ok() {
        let length = loop {
            // An input that can't be polled is read immediately.
            let ready = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
            {
                let mut reading = shared.reading.lock();
                if reading.is_over {
                    return Ok(false);
                }
                if ready == Err(Errno::EINTR) {
                    continue;
                }
                reading.in_progress = Some(limit);
            }
            let read = file.read(&mut chunk);
            let mut reading = shared.reading.lock();
            reading.in_progress = None;
            if reading.is_over {
                shared.has_read.notify_one();
            }
            match read {
                _ if reading.is_abandoned => return Ok(false),
                Ok(length) => {
                    let splitter = &mut reading.splitter;
                    let lines = if length == 0 { splitter.end() } else { splitter.push(&chunk[..length]) };
                    if batches.send(Ok(lines)).is_err() {
                        return Ok(false);
                    }
                    break length;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process that shares the input may have made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Sent under the lock, so that `take_rest` finds it.
                Err(error) => {
                    let _ = batches.send(Err(named(error)));
                    return Ok(false);
                }
            }
        };
        if length == 0 {
            return Ok(!shared.reading.lock().is_over);
        }
    }
    Ok(false)
}
