//! Standard output, written by a thread of its own, so that a reader that is slow or stuck blocks nothing else.

use std::{
    fs::File,
    io::{self, Write as _},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::sources::duplicate;

/// Text is handed to the thread when there is this much of it, or when it is asked for.
const PORTION: usize = 64 * 1024;

/// How much text may wait for the thread before no more is handed over.
const MAX_WAITING: usize = 4 * PORTION;

/// Writes to a pipe of at most this length (`PIPE_BUF`) happen as a whole or not at all. So what is left of a write that blocks is
/// known without waiting for its end.
const ATOMIC_WRITE: usize = 4096;

/// Lines of text on their way to a file, such as standard output.
///
/// Text is collected here, then waits for the thread, then is written. Both stages are bounded: when [`has_room`](Self::has_room)
/// says no, no more should be added before [`changed`](Self::changed) completes.
#[derive(Debug)]
pub(crate) struct Output {
    collected: Vec<u8>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Notifies the thread.
    work: Condvar,
    /// Notifies the owner of the [`Output`].
    progress: Notify,
    /// How many bytes of `State::writing` are written.
    written: AtomicUsize,
    /// Nothing more is to be written. Set once `State::failure` is.
    has_failed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// What the thread takes next.
    waiting: Vec<u8>,
    /// What it is writing.
    writing: Option<Arc<Vec<u8>>>,
    /// Why nothing more is written.
    failure: Option<io::Error>,
    /// The owner waits for room, or for everything to be written.
    is_awaited: bool,
    /// The owner is gone.
    is_closed: bool,
}

impl Output {
    /// Standard output.
    ///
    /// # Errors
    /// When no file descriptor or no thread is to be had.
    pub(crate) fn stdout() -> io::Result<Self> {
        Self::new(duplicate(io::stdout())?)
    }

    fn new(file: File) -> io::Result<Self> {
        let piece = if file.metadata()?.is_file() { usize::MAX } else { ATOMIC_WRITE };
        let shared = Arc::<Shared>::default();
        let writing = Arc::clone(&shared);
        thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || writing.write_portions(file, piece))?;
        Ok(Self { collected: Vec::with_capacity(PORTION), shared })
    }

    /// The text to add lines to.
    pub(crate) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.collected
    }

    /// Returns whether more should be added.
    pub(crate) fn has_room(&mut self) -> bool {
        if self.collected.len() >= PORTION {
            self.flush();
        }
        self.collected.len() < PORTION
    }

    /// Hands over what was added, as far as there is room for it.
    pub(crate) fn flush(&mut self) {
        if self.collected.is_empty() || self.has_failed() {
            return;
        }
        let mut state = self.shared.state.lock();
        if state.waiting.len() < MAX_WAITING {
            if state.waiting.is_empty() {
                mem::swap(&mut state.waiting, &mut self.collected);
            } else {
                state.waiting.append(&mut self.collected);
            }
            drop(state);
            self.shared.work.notify_one();
        } else {
            state.is_awaited = true;
        }
    }

    /// Returns whether writing has failed, or was given up.
    pub(crate) fn has_failed(&self) -> bool {
        self.shared.has_failed.load(Ordering::Acquire)
    }

    /// Hands over what was added, and waits until that was refused and there is room, or writing has failed. It may return
    /// earlier: whoever waits for room looks again.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn changed(&mut self) {
        // If this is refused, the thread notifies when it takes its next portion, be it before or after the wait begins.
        self.flush();
        if !self.has_failed() {
            self.shared.progress.notified().await;
            self.flush();
        }
    }

    /// Waits until everything is written, or writing has failed.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn written(&mut self) {
        while !self.has_failed() {
            self.flush();
            {
                let mut state = self.shared.state.lock();
                if self.collected.is_empty() && state.waiting.is_empty() && state.writing.is_none() {
                    return;
                }
                state.is_awaited = true;
            }
            self.shared.progress.notified().await;
        }
    }

    /// Has nothing more written, because of this, unless writing has failed before. A write that is blocked is left behind.
    pub(crate) fn give_up(&mut self, reason: io::Error) {
        self.shared.fail(&mut self.shared.state.lock(), reason);
    }

    /// Takes why writing has failed; `None` if it has not, or if this was taken before.
    pub(crate) fn take_failure(&mut self) -> Option<io::Error> {
        self.shared.state.lock().failure.take()
    }

    /// Takes the lines that were not written as a whole. To be called after a failure only.
    pub(crate) fn take_unwritten(&mut self) -> Vec<u8> {
        let mut state = self.shared.state.lock();
        let mut unwritten = Vec::new();
        if let Some(writing) = state.writing.take() {
            let written = self.shared.written.load(Ordering::Acquire);
            let whole = writing[..written].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            unwritten.extend_from_slice(&writing[whole..]);
        }
        unwritten.append(&mut state.waiting);
        unwritten.append(&mut self.collected);
        unwritten
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.shared.state.lock().is_closed = true;
        self.shared.work.notify_one();
    }
}

