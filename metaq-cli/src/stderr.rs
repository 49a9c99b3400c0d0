//! Standard error: messages and log. A failure to write there neither ends the program nor blocks
//! it for long.

use std::{
    error::Error,
    fmt::Write as _,
    io::{self, Write as _},
    os::fd::AsFd as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use parking_lot::Mutex;

use crate::exit_status::EXIT_FAILED;

/// Limit on writing one message. The reader of stderr may have stopped, and the program must still react to
/// signals.
const MAX_WRITE: Duration = Duration::from_secs(1);

/// Limit on writing one line of the log, which may have many.
const MAX_LOG_WRITE: Duration = Duration::from_millis(100);

/// A pipe that is ready takes this much (`PIPE_BUF`) without blocking.
const PIECE: usize = 4096;

/// Set when a text could not be written in time; later ones are skipped while stderr is not ready.
static IS_STUCK: AtomicBool = AtomicBool::new(false);

/// The number of lines of the log that were skipped since the last one that was written.
static SKIPPED: AtomicU64 = AtomicU64::new(0);

/// Held while a text is written, so that texts of several threads don't mix, and a piece fits into the pipe.
static WRITING: Mutex<()> = Mutex::new(());

/// Prints an error and its causes in one line after `context`; returns the exit status of a failure.
pub(crate) fn print_error(context: &str, error: &dyn Error) -> u8 {
    print_message(&format!("{context}: {}", describe(error)));
    EXIT_FAILED
}

/// Prints a message. What controls terminals in it, except line feeds, is replaced by spaces: a part may come
/// from a broker. Blocks for at most [`MAX_WRITE`].
pub(crate) fn print_message(text: &str) {
    let text = text.replace(|char: char| char.is_control() && char != '\n', " ");
    print_text(&format!("metaq: {text}\n"));
}

/// Prints a text. Blocks for at most [`MAX_WRITE`].
pub(crate) fn print_text(text: &str) {
    write_within(text.as_bytes(), MAX_WRITE);
}

/// Writes all of `bytes` to stderr, in at most `limit`. Returns false if that was not possible.
fn write_within(bytes: &[u8], limit: Duration) -> bool {
    let Some(_writing) = WRITING.try_lock_for(limit) else { return false };
    let deadline = Instant::now() + if IS_STUCK.load(Ordering::Relaxed) { Duration::ZERO } else { limit };
    let mut rest = bytes;
    while !rest.is_empty() {
        if !is_ready(deadline.saturating_duration_since(Instant::now())) {
            IS_STUCK.store(true, Ordering::Relaxed);
            return false;
        }
        match io::stderr().write(&rest[..rest.len().min(PIECE)]) {
            Ok(0) => return false,
            Ok(length) => rest = &rest[length..],
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            // It is closed. There is no other place to report that.
            Err(_) => return false,
        }
    }
    IS_STUCK.store(false, Ordering::Relaxed);
    true
}

/// Waits until stderr accepts text without blocking, or `limit` is over. A stopped terminal doesn't accept
/// any.
fn is_ready(limit: Duration) -> bool {
    let stderr = io::stderr();
    let deadline = Instant::now() + limit;
    loop {
        // Rounded up, so that the last wait doesn't become a busy loop.
        let left = deadline.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        match poll(
            &mut polled,
            PollTimeout::try_from(i32::try_from(left).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX),
        ) {
            Ok(ready) => return ready > 0,
            Err(Errno::EINTR) if !limit.is_zero() && Instant::now() < deadline => {}
            Err(_) => return false,
        }
    }
}

/// Returns whether stderr accepts text without blocking. A stopped terminal doesn't.
pub(crate) fn accepts_text() -> bool {
    !IS_STUCK.load(Ordering::Relaxed) && is_ready(Duration::ZERO)
}

/// Formats an error and its causes in one line.
pub(crate) fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.ends_with(&next) {
            // Writing to a string can't fail.
            let _ = write!(text, ": {next}");
        }
        cause = error.source();
    }
    text
}

/// Formats an error about one line of JSON: with the column, and without the number of the line, which is 1
/// in every text that has one line.
pub(crate) fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(reason) => format!("column {}: {reason}", error.column()),
        None => text,
    }
}

/// Writes the log to stderr, and skips lines while stderr is full or closed: a failure to log ends nothing.
#[derive(Debug)]
pub(crate) struct LogWriter;

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = SKIPPED.swap(0, Ordering::Relaxed);
        let note = format!("metaq: {skipped} lines of the log were skipped, as stderr was not read\n");
        let is_noted = skipped == 0 || write_within(note.as_bytes(), MAX_LOG_WRITE);
        if !is_noted {
            SKIPPED.fetch_add(skipped + 1, Ordering::Relaxed);
        } else if !write_within(bytes, MAX_LOG_WRITE) {
            SKIPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
