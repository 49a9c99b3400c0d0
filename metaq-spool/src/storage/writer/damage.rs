//! A file that turns out to be damaged while it is used.

use std::{io, time::Duration};

use tokio::time::Instant;

use super::{QueueState, Writer, batch::Batch, doubt::InDoubt};
use crate::{
    events::{SpoolEvent, contain},
    storage::{
        rows::{QueueRow, StateRow},
        salvage::{Known, Saved, replace_damaged},
    },
    store::{Change, Key},
};

/// The pause before it is tried again to replace the file, which costs as much as copying it.
const PAUSE: Duration = Duration::from_secs(30);

impl Writer {
    /// Counts as damaged what a queue should hold, and does not.
    pub(super) fn lose_missing(&mut self, queue: u32) -> io::Result<()> {
        let mut batch = Batch::default();
        let row = self.row(&mut batch, queue);
        let (count, bytes) = (row.messages, row.bytes);
        (row.messages, row.bytes) = (0, 0);
        batch.lose(queue, count, bytes);
        self.commit(batch)?;
        self.report_loss(queue, count);
        Ok(())
    }

    fn report_loss(&self, queue: u32, count: u64) {
        if let Some(state) = self.queues.get(&queue) {
            let topic = state.queue.key.topic.clone();
            self.common.events.send(SpoolEvent::Damaged { topic, count });
        }
    }

    /// Goes on with a new file, which has the messages that can be read of the old one. What was replayed and
    /// not removed is not copied, nor is what was reported as not stored.
    pub(super) fn rebuild(&mut self, error: &io::Error) -> io::Result<()> {
        self.is_broken = true;
        let now = Instant::now();
        if self.replace_at.is_some_and(|at| now < at) {
            return Err(io::Error::new(error.kind(), format!("the file is damaged: {error}")));
        }
        self.replace_at = Some(now + PAUSE);
        // Counted as finished whether or not the messages can be read.
        let mut batch = Batch::default();
        for ((queue, number), (_, finished)) in &self.unremoved {
            self.finish(&mut batch, *queue, *number, finished);
        }
        // What is to be moved is at hand, and goes to its new place whether or not it was there already.
        self.place(&mut batch);
        let mut known = Known::default();
        known.left_out.extend(self.unremoved.keys().map(|(queue, number)| Key::message(*queue, *number)));
        for (from, to, number) in &batch.placed {
            known.left_out.extend([Key::message(*from, *number), Key::message(*to, *number)]);
        }
        let undone = self.in_doubt.iter().filter(|in_doubt| in_doubt.batch.is_reported);
        known.left_out.extend(undone.flat_map(InDoubt::appended).map(|(key, _)| *key));
        known.added = batch.changes.drain(..).filter(|change| matches!(change, Change::Put(..))).collect();
        let left = self.queues.iter().map(|(id, state)| {
            let row = batch.rows.get(id).unwrap_or(&state.row);
            (*id, row.messages.saturating_sub(batch.placed_into(*id)))
        });
        known.messages = Some(left.collect());
        let next_queue = self.common.index.next_id();
        known.state = Some(StateRow { next_queue, times: self.common.clock.times(), ..self.state });
        let saved = replace_damaged(&mut *self.store, &known).map_err(|failed| {
            let text =
                format!("the file is damaged: {error}; saving what can be read of it failed: {failed}");
            io::Error::new(failed.kind(), text)
        })?;
        (self.is_broken, self.in_doubt, self.replace_at) = (false, None, None);
        // The new file has rows of queues with messages only.
        self.forgotten.clear();
        self.take_over(batch, saved, error);
        Ok(())
    }

    /// Brings the counts to what the new file holds.
    fn take_over(&mut self, mut batch: Batch, saved: Saved, error: &io::Error) {
        let Saved { path, salvaged, found } = saved;
        let mut unexpected = 0;
        for (id, row) in &found.queues {
            let queue = self.common.index.find_or_make(&row.key);
            // One that was emptied, and whose messages are back. Under another number they wait for the next
            // process.
            if queue.id == *id && !self.queues.contains_key(id) {
                self.queues.insert(*id, QueueState::new(QueueRow::new(row.key.clone(), 0), queue));
            }
        }
        let mut losses = Vec::new();
        for (id, state) in &self.queues {
            let row = found.queues.iter().find(|(found, _)| found == id).map(|(_, row)| row.clone());
            let row = row.unwrap_or_else(|| QueueRow::new(state.row.key.clone(), state.row.first));
            let expected = state.row.messages + batch.placed_into(*id);
            let expected = expected.saturating_sub(batch.removed_of(*id));
            let lost = expected.saturating_sub(row.messages);
            let more = row.messages.saturating_sub(expected);
            state.queue.add_all(more);
            unexpected += more;
            if lost > 0 {
                losses.push((*id, lost));
            }
            batch.rows.insert(*id, row);
        }
        self.common.ledger.update(|counts| {
            counts.recovered += unexpected;
            counts.waiting += unexpected;
        });
        if unexpected > 0 {
            contain(|| self.common.replay.notify_one());
        }
        for (queue, lost) in &losses {
            batch.lose(*queue, *lost, 0);
        }
        self.apply(batch);
        self.state = found.state;
        let bytes = self.queues.values().map(|state| state.row.bytes).sum();
        self.common.ledger.update(|counts| {
            counts.waiting_bytes = bytes;
            (counts.held_aside, counts.held_aside_bytes) = (found.held_aside, found.held_aside_bytes);
            counts.files_set_aside += 1;
        });
        let event = SpoolEvent::FileSetAside { path, reason: error.to_string(), salvaged };
        self.common.events.send(event);
        for (queue, lost) in losses {
            self.report_loss(queue, lost);
        }
    }
}
