//! Commits: what came since the last one, and the counts that follow from it.

use std::{collections::BTreeMap, io, sync::Arc};

use tokio::time::Instant;

use super::{QueueState, Writer, doubt::InDoubt};
use crate::{
    SpoolId,
    events::{DropReason, SpoolEvent, contain},
    record::SetAside,
    storage::{
        inbox::{Append, Fate, Finished},
        index::Queue,
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
    removed: BTreeMap<u32, u64>,
    /// Messages that are moved: the queues that they leave and enter, and their numbers.
    pub(super) placed: Vec<(u32, u32, u64)>,
    /// Replayed messages of each queue.
    replayed: BTreeMap<u32, u64>,
    pub(super) spooled: u64,
    pub(super) set_aside: u64,
    pub(super) dropped: u64,
    pub(super) damaged: u64,
    pub(super) bytes_in: u64,
    bytes_out: u64,
    bytes_aside: u64,
    /// Set when a failure is reported to those who wait: if it is applied all the same, it is undone.
    pub(super) is_reported: bool,
    /// What is dropped: the queue, the first number that stays, and the reason.
    pub(super) drops: Option<(u32, u64, DropReason)>,
}

impl Writer {
    /// Writes what is pending. What can't be written is answered, or kept if it is a removal.
    pub(super) fn write_pending(&mut self) {
        let appends = std::mem::take(&mut self.appends);
        let finished = std::mem::take(&mut self.finished);
        self.place_pending();
        if !appends.is_empty() || !finished.is_empty() {
            let bytes = appends.iter().map(|append| append.row.len() as u64).sum();
            self.make_space(appends.len() as u64, bytes);
            let both = self.write(&appends, &finished);
            match both {
                Ok(first) => self.appended(appends, first, bytes),
                Err(error) => self.write_apart(appends, finished, &error),
            }
            self.make_space(0, 0);
        }
        self.last_commit = Instant::now();
        for flush in self.flushes.drain(..) {
            // Who asked may be gone. Wakers are anybody's code.
            contain(|| _ = flush.send(()));
        }
    }

    /// After a failure: new messages and removals take different space, so that one may work without the
    /// other.
    fn write_apart(
        &mut self,
        appends: Vec<Append>,
        finished: Vec<(Arc<Queue>, Finished)>,
        error: &io::Error,
    ) {
        self.store_failed(error);
        let is_single = appends.is_empty() || finished.is_empty();
        if !finished.is_empty() && (is_single || self.write(&[], &finished).is_err()) {
            self.finished = finished;
        }
        if appends.is_empty() {
            return;
        }
        let bytes = appends.iter().map(|append| append.row.len() as u64).sum();
        let written = if is_single {
            Err(error.to_string())
        } else {
            self.write(&appends, &[]).map_err(|error| error.to_string())
        };
        match written {
            Ok(first) => self.appended(appends, first, bytes),
            Err(error) => {
                let count = appends.len() as u64;
                self.common.ledger.release(count, bytes);
                self.common.ledger.update(|counts| counts.unwritten += count);
                self.answer(
                    appends,
                    |_| Err(error.clone()),
                    |append| {
                        append.queue.remove(1);
                    },
                );
                contain(|| self.common.changed.notify_waiters());
            }
        }
    }

    fn appended(&mut self, appends: Vec<Append>, first: u64, bytes: u64) {
        self.common.ledger.release(appends.len() as u64, bytes);
        self.answer(appends, |index| Ok(SpoolId(first + index)), |_| ());
        contain(|| self.common.replay.notify_one());
    }

    fn answer(
        &self,
        appends: Vec<Append>,
        result: impl Fn(u64) -> Result<SpoolId, String>,
        also: impl Fn(&Append),
    ) {
        let slots = appends.iter().map(|append| append.slots as usize).sum();
        for (index, append) in (0..).zip(appends) {
            also(&append);
            // Its caller may be gone. Its waker is foreign code.
            contain(|| drop(append.answer.send(result(index))));
        }
        contain(|| self.common.inbox.give_slots(slots));
    }

    /// Stores messages and removes others, all or none; returns the number of the first new message.
    fn write(&mut self, appends: &[Append], finished: &[(Arc<Queue>, Finished)]) -> io::Result<u64> {
        // Rows are computed from what the store has.
        self.mend()?;
        let mut batch = Batch { is_reported: true, ..Batch::default() };
        for (queue, finished) in finished {
            self.remove_finished(&mut batch, queue, finished);
        }
        let first = self.state.next_number;
        for (number, append) in (first..).zip(appends) {
            let id = append.queue.id;
            // It begins at 0: if this fails, a smaller number may be given to its first message.
            self.queues.entry(id).or_insert_with(|| {
                QueueState::new(QueueRow::new(append.queue.key.clone(), 0), Arc::clone(&append.queue))
            });
            let row = self.row(&mut batch, id);
            let bytes = append.row.len() as u64;
            // The queue may be known from a commit that failed, whose numbers are used again.
            row.first = row.first.min(number);
            row.messages += 1;
            row.bytes += bytes;
            row.end = number + 1;
            batch.bytes_in += bytes;
            batch.spooled += 1;
            batch.changes.push(Change::Put(Key::message(id, number), append.row.clone()));
        }
        self.commit(batch)?;
        for (queue, finished) in finished {
            self.unremoved.remove(&(queue.id, finished.number));
            queue.end_removal(1);
        }
        contain(|| self.common.changed.notify_waiters());
        Ok(first)
    }

    fn remove_finished(&self, batch: &mut Batch, queue: &Queue, finished: &Finished) {
        self.remove(batch, queue.id, finished.number, finished.bytes);
        match &finished.fate {
            Fate::Replayed => *batch.replayed.entry(queue.id).or_default() += 1,
            Fate::SetAside { reason, attempts, row } => {
                let aside = SetAside {
                    queue: queue.id,
                    reason: reason.clone(),
                    attempts: *attempts,
                    time: self.common.clock.now(),
                    row: row.clone(),
                };
                let row = aside.encode();
                batch.set_aside += 1;
                batch.bytes_aside += row.len() as u64;
                batch.changes.push(Change::Put(Key::set_aside(finished.number), row));
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
        batch.changes.push(Change::Put(Key::STATE, state.encode()));
        if let Err(error) = self.store.commit(&batch.changes) {
            self.is_broken = true;
            match self.reopen() {
                // It was applied in spite of the error.
                Ok(serial) if serial == state.serial => {}
                reopened => {
                    if error.kind() == io::ErrorKind::InvalidData {
                        self.rebuild(&error)?;
                    } else if reopened.is_err() {
                        // Its numbers are not used again.
                        self.state.next_number = state.next_number;
                        self.in_doubt = Some(InDoubt { serial: state.serial, batch });
                    }
                    return Err(error);
                }
            }
        }
        self.state = state;
        self.retry_at = None;
        self.apply(batch);
        Ok(())
    }

    pub(super) fn apply(&mut self, batch: Batch) {
        let Batch { rows, removed, placed, replayed, spooled, set_aside, dropped, damaged, drops, .. } =
            batch;
        for (id, row) in rows {
            if let Some(state) = self.queues.get_mut(&id) {
                state.row = row;
            }
        }
        for (from, to, number) in placed {
            let maybe_replayed = self.queues.get_mut(&from).map_or(0, |state| {
                let one = state.maybe_replayed.min(1);
                state.maybe_replayed -= one;
                one
            });
            if let Some(state) = self.queues.get_mut(&to) {
                state.queue.add_placed();
                state.maybe_replayed += maybe_replayed;
                state.dropped_below = state.dropped_below.min(number);
            }
        }
        let mut duplicates = 0;
        for (id, count) in &replayed {
            if let Some(state) = self.queues.get_mut(id) {
                let again = state.maybe_replayed.min(*count);
                state.maybe_replayed -= again;
                duplicates += again;
            }
        }
        let replayed: u64 = replayed.values().sum();
        self.common.ledger.update(|counts| {
            counts.spooled += spooled;
            counts.replayed += replayed;
            counts.set_aside += set_aside;
            counts.dropped += dropped;
            counts.damaged += damaged;
            counts.maybe_duplicates += duplicates;
            let gone = replayed + set_aside + dropped + damaged;
            counts.waiting = (counts.waiting + spooled).saturating_sub(gone);
            counts.waiting_bytes = (counts.waiting_bytes + batch.bytes_in).saturating_sub(batch.bytes_out);
            counts.held_aside += set_aside;
            counts.held_aside_bytes += batch.bytes_aside;
        });
        if let Some((queue, below, reason)) = drops
            && let Some(state) = self.queues.get_mut(&queue)
        {
            state.dropped_below = below;
            let topic = state.queue.key.topic.clone();
            self.common.events.send(SpoolEvent::Dropped { topic, count: dropped, reason });
        }
        for (id, count) in removed {
            let Some(state) = self.queues.get(&id) else { continue };
            if state.queue.remove(count) {
                let key = &state.queue.key;
                let event = SpoolEvent::Emptied { topic: key.topic.clone(), partition: key.partition };
                self.common.events.send(event);
            }
        }
        contain(|| self.common.changed.notify_waiters());
    }

    /// Marks the folder as closed, unless it may hold messages that were replayed.
    pub(super) fn close(&mut self) {
        let is_closed = self.finished.is_empty() && !self.common.may_repeat();
        // Those that an earlier process may have replayed, and that are still here.
        let left =
            self.queues.values().filter(|state| state.row.messages > 0).map(|state| state.maybe_replayed);
        let window = if is_closed { left.max().unwrap_or(0) } else { self.state.window };
        let state = StateRow {
            serial: self.state.serial + 1,
            next_queue: self.common.index.next_id(),
            is_closed,
            times: self.common.clock.times(),
            window,
            ..self.state
        };
        let closed = self.mend().and_then(|()| self.store.commit(&[Change::Put(Key::STATE, state.encode())]));
        if let Err(error) = closed {
            self.store_failed(&error);
        }
    }
}

impl Batch {
    /// Counts messages as gone that have no row to remove.
    pub(super) fn lose(&mut self, queue: u32, count: u64, bytes: u64) {
        self.damaged += count;
        self.bytes_out += bytes;
        *self.removed.entry(queue).or_default() += count;
    }
}
