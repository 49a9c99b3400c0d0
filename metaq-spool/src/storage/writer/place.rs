//! Moving of messages to other queues.

use std::{io, sync::Arc};

use super::{QueueState, Writer, batch::Batch};
use crate::{
    events::contain,
    storage::{inbox::Placed, rows::QueueRow},
    store::{self, Change, Key},
};

impl Writer {
    pub(super) fn accept_placed(&mut self, placed: Vec<Placed>) {
        for placed in placed {
            let Placed { from, number, to, .. } = &placed;
            let dropped_below = self.queues.get(&from.id).map_or(0, |state| state.dropped_below);
            if *number < dropped_below {
                // It was dropped, and counts as that.
                from.end_removal(1);
                to.remove(1);
                contain(|| self.common.changed.notify_waiters());
            } else {
                self.unremoved.insert((from.id, *number));
                self.to_place.push(placed);
            }
        }
    }

    /// Moves messages, or keeps them for the next time. In a commit of its own: one that stores new messages is
    /// undone where their failure was reported.
    pub(super) fn place_pending(&mut self) {
        let placed = std::mem::take(&mut self.to_place);
        if placed.is_empty() {
            return;
        }
        if let Err(error) = self.place(&placed) {
            self.store_failed(&error);
            self.to_place = placed;
            return;
        }
        for Placed { from, number, .. } in placed {
            self.unremoved.remove(&(from.id, number));
            from.end_removal(1);
        }
        contain(|| self.common.changed.notify_waiters());
        contain(|| self.common.replay.notify_one());
    }

    fn place(&mut self, placed: &[Placed]) -> io::Result<()> {
        self.mend()?;
        let mut batch = Batch::default();
        for Placed { from, number, bytes, to, row } in placed {
            let number = *number;
            // A commit that ended with an error may have moved it.
            if store::get(&*self.store, Key::message(from.id, number))?.is_none() {
                continue;
            }
            self.remove(&mut batch, from.id, number, *bytes);
            self.queues
                .entry(to.id)
                .or_insert_with(|| QueueState::new(QueueRow::new(to.key.clone(), number), Arc::clone(to)));
            let of_queue = self.row(&mut batch, to.id);
            of_queue.messages += 1;
            of_queue.bytes += row.len() as u64;
            // It has the place that its number has among the others.
            of_queue.first = of_queue.first.min(number);
            of_queue.end = of_queue.end.max(number + 1);
            batch.bytes_in += row.len() as u64;
            batch.changes.push(Change::Put(Key::message(to.id, number), row.clone()));
            batch.placed.push((from.id, to.id, number));
        }
        if batch.placed.is_empty() { Ok(()) } else { self.commit(batch) }
    }
}
