//! Reading around damaged parts of the store.

use std::io;

use super::{Writer, batch::Batch};
use crate::{
    events::SpoolEvent,
    storage::{
        rows::{QueueRow, StateRow},
        salvage::{next_readable, salvage},
        writer::open::find,
    },
    store::{Damaged, Key, Limit, Rows},
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

    /// Has the queue begin behind the damaged part at its beginning.
    fn skip_damage(&mut self, queue: u32, from: u64) -> io::Result<()> {
        let Some(state) = self.queues.get(&queue) else { return Ok(()) };
        let (end, held, held_bytes) = (state.row.end.max(from), state.row.messages, state.row.bytes);
        let good = next_readable(&*self.store, |number| Key::message(queue, number), from, end);
        let (left, bytes) = self.count(queue, good);
        let mut batch = Batch::default();
        let row = self.row(&mut batch, queue);
        (row.first, row.messages, row.bytes) = (good, left, bytes);
        batch.lose(queue, held.saturating_sub(left), held_bytes.saturating_sub(bytes));
        self.commit_loss(queue, batch)
    }

    /// Counts as damaged what a queue should hold, and does not.
    pub(super) fn lose_missing(&mut self, queue: u32) -> io::Result<()> {
        let mut batch = Batch::default();
        let row = self.row(&mut batch, queue);
        let (count, bytes) = (row.messages, row.bytes);
        (row.messages, row.bytes) = (0, 0);
        batch.lose(queue, count, bytes);
        self.commit_loss(queue, batch)
    }

    fn commit_loss(&mut self, queue: u32, batch: Batch) -> io::Result<()> {
        let count = batch.damaged;
        self.commit(batch)?;
        if let Some(state) = self.queues.get(&queue) {
            let topic = state.queue.key.topic.clone();
            self.common.events.send(SpoolEvent::Damaged { topic, count });
        }
        Ok(())
    }

    /// Begins with a new file, which has the messages that can be read of the old one.
    pub(super) fn rebuild(&mut self, error: &io::Error) -> io::Result<()> {
        let Some(Damaged { path, store }) = self.store.begin_anew()? else { return Ok(()) };
        let salvaged = match store {
            Ok(damaged) => salvage(&*damaged, &mut *self.store)?,
            Err(_) => 0,
        };
        let found = find(&*self.store)?;
        let (mut lost, mut bytes) = (0, 0);
        for (id, state) in &mut self.queues {
            let row = found.queues.iter().find(|(found, _)| found == id).map(|(_, row)| row.clone());
            let row = row.unwrap_or_else(|| QueueRow::new(state.row.key.clone(), state.row.first));
            let gone = state.row.messages.saturating_sub(row.messages);
            state.queue.remove(gone);
            lost += gone;
            bytes += row.bytes;
            state.row = row;
        }
        self.common.ledger.update(|counts| {
            counts.damaged += lost;
            counts.waiting -= lost;
            counts.waiting_bytes = bytes;
            (counts.held_aside, counts.held_aside_bytes) = (found.held_aside, found.held_aside_bytes);
        });
        let next_number = self.state.next_number.max(found.state.next_number);
        self.state = StateRow { next_number, window: self.state.window, ..found.state };
        self.is_broken = false;
        let event = SpoolEvent::FileSetAside { path, reason: error.to_string(), salvaged };
        self.common.events.send(event);
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