impl Shared {
    /// The thread: writes what waits, until writing fails or there will be no more.
    fn write_portions(&self, mut file: File, piece: usize) {
        let mut spare = Vec::new();
        loop {
            let portion = {
                let mut state = self.state.lock();
                while state.waiting.is_empty() && !self.has_failed.load(Ordering::Relaxed) {
                    if state.is_closed {
                        return;
                    }
                    self.work.wait(&mut state);
                }
                if self.has_failed.load(Ordering::Relaxed) {
                    return;
                }
                let portion = Arc::new(mem::replace(&mut state.waiting, mem::take(&mut spare)));
                self.written.store(0, Ordering::Relaxed);
                state.writing = Some(Arc::clone(&portion));
                self.tell(&mut state);
                portion
            };
            let written = self.write(&mut file, &portion, piece);
            let mut state = self.state.lock();
            match written {
                _ if self.has_failed.load(Ordering::Relaxed) => return,
                Ok(()) => {
                    state.writing = None;
                    self.tell(&mut state);
                }
                Err(error) => return self.fail(&mut state, error),
            }
            drop(state);
            spare = Arc::into_inner(portion).unwrap_or_default();
            spare.clear();
        }
    }

    fn write(&self, file: &mut File, portion: &[u8], piece: usize) -> io::Result<()> {
        let mut rest = portion;
        while !rest.is_empty() && !self.has_failed.load(Ordering::Acquire) {
            match file.write(&rest[..rest.len().min(piece)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => {
                    rest = &rest[length..];
                    self.written.store(portion.len() - rest.len(), Ordering::Release);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn fail(&self, state: &mut State, error: io::Error) {
        if !self.has_failed.load(Ordering::Relaxed) {
            state.failure = Some(error);
            self.has_failed.store(true, Ordering::Release);
            self.progress.notify_one();
        }
    }

    /// Notifies the owner if it waits.
    fn tell(&self, state: &mut State) {
        if mem::take(&mut state.is_awaited) {
            self.progress.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, time::Duration};

    use super::*;

    /// An output into a pipe, and the pipe's other end.
    fn pipe() -> (Output, io::PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        (Output::new(File::from(std::os::fd::OwnedFd::from(writer))).unwrap(), reader)
    }

    fn add(output: &mut Output, line: usize) {
        writeln!(output.text(), "{line:099}").unwrap();
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), future).await.expect("it comes")
    }

    /// Adds lines until there is no room any more, and the thread waits for the reader.
    async fn fill(output: &mut Output) -> usize {
        let mut lines = 0;
        loop {
            while output.has_room() {
                add(output, lines);
                lines += 1;
            }
            let blocked = async {
                while output.shared.written.load(Ordering::Relaxed) == 0 {
                    tokio::task::yield_now().await;
                }
            };
            soon(blocked).await;
            if tokio::time::timeout(Duration::from_millis(200), output.changed()).await.is_err() {
                return lines;
            }
        }
    }

    #[tokio::test]
    async fn everything_is_written_in_order() {
        let (mut output, mut reader) = pipe();
        let reading = thread::spawn(move || {
            let mut read = String::new();
            reader.read_to_string(&mut read).unwrap();
            read
        });
        for line in 0..50_000 {
            add(&mut output, line);
            if line % 777 == 0 {
                output.flush();
            }
            while !output.has_room() {
                soon(output.changed()).await;
            }
        }
        soon(output.written()).await;
        assert!(!output.has_failed());
        drop(output);
        let read = reading.join().unwrap();
        let lines: Vec<usize> = read.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(lines, (0..50_000).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_nobody_reads_is_bounded_and_told_to_the_line() {
        let (mut output, mut reader) = pipe();
        let lines = fill(&mut output).await;
        assert!(lines * 100 < 3 * MAX_WAITING, "{lines} lines");
        assert!(tokio::time::timeout(Duration::from_millis(50), output.written()).await.is_err());
        output.give_up(io::ErrorKind::TimedOut.into());
        soon(output.written()).await;
        soon(output.changed()).await;
        let unwritten = output.take_unwritten();
        assert_eq!(output.take_failure().unwrap().kind(), io::ErrorKind::TimedOut);
        assert!(output.take_failure().is_none() && output.has_failed());
        // The write that was blocked may still succeed, which takes one piece at most.
        let mut read = vec![0; 1 << 20];
        let length = reader.read(&mut read).unwrap();
        let read = read[..length].iter().filter(|byte| **byte == b'\n').count();
        let unwritten: Vec<usize> =
            str::from_utf8(&unwritten).unwrap().lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(unwritten.last(), Some(&(lines - 1)));
        assert_eq!(unwritten.len(), lines - unwritten[0], "one after another");
        assert_eq!(unwritten[0], read, "the first that was not written");
    }

    #[tokio::test]
    async fn room_comes_with_the_reader() {
        let (mut output, mut reader) = pipe();
        fill(&mut output).await;
        let reading = thread::spawn(move || io::copy(&mut reader, &mut io::sink()).unwrap());
        while !output.has_room() {
            soon(output.changed()).await;
        }
        soon(output.written()).await;
        drop(output);
        reading.join().unwrap();
    }

    #[tokio::test]
    async fn what_was_refused_is_handed_over_by_waiting_for_anything() {
        let (mut output, mut reader) = pipe();
        let mut lines = 0;
        while output.collected.is_empty() {
            add(&mut output, lines);
            lines += 1;
            output.flush();
        }
        assert!(output.has_room());
        let (all_read, is_read) = tokio::sync::oneshot::channel();
        let reading = thread::spawn(move || {
            let mut read = vec![0; 100 * lines];
            reader.read_exact(&mut read).unwrap();
            all_read.send(()).unwrap();
        });
        // There is room all the time, and nothing else happens.
        let waiting = async {
            loop {
                output.changed().await;
            }
        };
        soon(async { tokio::select!(() = waiting => {}, read = is_read => read.unwrap()) }).await;
        reading.join().unwrap();
    }

    #[tokio::test]
    async fn a_failure_is_told_also_to_those_who_wait_for_nothing_else() {
        let (mut output, reader) = pipe();
        drop(reader);
        add(&mut output, 7);
        output.flush();
        soon(output.changed()).await;
        assert_eq!(output.take_failure().unwrap().kind(), io::ErrorKind::BrokenPipe);
        add(&mut output, 8);
        output.flush();
        let lines = [7, 8].map(|line| format!("{line:099}\n")).concat();
        assert_eq!(output.take_unwritten(), lines.into_bytes());
        assert!(output.take_unwritten().is_empty());
    }

    #[tokio::test]
    async fn a_full_disk_is_a_failure() {
        let mut output = Output::new(File::options().write(true).open("/dev/full").unwrap()).unwrap();
        add(&mut output, 1);
        soon(output.written()).await;
        assert_eq!(output.take_failure().unwrap().kind(), io::ErrorKind::StorageFull);
        assert_eq!(output.take_unwritten().len(), 100);
    }
}
