//! Reading the lines of the input on a thread of its own, as soon as they are there.

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
use crate::sources::Source;

const READ_SIZE: usize = 64 * 1024;

/// Longer lines are reported, not kept: no broker setting makes them readable by consumers.
pub(crate) const MAX_LINE: usize = 16 * 1024 * 1024;

/// How many reads may wait to be sent.
const READ_AHEAD: usize = 4;

/// How long a read of a file that is under way is waited for when no more is to be read: a disk may hang.
const LAST_FILE_READ: Duration = Duration::from_secs(1);

/// The same for what is not a file. Such a read was known not to have to wait, but whoever else reads there may have taken
/// what there was.
const LAST_OTHER_READ: Duration = Duration::from_millis(250);

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
    shared: Arc<Shared>,
}

/// What had been taken from the input when no more was to be read.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// A line that has only begun included.
    pub(crate) lines: u64,
    /// Why the input could not be read any further, if nobody was told yet.
    pub(crate) error: Option<io::Error>,
    /// A read may have taken something that is in none of these lines.
    pub(crate) is_incomplete: bool,
}

/// What both threads know. Not locked during a read, which may have to wait.
#[derive(Debug, Default)]
struct Shared {
    reading: Mutex<Reading>,
    /// Notified when a read has ended that was waited for.
    has_read: Condvar,
}

#[derive(Debug, Default)]
struct Reading {
    splitter: Splitter,
    /// A read is under way; how long to wait for it at most.
    under_way: Option<Duration>,
    /// No more reads are to begin.
    is_over: bool,
    /// Nobody takes anything any more.
    is_abandoned: bool,
}

impl Lines {
    /// Starts to read.
    ///
    /// # Errors
    /// When no thread is to be had.
    pub(crate) fn read(sources: Vec<Source>) -> io::Result<Self> {
        let (batch_sender, batches) = mpsc::unbounded_channel();
        let (permits, permit_receiver) = std_mpsc::channel();
        for _ in 0..READ_AHEAD {
            // The receiver is still here, so that this can't fail.
            let _ = permits.send(());
        }
        let shared = Arc::<Shared>::default();
        let lines = Self { batches, permits, shared: Arc::clone(&shared) };
        thread::Builder::new().name("input".to_owned()).spawn(move || {
            if let Err(error) = read_sources(&sources, &shared, &permit_receiver, &batch_sender) {
                // If nobody listens any more, nobody wants to know.
                let _ = batch_sender.send(Err(error));
            }
        })?;
        Ok(lines)
    }

    /// The lines that come next; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Batch> {
        let batch = self.batches.recv().await;
        // The thread may have ended.
        let _ = self.permits.send(());
        batch
    }

    /// Counts what was taken from the input and not from here. From now on nothing is taken from the input, except by a read
    /// that is under way and does not end in time.
    pub(crate) fn take_rest(mut self) -> Rest {
        let mut reading = self.shared.reading.lock();
        reading.is_over = true;
        if let Some(patience) = reading.under_way {
            let deadline = Instant::now() + patience;
            while reading.under_way.is_some() {
                if self.shared.has_read.wait_until(&mut reading, deadline).timed_out() {
                    break;
                }
            }
        }
        reading.is_abandoned = true;
        let mut rest = Rest { is_incomplete: reading.under_way.is_some(), ..Rest::default() };
        while let Ok(batch) = self.batches.try_recv() {
            match batch {
                Ok(lines) => rest.lines += lines.len() as u64,
                Err(error) => rest.error = Some(error),
            }
        }
        rest.lines += reading.splitter.end().len() as u64;
        rest
    }
}

/// Reads one source after the other.
///
/// # Errors
/// Which one can't be read, why, and which are not read therefore.
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
                text += &format!("; not read therefore: {}", left.join(", "));
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

/// Reads a file to its end. Returns whether more is to be read. An error of reading is passed on as `named` makes it.
fn read_source(
    mut file: File,
    shared: &Shared,
    permits: &std_mpsc::Receiver<()>,
    batches: &mpsc::UnboundedSender<Batch>,
    named: impl Fn(io::Error) -> io::Error,
) -> io::Result<bool> {
    let patience = if file.metadata()?.is_file() { LAST_FILE_READ } else { LAST_OTHER_READ };
    let mut chunk = vec![0; READ_SIZE];
    while permits.recv().is_ok() {
        let length = loop {
            // What can't be waited for is read at once.
            let ready = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
            {
                let mut reading = shared.reading.lock();
                if reading.is_over {
                    return Ok(false);
                }
                if ready == Err(Errno::EINTR) {
                    continue;
                }
                reading.under_way = Some(patience);
            }
            let read = file.read(&mut chunk);
            let mut reading = shared.reading.lock();
            reading.under_way = None;
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
                // Whoever shares the input may have asked not to be kept waiting.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Under the lock, so that whoever takes the rest finds it.
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
