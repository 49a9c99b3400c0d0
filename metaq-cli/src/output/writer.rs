//! The thread that writes, and the state that it shares with the [`Output`](super::Output).

use std::{
    fs::File,
    io::{self, Write as _},
    mem,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Wakes the thread.
    pub(super) work: Condvar,
    /// Wakes the owner of the [`Output`](super::Output).
    pub(super) progress: Notify,
    /// The number of bytes of `State::writing` that are written.
    pub(super) written: AtomicUsize,
    /// No more text will be written. Set after `State::failure`.
    pub(super) has_failed: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The portion that the thread takes next.
    pub(super) waiting: Vec<u8>,
    /// The portion that the thread is writing.
    pub(super) writing: Option<Arc<Vec<u8>>>,
    /// The error that ended writing.
    pub(super) failure: Option<io::Error>,
    /// The owner waits for capacity, or until all text is written.
    pub(super) is_awaited: bool,
    /// The owner is gone.
    pub(super) is_closed: bool,
}

impl Shared {
    /// The thread's loop: writes waiting text until writing fails, or the owner is gone and no text waits.
    pub(super) fn write_portions(&self, mut file: File, piece: usize) {
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
                self.notify_owner(&mut state);
                portion
            };
            let written = self.write(&mut file, &portion, piece);
            let mut state = self.state.lock();
            match written {
                _ if self.has_failed.load(Ordering::Relaxed) => return,
                Ok(()) => {
                    state.writing = None;
                    self.notify_owner(&mut state);
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
                // Another process that shares the output may have made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_until_writable(file),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn fail(&self, state: &mut State, error: io::Error) {
        if !self.has_failed.load(Ordering::Relaxed) {
            state.failure = Some(error);
            self.has_failed.store(true, Ordering::Release);
            self.progress.notify_one();
        }
    }

    /// Notifies the owner if it waits.
    fn notify_owner(&self, state: &mut State) {
        if mem::take(&mut state.is_awaited) {
            self.progress.notify_one();
        }
    }
}

/// How often a thread that waits for its output looks whether writing was given up, in milliseconds.
const LOOK_INTERVAL: u8 = 100;

/// Waits until a non-blocking file accepts text, or for a moment.
fn wait_until_writable(file: &File) {
    // A failure shows at the next write.
    let _ = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(LOOK_INTERVAL));
}
