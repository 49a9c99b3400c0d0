//! SIGINT and SIGTERM.

use std::{io, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

/// How long writing may take when what a signal leaves time for has ended just in time.
const GRACE: Duration = Duration::from_millis(250);

/// Longer times are taken for this: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The signals that ask the program to stop.
#[derive(Debug)]
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one; returns the exit status that goes with it.
    ///
    /// # Cancel safety
    /// No signal is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> u8 {
        let exit_status = |kind: SignalKind| 128 + kind.as_raw_value() as u8;
        tokio::select! {
            _ = self.interrupt.recv() => exit_status(SignalKind::interrupt()),
            _ = self.terminate.recv() => exit_status(SignalKind::terminate()),
        }
    }
}

/// What signals have asked for so far. The first one asks the program to end in order, within a time limit; the second one to end
/// at once.
#[derive(Debug)]
pub(crate) struct Stopping {
    signals: StopSignals,
    limit: Duration,
    /// The exit status of the latest signal.
    status: Option<u8>,
    /// When the program has to have ended; set by the first signal.
    deadline: Option<Instant>,
    is_urgent: bool,
}

impl Stopping {
    /// `limit` is what the first signal leaves of time.
    pub(crate) fn new(signals: StopSignals, limit: Duration) -> Self {
        Self { signals, limit: limit.min(LONGEST), status: None, deadline: None, is_urgent: false }
    }

    /// The exit status, once a signal has come.
    pub(crate) fn status(&self) -> Option<u8> {
        self.status
    }

    /// Returns whether a second signal has come.
    pub(crate) fn is_urgent(&self) -> bool {
        self.is_urgent
    }

    /// Waits for the next signal; returns its exit status.
    ///
    /// # Cancel safety
    /// No signal is lost when the future is dropped.
    pub(crate) async fn signal(&mut self) -> u8 {
        let status = self.signals.next().await;
        self.is_urgent = self.status.replace(status).is_some();
        self.deadline.get_or_insert_with(|| Instant::now() + self.limit + GRACE);
        status
    }

    /// Leaves time to write what has just become known, if the deadline is close.
    pub(crate) fn leave_time_to_write(&mut self) {
        self.deadline = self.deadline.map(|deadline| deadline.max(Instant::now() + GRACE));
    }

    /// What is left of `time` before the deadline.
    pub(crate) fn left_of(&self, time: Duration) -> Duration {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        self.deadline.map_or(time, |deadline| time.min(left(deadline)))
    }

    /// Waits for a future until a second signal comes; the first one only sets the exit status. `None` if the future has not
    /// completed.
    pub(crate) async fn unless_urgent<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.urgent() => None,
        }
    }

    /// Waits for a future until a second signal comes, or the deadline that the first one sets. `None` if the future has not
    /// completed.
    pub(crate) async fn in_time<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.out_of_time() => None,
        }
    }

    async fn urgent(&mut self) {
        while !self.is_urgent {
            self.signal().await;
        }
    }

    async fn out_of_time(&mut self) {
        while !self.is_urgent {
            let Some(deadline) = self.deadline else {
                self.signal().await;
                continue;
            };
            tokio::select! {
                biased;
                _ = self.signal() => {}
                () = sleep_until(deadline) => return,
            }
        }
    }
}
