//! Dropping of messages that are too old, or in the way of new ones.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
};

use super::{
    Writer,
    batch::{Batch, Dropped},
};
use crate::{
    events::DropReason,
    store::{Key, Limit, Rows},
};

/// The rows of a queue that are looked at together, to find the oldest of all queues.
const PORTION: Limit = Limit { rows: 64, bytes: 1 << 20 };

/// The most messages that are dropped by one commit.
const AT_ONCE: u64 = 10_000;

/// The first messages of a queue that are not dropped: their numbers, and the lengths of their rows.
type Heads = VecDeque<(u64, u64)>;

impl Writer {
    /// Drops what is above the bounds, if that is what the spool does when it is full.
    pub(super) fn make_space(&mut self) {
        loop {
            let mut batch = Batch::default();
            self.drop_oldest(&mut batch);
            if batch.dropped == 0 {
                return;
            }
            if let Err(error) = self.commit(batch) {
                return self.store_failed(&error);
            }
        }
    }

    /// Adds the removal of the oldest messages of all queues to a batch: as many as would be too much after
    /// it.
    pub(super) fn drop_oldest(&mut self, batch: &mut Batch) {
        if !self.common.drops_oldest {
            return;
        }
        let (mut messages, mut bytes) = batch.excess(&self.common.ledger);
        if messages == 0 && bytes == 0 || self.mend().is_err() {
            return;
        }
        let filled = self.queues.iter().filter(|(_, state)| state.row.messages > 0);
        let filled: Vec<_> = filled.map(|(id, state)| (*id, state.row.first)).collect();
        let mut oldest = BTreeMap::new();
        for (queue, first) in filled {
            self.add_heads(&mut oldest, queue, first);
        }
        while (messages > 0 || bytes > 0) && batch.dropped < AT_ONCE {
            let Some((number, (queue, mut heads, len))) = oldest.pop_first() else { return };
            // One that only waits for its removal is no loss, and one that is moved may be dropped there.
            if !self.is_leaving(queue, number) {
                self.add_drop(batch, queue, number, len, DropReason::Full);
                (messages, bytes) = (messages.saturating_sub(1), bytes.saturating_sub(len));
            }
            match heads.pop_front() {
                Some((next, len)) => _ = oldest.insert(next, (queue, heads, len)),
                None => self.add_heads(&mut oldest, queue, number + 1),
            }
        }
    }

    /// Reads the first messages of a queue from a number on. Those that can't be read now are not dropped
    /// now.
    fn add_heads(&self, oldest: &mut BTreeMap<u64, (u32, Heads, u64)>, queue: u32, from: u64) {
        let rows = self.store.scan(Key::messages(queue, from), PORTION).unwrap_or_default();
        let mut heads: Heads = rows
            .iter()
            .filter(|(key, _)| key.number >= from)
            .map(|(key, row)| (key.number, row.len() as u64))
            .collect();
        if let Some((first, len)) = heads.pop_front() {
            oldest.insert(first, (queue, heads, len));
        }
    }

    fn add_drop(&self, batch: &mut Batch, queue: u32, number: u64, len: u64, reason: DropReason) {
        self.remove(batch, queue, number, len);
        batch.dropped += 1;
        let dropped = batch.drops.entry(queue).or_insert(Dropped { count: 0, below: 0, reason });
        dropped.count += 1;
        dropped.below = dropped.below.max(number + 1);
    }

    /// Drops messages at the beginning of a queue, and returns their number.
    pub(super) fn drop_rows(&mut self, queue: u32, rows: &Rows, reason: DropReason) -> io::Result<u64> {
        // Rows are computed from what the store has.
        self.mend()?;
        let mut batch = Batch::default();
        for (key, row) in rows {
            // One that only waits for its removal is no loss, and one that is moved may be dropped there.
            if !self.is_leaving(queue, key.number) {
                self.add_drop(&mut batch, queue, key.number, row.len() as u64, reason);
            }
        }
        let count = batch.dropped;
        if count == 0 {
            return Ok(0);
        }
        if let Err(error) = self.commit(batch) {
            self.store_failed(&error);
            return Err(error);
        }
        Ok(count)
    }
}
