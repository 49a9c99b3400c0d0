//! The memory of a connection's earlier attempts.

use std::time::Duration;

use super::backoff::Backoff;
use crate::ConnectionConfig;

/// The results of earlier attempts and streams that influence the next ones.
pub(crate) struct DialHistory {
    pub(super) backoff: Backoff,
    /// The duration of the fastest attempt that succeeded.
    pub(super) fastest: Option<Duration>,
    /// Set once it was logged that the broker can't be reached.
    pub(super) logged_unreachable: bool,
    /// The number of replaced connections in a row on which nothing but heartbeats was answered.
    pub(super) futile_replacements: u32,
}

impl DialHistory {
    pub(crate) fn new(config: &ConnectionConfig) -> Self {
        Self {
            backoff: Backoff::new(config.initial_backoff, config.max_backoff),
            fastest: None,
            logged_unreachable: false,
            futile_replacements: 0,
        }
    }

    /// Returns the backoff before the next attempt, counting one more failure.
    pub(crate) fn next_delay(&mut self) -> Duration {
        self.backoff.next_delay()
    }

    /// Records that a connection was replaced, and whether requests were answered on it.
    pub(crate) fn record_replacement(&mut self, any_answered: bool) {
        self.futile_replacements = if any_answered { 0 } else { self.futile_replacements.saturating_add(1) };
    }
}
