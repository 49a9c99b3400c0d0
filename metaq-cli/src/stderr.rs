//! Standard error: messages and log. A failure to write there neither ends the program nor blocks
//! it for long.

use std::{
    error::Error,
    fmt::Write as _,
    io::{self, Write as _},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::exit_status::EXIT_FAILED;

/// Limit on writing one message. The reader of stderr may have stopped, and the program must still react to
/// signals.
const MAX_WRITE: Duration = Duration::from_secs(1);

/// Set when a message could not be written in time; later ones are skipped.
static IS_STUCK: AtomicBool = AtomicBool::new(false);

/// Prints an error and its causes in one line after `context`; returns the exit status of a failure.
pub(crate) fn print_error(context: &str, error: &dyn Error) -> u8 {
    print_message(&format!("{context}: {}", describe(error)));
    EXIT_FAILED
}

/// Prints a message in one line. Blocks for at most [`MAX_WRITE`].
pub(crate) fn print_message(text: &str) {
    if IS_STUCK.load(Ordering::Relaxed) {
        return;
    }
    let line: Arc<str> = format!("metaq: {text}\n").into();
    let (written, is_written) = mpsc::channel();
    let write = {
        let line = Arc::clone(&line);
        move || {
            // Neither failure can be reported: stderr is closed, or the caller has given up waiting.
            let _ = io::stderr().write_all(line.as_bytes());
            let _ = written.send(());
        }
    };
    if thread::Builder::new().name("stderr".to_owned()).spawn(write).is_err() {
        let _ = io::stderr().write_all(line.as_bytes());
    } else if is_written.recv_timeout(MAX_WRITE) == Err(mpsc::RecvTimeoutError::Timeout) {
        IS_STUCK.store(true, Ordering::Relaxed);
    }
}

/// Returns whether stderr accepts text without blocking. A stopped terminal doesn't.
pub(crate) fn accepts_text() -> bool {
    let stderr = io::stderr();
    let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) && !IS_STUCK.load(Ordering::Relaxed)
}

/// Formats an error and its causes in one line.
pub(crate) fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string can't fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// Writes the log to stderr, and discards it when stderr is full or closed: a failure to log ends nothing.
#[derive(Debug)]
pub(crate) struct LogWriter;

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // There is no other place to report a failure.
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}
