//! Events between the threads that log them and the one that sends them.
//!
//! What is held is counted from the moment at which an event is accepted until it has its outcome, so the
//! limits are those of everything that the layer keeps in memory.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use metaq_producer::Outcome;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    json::Formatted,
    stats::{Counts, LayerStats},
};

/// The limits of what is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// An event that waits to be sent.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its place in the order in which events came.
    number: u64,
    pub(crate) payload: Bytes,
    pub(crate) key: Option<Bytes>,
}

/// The memory of an event besides its text and its key: the entry, and what allocators take.
const OVERHEAD: usize = size_of::<Entry>() + 64;

impl Entry {
    fn cost(&self) -> usize {
        Buffer::cost_of(self.payload.len() + self.key.as_ref().map_or(0, Bytes::len))
    }
}

#[derive(Debug)]
pub(crate) struct Buffer {
    limits: Limits,
    waiting: Mutex<Waiting>,
    /// The numbers of what is held, changed under the lock.
    events: AtomicUsize,
    bytes: AtomicUsize,
    is_closed: AtomicBool,
    /// Notified when an event comes and none was waiting, and when the buffer is closed.
    pub(crate) changed: Notify,
    pub(crate) counts: Counts,
}

#[derive(Debug, Default)]
struct Waiting {
    /// By their numbers.
    entries: VecDeque<Entry>,
    next: u64,
}

