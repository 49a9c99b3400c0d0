//! The log of a run: what the simulation did and saw, and the events of the crates, with the time of the
//! paused clock before each line. Two runs are the same if their logs are.

use std::{cell::RefCell, fmt, io, sync::Once};

use tokio::time::Instant;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// The log of this thread's run; a run has one thread.
struct Log {
    started: Instant,
    lines: Vec<String>,
}

thread_local! {
    static LOG: RefCell<Option<Log>> = const { RefCell::new(None) };
}

/// Begins the log of a run, whose clock is paused already.
pub(super) fn begin() {
    static EVENTS: Once = Once::new();
    // For the whole process: with a subscriber for each thread one run could have the events of another
    // switched off.
    EVENTS.call_once(|| {
        let events = tracing_subscriber::fmt().with_writer(Events).without_time().with_ansi(false);
        events.with_env_filter(EnvFilter::new("metaq_spool=trace,metaq_producer=trace")).init();
    });
    LOG.set(Some(Log { started: Instant::now(), lines: Vec::new() }));
}

/// Adds a line.
pub(super) fn note(what: impl fmt::Display) {
    LOG.with_borrow_mut(|log| {
        if let Some(log) = log {
            log.lines.push(format!("{:>14?} {what}", log.started.elapsed()));
        }
    });
}

/// Ends the log of this thread's run, whether the run has ended well or not.
pub(super) fn end() -> Vec<String> {
    LOG.take().map(|log| log.lines).unwrap_or_default()
}

/// Writes events into the log of the thread that they happen on.
struct Events;

impl MakeWriter<'_> for Events {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl io::Write for Events {
    /// Is given whole events.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        note(String::from_utf8_lossy(event).trim());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
