//! Moving of messages to other queues.

use std::sync::Arc;

use super::{QueueState, Writer, batch::Batch};
use crate::{
    events::contain,
    storage::{inbox::Placed, rows::QueueRow},
    store::{Change, Key},
};

impl Writer {
    pub(super) fn accept_placed(&mut self, placed: Vec<Placed>) {
        for placed in placed {
            let key = (placed.from.id, placed.number);
            let given_up = if self.is_dropped(key.0, key.1) {
                // It counts as that.
                Some(placed)
            } else {
                self.to_place.insert(key, placed)
            };
            if let Some(placed) = given_up {
                placed.give_up();
                // Replay may wait for that.
                contain(|| self.common.changed.notify_waiters());
            }
        }
    }

    /// Moves messages, or keeps them for the next time. In a commit of its own: what can be moved needs other
    /// space than new messages, and no caller waits for it.
    pub(super) fn place_pending(&mut self) {
        if self.to_place.is_empty() {
            return;
        }
        let placed = self.mend().and_then(|_| {
            let mut batch = Batch::default();
            self.place(&mut batch);
            // What became of the last commit may be known only now.
            if batch.placed.is_empty() { Ok(()) } else { self.commit(batch) }
        });
        if let Err(error) = placed {
            self.store_failed(&error);
        }
    }

    /// Moves the messages that wait for it in a batch.
    pub(super) fn place(&mut self, batch: &mut Batch) {
        let to_place = std::mem::take(&mut self.to_place);
        for Placed { from, number, bytes, to, row } in to_place.values() {
            let (number, len) = (*number, row.len() as u64);
            self.remove(batch, from.id, number, *bytes);
            self.queues
                .entry(to.id)
                .or_insert_with(|| QueueState::new(QueueRow::new(to.key.clone(), number), Arc::clone(to)));
            let of_queue = self.row(batch, to.id);
            of_queue.messages += 1;
            of_queue.bytes += len;
            // It has the place that its number has among the others.
            of_queue.first = of_queue.first.min(number);
            of_queue.end = of_queue.end.max(number + 1);
            batch.bytes_placed += len;
            batch.changes.push(Change::Put(Key::message(to.id, number), row.clone()));
            batch.placed.push((from.id, to.id, number));
        }
        self.to_place = to_place;
    }

    /// Brings queues to what a batch has moved.
    pub(super) fn apply_placed(&mut self, placed: Vec<(u32, u32, u64)>) {
        if placed.is_empty() {
            return;
        }
        for (from, to, number) in placed {
            if let Some(placed) = self.to_place.remove(&(from, number)) {
                placed.from.end_removal(1);
            }
            let maybe_replayed = self.queues.get_mut(&from).map_or(0, |state| {
                let one = state.maybe_replayed.min(1);
                state.maybe_replayed -= one;
                one
            });
            if let Some(state) = self.queues.get_mut(&to) {
                state.queue.add_placed();
                state.maybe_replayed += maybe_replayed;
                if number < state.dropped_below {
                    state.placed_below.insert(number);
                }
            }
        }
        contain(|| self.common.replay.notify_one());
    }
}

impl Placed {
    /// It is not moved: it is gone from the queue that it was in.
    pub(super) fn give_up(&self) {
        self.from.end_removal(1);
        self.to.remove(1);
    }
}