impl Buffer {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            waiting: Mutex::default(),
            events: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
            changed: Notify::new(),
            counts: Counts::default(),
        }
    }

    /// The memory that an event takes whose text and key have these bytes.
    pub(crate) fn cost_of(bytes: usize) -> usize {
        bytes + OVERHEAD
    }

    /// Takes an event, which is written only if there may be capacity for it, or counts it as dropped.
    pub(crate) fn offer(&self, write: impl FnOnce() -> (Formatted, Option<Bytes>)) {
        self.counts.offered.add(1);
        if self.is_closed() {
            return self.counts.closed.add(1);
        }
        // While brokers are away an event costs its thread no more than this.
        if !self.has_capacity(OVERHEAD) {
            return self.counts.full.add(1);
        }
        let (Formatted { mut text, is_truncated, panics }, key) = write();
        self.counts.truncated.add(is_truncated.into());
        self.counts.panicked_fields.add(panics);
        text.shrink_to_fit();
        let mut entry = Entry { number: 0, payload: text.into(), key };
        let mut waiting = self.waiting.lock();
        if self.is_closed() {
            drop(waiting);
            return self.counts.closed.add(1);
        }
        let cost = entry.cost();
        if !self.has_capacity(cost) {
            drop(waiting);
            return self.counts.full.add(1);
        }
        self.events.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(cost, Ordering::Relaxed);
        entry.number = waiting.next;
        waiting.next += 1;
        waiting.entries.push_back(entry);
        let is_first = waiting.entries.len() == 1;
        drop(waiting);
        if is_first {
            self.changed.notify_one();
        }
    }

    fn has_capacity(&self, cost: usize) -> bool {
        self.events.load(Ordering::Relaxed) < self.limits.events
            && self.bytes.load(Ordering::Relaxed).saturating_add(cost) <= self.limits.bytes
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Takes no further events.
    pub(crate) fn close(&self) {
        // Under the lock, so that what comes later is seen as closed.
        let waiting = self.waiting.lock();
        self.is_closed.store(true, Ordering::Release);
        drop(waiting);
        self.changed.notify_one();
    }

    /// Whether nothing is held, what is being sent included.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.load(Ordering::Relaxed) == 0
    }

    /// Takes the oldest event out, to send it.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Taken> {
        let entry = self.waiting.lock().entries.pop_front()?;
        Some(Taken { entry: Some(entry), buffer: Arc::clone(self) })
    }

    /// Counts everything that waits as dropped at the shutdown.
    pub(crate) fn drop_waiting(&self) {
        let entries = mem::take(&mut self.waiting.lock().entries);
        self.counts.shutdown.add(entries.len() as u64);
        entries.iter().for_each(|entry| self.release(entry.cost()));
    }

    fn release(&self, cost: usize) {
        self.events.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(cost, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> LayerStats {
        let mut stats = self.counts.snapshot();
        stats.buffered = self.events.load(Ordering::Relaxed) as u64;
        stats.buffered_bytes = self.bytes.load(Ordering::Relaxed) as u64;
        stats
    }
}

/// Reads the counts of a layer, for instance for an exporter of metrics. Cheap to clone; it keeps neither the
/// layer nor its thread.
#[derive(Clone, Debug)]
pub struct StatsHandle {
    pub(crate) buffer: Arc<Buffer>,
}

impl StatsHandle {
    /// The counts by now.
    #[must_use]
    pub fn stats(&self) -> LayerStats {
        self.buffer.stats()
    }
}

/// An event that is being sent. If it is dropped, its outcome is unknown.
#[derive(Debug)]
pub(crate) struct Taken {
    entry: Option<Entry>,
    buffer: Arc<Buffer>,
}

impl Taken {
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
        let mut waiting = self.buffer.waiting.lock();
        let place = waiting.entries.partition_point(|other| other.number < entry.number);
        waiting.entries.insert(place, entry);
    }

    fn end(&mut self, count: impl FnOnce(&Buffer)) {
        if let Some(entry) = self.entry.take() {
            // Counted first: for those who look meanwhile it is still held.
            count(&self.buffer);
            self.buffer.release(entry.cost());
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.end(|buffer| buffer.counts.unknown.add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(buffer: &Buffer, text: &str) {
        let formatted = Formatted { text: text.into(), is_truncated: false, panics: 0 };
        buffer.offer(|| (formatted, None));
    }

    fn buffer(events: usize, bytes: usize) -> Arc<Buffer> {
        Arc::new(Buffer::new(Limits { events, bytes }))
    }

    fn take(buffer: &Arc<Buffer>) -> Taken {
        buffer.take().unwrap()
    }

    fn balances(buffer: &Buffer) -> LayerStats {
        let stats = buffer.stats();
        let sum = stats.sent + stats.dropped.total() + stats.failed.total() + stats.buffered;
        assert_eq!(stats.offered, sum, "{stats:?}");
        stats
    }

    #[test]
    fn what_is_being_sent_counts_until_its_outcome() {
        let buffer = buffer(2, 1 << 20);
        offer(&buffer, "one");
        offer(&buffer, "two");
        let one = take(&buffer);
        offer(&buffer, "three");
        assert_eq!(balances(&buffer).dropped.full, 1);
        one.sent();
        offer(&buffer, "four");
        assert_eq!((balances(&buffer).buffered, balances(&buffer).sent), (2, 1));
        take(&buffer).failed(Outcome::Rejected);
        drop(take(&buffer));
        let stats = balances(&buffer);
        assert_eq!((stats.failed.rejected, stats.failed.unknown, stats.buffered_bytes), (1, 1, 0));
    }

    #[test]
    fn bytes_are_limited() {
        let buffer = buffer(1000, 3 * (OVERHEAD + 100));
        for _ in 0..5 {
            offer(&buffer, &"x".repeat(100));
        }
        assert_eq!((balances(&buffer).buffered, balances(&buffer).dropped.full), (3, 2));
        // One that would fit alone doesn't beside others.
        take(&buffer).sent();
        offer(&buffer, &"x".repeat(101));
        assert_eq!(balances(&buffer).dropped.full, 3);
    }

    #[test]
    fn what_is_put_back_keeps_its_place() {
        let buffer = buffer(10, 1 << 20);
        ["a", "b", "c", "d"].iter().for_each(|text| offer(&buffer, text));
        let taken: Vec<_> = (0..3).map(|_| take(&buffer)).collect();
        taken.into_iter().rev().for_each(Taken::put_back);
        for expected in ["a", "b", "c", "d"] {
            let taken = take(&buffer);
            assert_eq!(taken.content().0, expected);
            taken.sent();
        }
        assert_eq!(balances(&buffer).sent, 4);
    }

    #[test]
    fn nothing_is_taken_after_the_end() {
        let buffer = buffer(10, 1 << 20);
        offer(&buffer, "one");
        buffer.close();
        offer(&buffer, "two");
        buffer.offer(|| panic!("what is dropped is not written"));
        buffer.drop_waiting();
        let stats = balances(&buffer);
        assert_eq!((stats.dropped.closed, stats.dropped.shutdown, stats.buffered), (2, 1, 0));
    }
}
