//! Dropping of messages that are too old, or in the way of new ones.

use std::io;

use super::{Writer, batch::Batch};
use crate::{
    events::DropReason,
    store::{Key, Limit, Rows},
};

impl Writer {
    /// Drops the oldest messages, as many as are too much once `more` are added, if that is what the spool
    /// does when it is full.
    pub(super) fn make_space(&mut self, more: u64, more_bytes: u64) {
        if !self.common.drops_oldest {
            return;
        }
        loop {
            let (messages, bytes) = self.common.ledger.excess(more, more_bytes);
            if messages == 0 && bytes == 0 {
                return;
            }
            let Some((queue, mut rows)) = self.oldest() else { return };
            let (mut count, mut freed) = (0, 0);
            for (_, row) in &rows {
                if count >= messages && freed >= bytes {
                    break;
                }
                count += 1;
                freed += row.len() as u64;
            }
            rows.truncate(count as usize);
            if !self.drop_rows(queue, &rows, DropReason::Full).is_ok_and(|dropped| dropped > 0) {
                return;
            }
        }
    }

    /// The oldest messages: some of the queue whose first one has the smallest number, before the first one
    /// of any other queue.
    fn oldest(&mut self) -> Option<(u32, Rows)> {
        self.mend().ok()?;
        let filled = self.queues.iter().filter(|(_, state)| state.row.messages > 0);
        let heads = filled.filter_map(|(id, state)| {
            let head = self.store.scan(Key::messages(*id, state.row.first), Limit::ONE).ok()?;
            Some((head.first()?.0.number, *id))
        });
        let mut heads: Vec<_> = heads.collect();
        heads.sort_unstable();
        let (first, queue) = *heads.first()?;
        let end = heads.get(1).map_or(u64::MAX, |(number, _)| *number);
        let range = Key::message(queue, first)..Key::message(queue, end);
        let rows = self.store.scan(range, Limit { rows: 1024, bytes: 4 << 20 }).ok()?;
        Some((queue, rows))
    }

    /// Drops messages at the beginning of a queue, and returns their number.
    pub(super) fn drop_rows(&mut self, queue: u32, rows: &Rows, reason: DropReason) -> io::Result<u64> {
        // Rows are computed from what the store has.
        self.mend()?;
        let below = rows.last().map_or(0, |(last, _)| last.number + 1);
        let mut batch = Batch::default();
        batch.drops = Some((queue, below, reason));
        for (key, row) in rows {
            // One that only waits for its removal is no loss.
            if !self.unremoved.contains(&(queue, key.number)) {
                self.remove(&mut batch, queue, key.number, row.len() as u64);
                batch.dropped += 1;
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
