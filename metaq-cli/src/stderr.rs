//! Standard error: messages, the progress and the log. None of it ends the program or holds it up for long.

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

use crate::EXIT_FAILED;

/// How long a message may take to be written. Whoever reads stderr may have stopped, and signals have to be heard.
const MAX_WRITE: Duration = Duration::from_secs(1);

/// A message could not be written in time; nothing more is tried.
static IS_STUCK: AtomicBool = AtomicBool::new(false);

/// Prints an error and its causes in one line; returns the exit status for it.
pub(crate) fn complain(what: &str, error: &dyn Error) -> u8 {
    say(&format!("{what}: {}", describe(error)));
    EXIT_FAILED
}

/// Prints a message in one line. Waits for that at most [`MAX_WRITE`].
pub(crate) fn say(text: &str) {
    if IS_STUCK.load(Ordering::Relaxed) {
        return;
    }
    let line: Arc<str> = format!("metaq: {text}\n").into();
    let (written, is_written) = mpsc::channel();
    let write = {
        let line = Arc::clone(&line);
        move || {
            // A stderr that is gone can't be told about; nor does anybody listen who has given up.
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

/// Shows the progress, unless the terminal takes nothing at the moment.
pub(crate) fn show(text: &str) {
    let stderr = io::stderr();
    let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let takes_text = poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
    if takes_text && !IS_STUCK.load(Ordering::Relaxed) {
        // A terminal that is gone can't be told about.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// An error and its causes in one line.
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

/// Writes the log to stderr, or nowhere when that is full or gone: no failure to log ends anything.
#[derive(Debug)]
pub(crate) struct LogWriter;

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // There is nobody to report it to.
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}
