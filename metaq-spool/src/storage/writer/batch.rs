//! Commits: changes of the store that are applied together, and the counts that follow from them.

use std::{collections::BTreeMap, io};

use super::{Writer, doubt::InDoubt};
use crate::{
    events::{DropReason, SpoolEvent, contain},
    record::SetAside,
    storage::{
        inbox::{Fate, Finished},
        ledger::Ledger,
        rows::{QueueRow, StateRow},
    },
    store::{Change, Key},
};

/// Changes of the store that are applied together, and what follows once they are.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) changes: Vec<Change>,
    /// The rows of queues after the commit.
    pub(super) rows: BTreeMap<u32, QueueRow>,
    /// The messages of each queue that are gone, and of those that were removed the numbers.
    removed: BTreeMap<u32, u64>,
    removals: Vec<(u32, u64)>,
    /// Messages that are moved: the queues that they leave and enter, and their numbers. A batch that moves
    /// messages has no new ones.
    pub(super) placed: Vec<(u32, u32, u64)>,
    /// Replayed messages of each queue.
    replayed: BTreeMap<u32, u64>,
    pub(super) spooled: u64,
    set_aside: u64,
    pub(super) dropped: u64,
    damaged: u64,
    /// The bytes of new messages, and of those that are moved where they are then.
    pub(super) bytes_in: u64,
    pub(super) bytes_placed: u64,
    bytes_out: u64,
    bytes_aside: u64,
    /// Set when a failure is reported to those who wait: if it is applied all the same, it is undone.
    pub(super) is_reported: bool,
    /// What is dropped of each queue.
    pub(super) drops: BTreeMap<u32, Dropped>,
}

/// Messages that are dropped: their number, the first number that stays, and the reason.
#[derive(Clone, Copy)]
pub(super) struct Dropped {
    pub(super) count: u64,
    pub(super) below: u64,
    pub(super) reason: DropReason,
}

impl Writer {
    /// Removes a finished message in a batch.
    pub(super) fn finish(&self, batch: &mut Batch, queue: u32, number: u64, finished: &Finished) {
        self.remove(batch, queue, number, finished.bytes);
        match &finished.fate {
            Fate::Replayed => *batch.replayed.entry(queue).or_default() += 1,
            Fate::SetAside { reason, attempts, row } => {
                let aside = SetAside {
                    queue,
                    reason: reason.clone(),
                    attempts: *attempts,
                    time: self.common.clock.now(),
                    row: row.clone(),
                };
                let row = aside.encode();
                batch.set_aside += 1;
                batch.bytes_aside += row.len() as u64;
                batch.changes.push(Change::Put(Key::set_aside(number), row));
            }
        }
    }

    /// Removes a message in a batch.
    pub(super) fn remove(&self, batch: &mut Batch, queue: u32, number: u64, bytes: u64) {
        let row = self.row(batch, queue);
        row.messages = row.messages.saturating_sub(1);
        row.bytes = row.bytes.saturating_sub(bytes);
        batch.bytes_out += bytes;
        *batch.removed.entry(queue).or_default() += 1;
        batch.removals.push((queue, number));
        batch.changes.push(Change::Remove(Key::message(queue, number)));
    }

