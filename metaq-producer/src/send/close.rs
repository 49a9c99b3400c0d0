//! The account of what happens to messages while a producer is being closed.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{Message, Outcome};

/// The outcomes of messages while a producer was being closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// The number of messages that were acknowledged meanwhile.
    pub acknowledged: u64,
    /// The number of messages that a broker refused meanwhile.
    pub rejected: u64,
    /// The number of messages that may be stored: they were written, and their answer had not come when the
    /// time was up.
    pub unknown: u64,
    /// Those that were not sent, and are certainly not stored. Their handles complete likewise.
    pub unsent: Vec<Message>,
}

#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// Whether anybody asks.
    is_on: AtomicBool,
    began: OnceLock<Instant>,
    report: Mutex<CloseReport>,
}

impl Closing {
    /// From now on what happens is written down.
    pub(crate) fn begin(&self) {
        self.began.get_or_init(Instant::now);
        self.is_on.store(true, Ordering::Release);
    }

    /// The time since it began.
    pub(crate) fn elapsed(&self) -> Option<Duration> {
        self.began.get().map(Instant::elapsed)
    }

    /// A message has its outcome.
    pub(crate) fn ended(&self, outcome: Result<(), Outcome>, message: &Message) {
        if !self.is_on.load(Ordering::Acquire) {
            return;
        }
        let mut report = self.report.lock();
        match outcome {
            Ok(()) => report.acknowledged += 1,
            Err(Outcome::Rejected) => report.rejected += 1,
            Err(Outcome::Unknown) => report.unknown += 1,
            Err(Outcome::NotSent) => report.unsent.push(message.clone()),
        }
    }

    pub(crate) fn report(&self) -> CloseReport {
        std::mem::take(&mut *self.report.lock())
    }
}
