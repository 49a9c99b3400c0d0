//! Standard output, written by a dedicated thread, so that a slow or stuck reader blocks nothing else.
//!
//! [`Output`] is the handle that collects text; `writer` holds the thread and the state that both share.

#[cfg(test)]
mod tests;
mod writer;

use std::{
    fs::File,
    io, mem,
    sync::{Arc, atomic::Ordering},
    thread,
};

use self::writer::Shared;
use crate::input::duplicate;

/// Collected text is handed to the thread at this size, or on request.
const PORTION: usize = 64 * 1024;

/// Limit on the text that waits for the thread; at this size no more is handed over.
const MAX_WAITING: usize = 4 * PORTION;

/// A write of at most this length (`PIPE_BUF`) to a pipe happens as a whole or not at all. The unwritten part
/// of a blocked write is therefore known without waiting for the write to return.
const ATOMIC_WRITE: usize = 4096;

/// Lines of text on their way to a file, such as standard output.
///
/// Text is collected here, then waits for the thread, then is written. Both stages are bounded: while
/// [`has_capacity`](Self::has_capacity) returns false, callers should wait for [`changed`](Self::changed)
/// before they add more.
#[derive(Debug)]
pub(crate) struct Output {
    collected: Vec<u8>,
    shared: Arc<Shared>,
}

impl Output {
    /// Standard output.
    ///
    /// # Errors
    /// When no file descriptor or no thread is available.
    pub(crate) fn stdout() -> io::Result<Self> {
        Self::new(duplicate(io::stdout())?)
    }

    /// A file.
    ///
    /// # Errors
    /// When no thread is available.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let piece = if file.metadata()?.is_file() { usize::MAX } else { ATOMIC_WRITE };
        let shared = Arc::<Shared>::default();
        let writing = Arc::clone(&shared);
        thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || writing.write_portions(file, piece))?;
        Ok(Self { collected: Vec::with_capacity(PORTION), shared })
    }

    /// The collected text, to append lines to.
    pub(crate) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.collected
    }

    /// Returns whether more text should be added.
    pub(crate) fn has_capacity(&mut self) -> bool {
        if self.collected.len() >= PORTION {
            self.flush();
        }
        self.collected.len() < PORTION
    }

    /// Hands collected text to the thread, unless too much waits there already.
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

    /// Returns whether writing has failed or was given up.
    pub(crate) fn has_failed(&self) -> bool {
        self.shared.has_failed.load(Ordering::Acquire)
    }

    /// Hands collected text to the thread. Completes when the thread accepts text that it had refused, or
    /// when writing has failed, and stays pending otherwise. May complete early, so callers check
    /// [`has_capacity`](Self::has_capacity) again.
    ///
    /// # Cancel safety
    /// No text is lost when the future is dropped.
    pub(crate) async fn changed(&mut self) {
        // If the thread is full, it notifies when it takes its next portion, whether that happens before or
        // after the wait begins.
        self.flush();
        if !self.has_failed() {
            self.shared.progress.notified().await;
            self.flush();
        }
    }

    /// Waits until all text is written, or writing has failed.
    ///
    /// # Cancel safety
    /// No text is lost when the future is dropped.
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

    /// Stops writing for `reason`, unless writing has failed before. A write that is blocked is abandoned.
    pub(crate) fn give_up(&mut self, reason: io::Error) {
        self.shared.fail(&mut self.shared.state.lock(), reason);
    }

    /// Takes the error that ended writing; `None` if there is none, or it was taken before.
    pub(crate) fn take_failure(&mut self) -> Option<io::Error> {
        self.shared.state.lock().failure.take()
    }

    /// Returns the number of bytes of the text that are not written yet.
    pub(crate) fn unwritten_len(&self) -> usize {
        let state = self.shared.state.lock();
        let writing = state.writing.as_ref().map(|writing| {
            // The count is that of this portion, which the lock keeps from being replaced.
            writing.len() - self.shared.written.load(Ordering::Acquire).min(writing.len())
        });
        self.collected.len() + state.waiting.len() + writing.unwrap_or_default()
    }

    /// Takes the lines that were not written completely. Call it only after a failure.
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