    /// The row of a queue as the batch leaves it.
    pub(super) fn row<'a>(&self, batch: &'a mut Batch, queue: u32) -> &'a mut QueueRow {
        batch.rows.entry(queue).or_insert_with(|| self.queues[&queue].row.clone())
    }

    /// Applies a batch to the store, and then to the counts.
    pub(super) fn commit(&mut self, mut batch: Batch) -> io::Result<()> {
        self.mend()?;
        // Neighbours in the store are changed one after the other.
        batch.changes.sort_by_key(|change| match change {
            Change::Put(key, _) | Change::Remove(key) => *key,
        });
        let state = StateRow {
            serial: self.state.serial + 1,
            next_number: self.state.next_number + batch.spooled,
            next_queue: self.common.index.next_id(),
            is_closed: false,
            times: self.common.clock.times(),
            window: self.state.window,
        };
        let queues = batch.rows.iter().map(|(id, row)| Change::Put(Key::queue(*id), row.encode()));
        batch.changes.extend(queues);
        batch.changes.extend(self.forgotten.iter().map(|id| Change::Remove(Key::queue(*id))));
        batch.changes.push(Change::Put(Key::STATE, state.encode()));
        if let Err(error) = self.store.commit(&batch.changes) {
            self.is_broken = true;
            // Its numbers are not used again.
            self.state.next_number = state.next_number;
            let is_reported = batch.is_reported;
            self.in_doubt = Some(InDoubt { serial: state.serial, batch });
            if error.kind() == io::ErrorKind::InvalidData {
                self.rebuild(&error)?;
                return Err(error);
            }
            return match self.mend() {
                Ok(true) if !is_reported => Ok(()),
                _ => Err(error),
            };
        }
        self.state = state;
        self.forgotten.clear();
        self.retry_at = None;
        self.apply(batch);
        Ok(())
    }

    /// Brings the counts to what a batch has changed.
    pub(super) fn apply(&mut self, batch: Batch) {
        let Batch {
            rows,
            removed,
            removals,
            placed,
            replayed,
            spooled,
            set_aside,
            dropped,
            damaged,
            drops,
            ..
        } = batch;
        for (id, row) in rows {
            if let Some(state) = self.queues.get_mut(&id) {
                state.row = row;
            }
        }
        self.apply_placed(placed);
        let mut duplicates = 0;
        for (id, count) in &replayed {
            if let Some(state) = self.queues.get_mut(id) {
                let again = state.maybe_replayed.min(*count);
                state.maybe_replayed -= again;
                duplicates += again;
            }
        }
        let replayed: u64 = replayed.values().sum();
        let bytes_in = batch.bytes_in + batch.bytes_placed;
        self.common.ledger.settle(spooled, batch.bytes_in, |counts| {
            counts.spooled += spooled;
            counts.replayed += replayed;
            counts.set_aside += set_aside;
            counts.dropped += dropped;
            counts.damaged += damaged;
            counts.maybe_duplicates += duplicates;
            let gone = replayed + set_aside + dropped + damaged;
            counts.waiting = (counts.waiting + spooled).saturating_sub(gone);
            counts.waiting_bytes = (counts.waiting_bytes + bytes_in).saturating_sub(batch.bytes_out);
            counts.held_aside += set_aside;
            counts.held_aside_bytes += batch.bytes_aside;
        });
        for (queue, Dropped { count, below, reason }) in drops {
            if let Some(state) = self.queues.get_mut(&queue) {
                state.dropped_below = state.dropped_below.max(below);
                let topic = state.queue.key.topic.clone();
                self.common.events.send(SpoolEvent::Dropped { topic, count, reason });
            }
        }
        // Also what was dropped while it waited for its removal.
        for removal in removals {
            if let Some(state) = self.queues.get_mut(&removal.0) {
                state.placed_below.remove(&removal.1);
            }
            if let Some((queue, _)) = self.unremoved.remove(&removal) {
                queue.end_removal(1);
            }
            if let Some(placed) = self.to_place.remove(&removal) {
                placed.give_up();
            }
        }
        for (id, count) in removed {
            let Some(state) = self.queues.get(&id) else { continue };
            if state.queue.remove(count) {
                self.emptied += 1;
                let key = &state.queue.key;
                let event = SpoolEvent::Emptied { topic: key.topic.clone(), partition: key.partition };
                self.common.events.send(event);
            }
        }
        contain(|| self.common.changed.notify_waiters());
    }
}

impl Batch {
    /// An empty one whose failure is reported to those who wait.
    pub(super) fn reported() -> Self {
        Self { is_reported: true, ..Self::default() }
    }

    /// Counts messages as gone that have no row to remove.
    pub(super) fn lose(&mut self, queue: u32, count: u64, bytes: u64) {
        self.damaged += count;
        self.bytes_out += bytes;
        *self.removed.entry(queue).or_default() += count;
    }

    /// The number of messages that it takes out of a queue.
    pub(super) fn removed_of(&self, queue: u32) -> u64 {
        self.removed.get(&queue).copied().unwrap_or_default()
    }

    /// The number of messages that it moves into a queue.
    pub(super) fn placed_into(&self, queue: u32) -> u64 {
        self.placed.iter().filter(|(_, to, _)| *to == queue).count() as u64
    }

    /// The numbers of messages and bytes above the bounds after it.
    pub(super) fn excess(&self, ledger: &Ledger) -> (u64, u64) {
        let gone = self.replayed.values().sum::<u64>() + self.dropped;
        let (messages, bytes) = ledger.excess(self.spooled, self.bytes_in + self.bytes_aside);
        (messages.saturating_sub(gone), bytes.saturating_sub(self.bytes_out))
    }

    /// The same without the messages that it stores.
    pub(super) fn without_appends(&self) -> Self {
        Self {
            changes: Vec::new(),
            rows: self.rows.clone(),
            removed: self.removed.clone(),
            removals: self.removals.clone(),
            placed: self.placed.clone(),
            replayed: self.replayed.clone(),
            drops: self.drops.clone(),
            spooled: 0,
            bytes_in: 0,
            ..*self
        }
    }
}
