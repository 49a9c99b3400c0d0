//! Counts of what became of events.

use std::sync::atomic::{AtomicU64, Ordering};

use metaq_producer::Outcome;

/// The counts of a layer since it was built.
///
/// Every event that was offered is sent, dropped, failed, or buffered: `offered` is the sum of the others
/// whenever no event is being logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerStats {
    /// The events that reached the layer. Those of targets that are left out, and those that the layer's own
    /// thread logs, are not among them.
    pub offered: u64,
    /// The events that a broker has acknowledged.
    pub sent: u64,
    /// The events that were never handed to the producer, or taken back from it, by the reason.
    pub dropped: DroppedEvents,
    /// The events that the producer could not send, by their outcome.
    pub failed: FailedEvents,
    /// The events that are buffered now, those that are being sent included.
    pub buffered: u64,
    /// The bytes that the buffered events take, in memory.
    pub buffered_bytes: u64,
    /// The events among those offered of which the JSON does not say everything, because they are longer than
    /// [`max_event_bytes`](crate::MetaqLayerBuilder::max_event_bytes).
    pub truncated: u64,
    /// The fields whose `Debug` implementation panicked. The event or the span has a text in their place.
    pub panicked_fields: u64,
}

/// Counts of events that were dropped, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DroppedEvents {
    /// The buffer was full: the event did not fit, or it had waited for a partition that takes no events, and
    /// gave way to another one.
    pub full: u64,
    /// The event was logged while the layer was at work on the same thread, by the `Debug` implementation of
    /// another event's field.
    pub nested: u64,
    /// The event was logged after the shutdown had begun.
    pub closed: u64,
    /// The event was still waiting at the end of the shutdown, and is certainly not stored.
    pub shutdown: u64,
}

impl DroppedEvents {
    /// The sum.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.full + self.nested + self.closed + self.shutdown
    }
}

/// Counts of events that the producer could not send, by their outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedEvents {
    /// The event is certainly not stored, and to send it again would not help: the selector or an interceptor
    /// refuses it, or it is larger than the producer sends.
    pub not_sent: u64,
    /// A broker refused the event.
    pub rejected: u64,
    /// The event may be stored: the connection was lost, or the time was over, before the answer came.
    pub unknown: u64,
}

impl FailedEvents {
    /// The sum.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.not_sent + self.rejected + self.unknown
    }
}

/// A count that many threads increase.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts as they are kept.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) offered: Count,
    pub(crate) sent: Count,
    pub(crate) full: Count,
    pub(crate) nested: Count,
    pub(crate) closed: Count,
    pub(crate) shutdown: Count,
    pub(crate) not_sent: Count,
    pub(crate) rejected: Count,
    pub(crate) unknown: Count,
    pub(crate) truncated: Count,
    pub(crate) panicked_fields: Count,
}

impl Counts {
    pub(crate) fn failed(&self, outcome: Outcome) -> &Count {
        match outcome {
            Outcome::NotSent => &self.not_sent,
            Outcome::Rejected => &self.rejected,
            Outcome::Unknown => &self.unknown,
        }
    }

    /// The counts, without what is buffered.
    pub(crate) fn snapshot(&self) -> LayerStats {
        LayerStats {
            offered: self.offered.get(),
            sent: self.sent.get(),
            dropped: DroppedEvents {
                full: self.full.get(),
                nested: self.nested.get(),
                closed: self.closed.get(),
                shutdown: self.shutdown.get(),
            },
            failed: FailedEvents {
                not_sent: self.not_sent.get(),
                rejected: self.rejected.get(),
                unknown: self.unknown.get(),
            },
            buffered: 0,
            buffered_bytes: 0,
            truncated: self.truncated.get(),
            panicked_fields: self.panicked_fields.get(),
        }
    }
}
