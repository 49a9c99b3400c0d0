//! Counting of transactions and their messages.

use std::{
    mem,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use metaq_protocol::Partition;
use metaq_transport::{PendingResponse, Progress};
use tokio::time::Instant;

use super::TransactionOutcome;
use crate::branch::StepError;
use crate::{
    Outcome,
    stats::counts::{TopicBrokerCounts, TopicCounts, TransactionTotals},
};

/// A message of a transaction, as the statistics count it: offered once, and ended once, whatever becomes of
/// it.
///
/// Dropped before it was handed to a connection, it counts as not sent; after that as unknown, since the
/// caller didn't read its answer.
#[derive(Debug)]
pub(crate) struct CountedMessage {
    counts: Arc<TopicCounts>,
    offered_at: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Queued,
    InFlight(Arc<TopicBrokerCounts>),
    Ended,
}

impl CountedMessage {
    /// Counts a message that was offered and waits.
    pub(super) fn offered(counts: &Arc<TopicCounts>) -> Self {
        counts.offered.fetch_add(1, Relaxed);
        counts.queued.fetch_add(1, Relaxed);
        Self { counts: Arc::clone(counts), offered_at: Instant::now(), stage: Stage::Queued }
    }

    /// It was handed to a connection of the broker whose counts these are.
    pub(crate) fn submitted(&mut self, topic_broker: Arc<TopicBrokerCounts>) {
        if let Stage::Queued = mem::replace(&mut self.stage, Stage::InFlight(topic_broker)) {
            self.counts.queued.fetch_sub(1, Relaxed);
        }
    }

    /// The broker took it, as its answer that was read at `received_at` says.
    fn acknowledged(mut self, received_at: Instant) {
        if let Stage::InFlight(topic_broker) = mem::replace(&mut self.stage, Stage::Ended) {
            topic_broker.latencies.record(received_at.saturating_duration_since(self.offered_at));
        }
    }

    /// It was not acknowledged.
    pub(crate) fn failed(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    fn end(&mut self, outcome: Outcome) {
        match mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Queued => {
                self.counts.queued.fetch_sub(1, Relaxed);
                self.counts.failed(outcome, None);
            }
            Stage::InFlight(topic_broker) => self.counts.failed(outcome, Some(&topic_broker)),
            Stage::Ended => {}
        }
    }
}

impl Drop for CountedMessage {
    fn drop(&mut self) {
        self.end(match self.stage {
            Stage::Queued => Outcome::NotSent,
            _ => Outcome::Unknown,
        });
    }
}

/// A message of a transaction that awaits its answer.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) partition: Partition,
    pub(crate) answer: PendingResponse,
    pub(crate) counted: CountedMessage,
}

impl Put {
    /// Counts the message as ended by `step`, or as acknowledged at the given time.
    pub(crate) fn count(self, outcome: Result<Instant, &StepError>) {
        match outcome {
            Ok(received_at) => self.counted.acknowledged(received_at),
            Err(step) => self.counted.failed(step.outcome()),
        }
    }
}

impl StepError {
    /// The outcome of a message by its error.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Refused(..) => Outcome::Rejected,
            Self::NoAnswer(error) if error.progress() == Progress::NotWritten => Outcome::NotSent,
            Self::NoRuntime => Outcome::NotSent,
            Self::NoAnswer(_) | Self::Odd(_) => Outcome::Unknown,
        }
    }
}

/// A local transaction, as the statistics count it. It is rolled back unless something else is said.
#[derive(Debug)]
pub(super) struct CountedTransaction {
    totals: Arc<TransactionTotals>,
    outcome: Option<TransactionOutcome>,
}

impl CountedTransaction {
    pub(super) fn begun(totals: &Arc<TransactionTotals>) -> Self {
        totals.begun.fetch_add(1, Relaxed);
        Self { totals: Arc::clone(totals), outcome: Some(TransactionOutcome::RolledBack) }
    }

    pub(super) fn committed(mut self) {
        self.outcome = None;
    }

    pub(super) fn unknown(mut self) {
        self.outcome = Some(TransactionOutcome::Unknown);
    }
}

impl Drop for CountedTransaction {
    fn drop(&mut self) {
        match self.outcome {
            None => &self.totals.committed,
            Some(TransactionOutcome::Unknown) => &self.totals.unknown,
            Some(_) => &self.totals.rolled_back,
        }
        .fetch_add(1, Relaxed);
    }
}
