//! Events between the threads that log them and the one that sends them.
//!
//! What is held is counted from the moment at which an event is accepted until it has its outcome, so the
//! limits are those of everything that the layer keeps in memory.
//!
//! Events that could not be sent although a broker is connected are delayed: they have a queue of their own,
//! so that they stand before no other, and give way when the buffer is full and they take more than their
//! share.

mod taken;

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

pub(crate) use self::taken::Taken;
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

impl Limits {
    /// The share of delayed events that wait, and of those that are being sent again.
    fn quarter(self) -> Self {
        Self { events: self.events / 4, bytes: self.bytes / 4 }
    }
}

/// The number of some events, and the bytes that they take.
#[derive(Debug, Default)]
struct Load {
    events: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    fn add(&self, cost: usize) {
        self.events.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(cost, Ordering::Relaxed);
    }

    fn remove(&self, cost: usize) {
        self.events.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(cost, Ordering::Relaxed);
    }

    fn events(&self) -> usize {
        self.events.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn has_capacity(&self, limits: Limits, cost: usize) -> bool {
        self.events() < limits.events && self.bytes().saturating_add(cost) <= limits.bytes
    }

    fn exceeds(&self, limits: Limits) -> bool {
        self.events() > limits.events || self.bytes() > limits.bytes
    }
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
    /// Everything that is held, added to under the lock.
    held: Load,
    /// The delayed events that wait, changed under the lock.
    delayed: Load,
    /// The delayed events that are being sent again.
    retrying: Load,
    is_closed: AtomicBool,
    /// Notified when an event comes and none was waiting, and when the buffer is closed.
    pub(crate) changed: Notify,
    pub(crate) counts: Counts,
}

#[derive(Debug, Default)]
struct Waiting {
    /// By their numbers.
    entries: VecDeque<Entry>,
    /// In the order in which they were delayed.
    delayed: VecDeque<Entry>,
    next: u64,
}

impl Buffer {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            waiting: Mutex::default(),
            held: Load::default(),
            delayed: Load::default(),
            retrying: Load::default(),
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
        if !self.held.has_capacity(self.limits, OVERHEAD) && !self.delayed.exceeds(self.limits.quarter()) {
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
        let mut evicted = Vec::new();
        while !self.held.has_capacity(self.limits, cost) {
            let Some(last) = self.evict(&mut waiting) else { break };
            evicted.push(last);
        }
        self.counts.full.add(evicted.len() as u64);
        if !self.held.has_capacity(self.limits, cost) {
            drop(waiting);
            return self.counts.full.add(1);
        }
        self.held.add(cost);
        entry.number = waiting.next;
        waiting.next += 1;
        waiting.entries.push_back(entry);
        let is_first = waiting.entries.len() == 1;
        drop(waiting);
        if is_first {
            self.changed.notify_one();
        }
    }

    /// Removes the delayed event that was tried last, if they take more than their share.
    #[cold]
    fn evict(&self, waiting: &mut Waiting) -> Option<Entry> {
        if !self.delayed.exceeds(self.limits.quarter()) {
            return None;
        }
        let entry = waiting.delayed.pop_back()?;
        self.delayed.remove(entry.cost());
        self.held.remove(entry.cost());
        Some(entry)
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

    /// Returns whether nothing is held, what is being sent included.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.events() == 0
    }

    /// Returns whether events are delayed, those that are being sent again included.
    pub(crate) fn has_delayed(&self) -> bool {
        self.delayed.events() + self.retrying.events() > 0
    }

    /// Takes the oldest event out, to send it.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Taken> {
        let entry = self.waiting.lock().entries.pop_front()?;
        Some(Taken::new(entry, false, self))
    }

    /// Takes the delayed event out that was tried longest ago, unless as many are being sent again as may be.
    pub(crate) fn take_delayed(self: &Arc<Self>) -> Option<Taken> {
        let mut waiting = self.waiting.lock();
        let cost = waiting.delayed.front()?.cost();
        if self.retrying.events() > 0 && !self.retrying.has_capacity(self.limits.quarter(), cost) {
            return None;
        }
        let entry = waiting.delayed.pop_front()?;
        self.delayed.remove(cost);
        self.retrying.add(cost);
        drop(waiting);
        Some(Taken::new(entry, true, self))
    }

    /// Counts everything that waits as dropped at the shutdown.
    pub(crate) fn drop_waiting(&self) {
        let mut waiting = self.waiting.lock();
        let (entries, delayed) = (mem::take(&mut waiting.entries), mem::take(&mut waiting.delayed));
        delayed.iter().for_each(|entry| self.delayed.remove(entry.cost()));
        drop(waiting);
        self.counts.shutdown.add((entries.len() + delayed.len()) as u64);
        entries.iter().chain(&delayed).for_each(|entry| self.held.remove(entry.cost()));
    }

    pub(crate) fn stats(&self) -> LayerStats {
        let mut stats = self.counts.snapshot();
        stats.buffered = self.held.events() as u64;
        stats.buffered_bytes = self.held.bytes() as u64;
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

#[cfg(test)]
mod tests;
