//! Reading around damaged parts of the store.

use std::io;

use super::{Writer, batch::Batch};
use crate::{
    events::SpoolEvent,
    store::{Key, Limit, Rows},
};

/// The most rows that are read one by one before a damaged part.
const ROWS: usize = 256;

/// The rows that are counted at a time.
const PORTION: Limit = Limit { rows: 10_000, bytes: 16 << 20 };

impl Writer {
    /// The messages before the damaged part. When there are none, skips that part for good, and returns those
    /// behind it.
    pub(super) fn read_damaged(&mut self, queue: u32, from: u64, limit: Limit) -> io::Result<Rows> {
        let mut before = Rows::new();
        let mut next = from;
        while before.len() < limit.rows.min(ROWS) {
            match self.store.scan(Key::messages(queue, next), Limit::ONE) {
                Ok(mut row) => match row.pop() {
                    Some((key, row)) => {
                        next = key.number + 1;
                        before.push((key, row));
                    }
                    None => break,
                },
                Err(_) => break,
            }
        }
        let is_at_head = self.queues.get(&queue).is_some_and(|state| from <= state.row.first);
        // What is before it is replayed and removed first, which a new round of replay finds at the head.
        if !before.is_empty() || !is_at_head {
            return Ok(before);
        }
        self.skip_damage(queue, from)?;
        let first = self.queues.get(&queue).map_or(from, |state| state.row.first);
        self.store.scan(Key::messages(queue, first), limit)
    }

    fn is_readable(&self, queue: u32, from: u64) -> bool {
        self.store.scan(Key::messages(queue, from), Limit::ONE).is_ok()
    }

    /// Has the queue begin behind the damaged part at its beginning.
    fn skip_damage(&mut self, queue: u32, from: u64) -> io::Result<()> {
        let Some(state) = self.queues.get(&queue) else { return Ok(()) };
        let (end, held) = (state.row.end.max(from), state.row.messages);
        // Steps that double, then halves, since every try costs a read.
        let (mut bad, mut step) = (from, 1);
        let mut good = loop {
            let next = from.saturating_add(step).min(end);
            if next == end || self.is_readable(queue, next) {
                break next;
            }
            (bad, step) = (next, step.saturating_mul(2));
        };
        while bad + 1 < good {
            let middle = bad + (good - bad) / 2;
            if self.is_readable(queue, middle) { good = middle } else { bad = middle }
        }
        let (left, bytes) = self.count(queue, good);
        let mut batch = Batch::default();
        let row = self.row(&mut batch, queue);
        (row.first, row.messages, row.bytes) = (good, left, bytes);
        let lost = held.saturating_sub(left);
        batch.lose(queue, lost);
        self.commit(batch)?;
        if let Some(state) = self.queues.get(&queue) {
            let topic = state.queue.key.topic.clone();
            self.common.events.send(SpoolEvent::Damaged { topic, count: lost });
        }
        Ok(())
    }

    /// The messages and bytes from a number on that can be read.
    fn count(&self, queue: u32, mut from: u64) -> (u64, u64) {
        let (mut messages, mut bytes) = (0, 0);
        while let Ok(rows) = self.store.scan(Key::messages(queue, from), PORTION) {
            let Some((last, _)) = rows.last() else { break };
            from = last.number + 1;
            messages += rows.len() as u64;
            bytes += rows.iter().map(|(_, row)| row.len() as u64).sum::<u64>();
        }
        (messages, bytes)
    }
}
