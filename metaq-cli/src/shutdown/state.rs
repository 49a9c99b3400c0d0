//! The state of a shutdown: the signals received so far, and the deadline.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::StopSignals;

/// Extra time to write results that arrived just before the deadline.
const GRACE: Duration = Duration::from_millis(250);

/// Cap on the time limit, so that a deadline can be computed: a year.
const MAX_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Requests to stop received so far. The first signal asks for an orderly shutdown within a time limit, the
/// second one for an immediate exit.
#[derive(Debug)]
pub(crate) struct Shutdown {
    signals: StopSignals,
    limit: Duration,
    /// The exit status of the latest signal.
    status: Option<u8>,
    /// The end of the orderly shutdown; set by the first signal.
    deadline: Option<Instant>,
    is_forced: bool,
}

impl Shutdown {
    /// `limit` is the time that the first signal leaves.
    pub(crate) fn new(signals: StopSignals, limit: Duration) -> Self {
        Self { signals, limit: limit.min(MAX_LIMIT), status: None, deadline: None, is_forced: false }
    }

    /// Returns the exit status of the latest signal, if any has arrived.
    pub(crate) fn status(&self) -> Option<u8> {
        self.status
    }

    /// Returns whether a second signal has arrived.
    pub(crate) fn is_forced(&self) -> bool {
        self.is_forced
    }

    /// Waits for the next signal, and returns its exit status.
    ///
    /// # Cancel safety
    /// No signal is lost when the future is dropped.
    pub(crate) async fn signal(&mut self) -> u8 {
        let status = self.signals.next().await;
        self.is_forced = self.status.replace(status).is_some();
        self.deadline.get_or_insert_with(|| Instant::now() + self.limit + GRACE);
        status
    }

    /// Moves a close deadline so that results known only now can still be written.
    pub(crate) fn extend_deadline_for_writing(&mut self) {
        self.deadline = self.deadline.map(|deadline| deadline.max(Instant::now() + GRACE));
    }

    /// Returns `time`, or the time until the deadline if that is shorter.
    pub(crate) fn remaining_of(&self, time: Duration) -> Duration {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        self.deadline.map_or(time, |deadline| time.min(left(deadline)))
    }

    /// Waits for a future until a second signal arrives; the first one only sets the exit status. Returns
    /// `None` if the future has not completed.
    pub(crate) async fn unless_forced<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.forced() => None,
        }
    }

    /// Waits for a future until the deadline that the first signal sets, or until a second signal. Returns
    /// `None` if the future has not completed.
    pub(crate) async fn before_deadline<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.past_deadline() => None,
        }
    }

    async fn forced(&mut self) {
        while !self.is_forced {
            self.signal().await;
        }
    }

    async fn past_deadline(&mut self) {
        while !self.is_forced {
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
