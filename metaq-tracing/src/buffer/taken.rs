//! Events that are being sent.

use std::sync::Arc;

use bytes::Bytes;
use metaq_producer::Outcome;

use super::{Buffer, Entry};

/// An event that is being sent. If it is dropped, its outcome is unknown.
#[derive(Debug)]
pub(crate) struct Taken {
    entry: Option<Entry>,
    /// Set if it is sent again after it was delayed.
    is_retried: bool,
    buffer: Arc<Buffer>,
}

impl Taken {
    pub(super) fn new(entry: Entry, is_retried: bool, buffer: &Arc<Buffer>) -> Self {
        Self { entry: Some(entry), is_retried, buffer: Arc::clone(buffer) }
    }

    pub(crate) fn is_retried(&self) -> bool {
        self.is_retried
    }

    /// The text and the key.
    pub(crate) fn content(&self) -> (Bytes, Option<Bytes>) {
        let content = self.entry.as_ref().map(|entry| (entry.payload.clone(), entry.key.clone()));
        content.unwrap_or_default()
    }

    pub(crate) fn sent(mut self) {
        self.end(|buffer| buffer.counts.sent.add(1));
    }

    pub(crate) fn failed(mut self, outcome: Outcome) {
        self.end(|buffer| buffer.counts.failed(outcome).add(1));
    }

    pub(crate) fn dropped_at_shutdown(mut self) {
        self.end(|buffer| buffer.counts.shutdown.add(1));
    }

    /// Has it wait again, in its place.
    pub(crate) fn put_back(mut self) {
        let Some(entry) = self.entry.take() else { return };
        self.ends_retry(entry.cost());
        let mut waiting = self.buffer.waiting.lock();
        let place = waiting.entries.partition_point(|other| other.number < entry.number);
        waiting.entries.insert(place, entry);
    }

    /// Has it wait behind the other delayed events.
    pub(crate) fn delay(mut self) {
        let Some(entry) = self.entry.take() else { return };
        let mut waiting = self.buffer.waiting.lock();
        self.ends_retry(entry.cost());
        self.buffer.delayed.add(entry.cost());
        waiting.delayed.push_back(entry);
    }

    fn ends_retry(&self, cost: usize) {
        if self.is_retried {
            self.buffer.retrying.remove(cost);
        }
    }

    fn end(&mut self, count: impl FnOnce(&Buffer)) {
        if let Some(entry) = self.entry.take() {
            // Counted first: for those who look meanwhile it is still held.
            count(&self.buffer);
            self.ends_retry(entry.cost());
            self.buffer.held.remove(entry.cost());
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.end(|buffer| buffer.counts.unknown.add(1));
    }
}
