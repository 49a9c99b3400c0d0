//! Writing what came since the last commit, and answering those who wait for it.

use std::{io, sync::Arc};

use tokio::time::Instant;

use super::{QueueState, Writer, batch::Batch};
use crate::{
    SpoolId,
    events::contain,
    storage::{
        inbox::Append,
        rows::{QueueRow, StateRow},
    },
    store::{Change, Key},
};

impl Writer {
    /// Writes what is pending. What can't be written is answered, or kept if it is a removal.
    pub(super) fn write_pending(&mut self) {
        if self.has_pending() {
            let appends = std::mem::take(&mut self.appends);
            self.place_pending();
            match self.write(&appends, true) {
                Ok(first) => self.appended(appends, first),
                Err(error) => self.write_apart(appends, &error),
            }
            // New messages that are too many by themselves.
            self.make_space();
        }
        self.last_commit = Instant::now();
        for flush in self.flushes.drain(..) {
            // Who asked may be gone. Wakers are anybody's code.
            contain(|| _ = flush.send(()));
        }
    }

    /// After a failure: new messages and removals take different space, so that one may work without the
    /// other.
    fn write_apart(&mut self, appends: Vec<Append>, error: &io::Error) {
        self.store_failed(error);
        let is_single = appends.is_empty() || self.unremoved.is_empty();
        if !is_single {
            // They are kept otherwise.
            let _ = self.write(&[], true);
        }
        if appends.is_empty() {
            return;
        }
        let written = if is_single {
            Err(error.to_string())
        } else {
            self.write(&appends, false).map_err(|error| error.to_string())
        };
        match written {
            Ok(first) => self.appended(appends, first),
            Err(error) => {
                let count = appends.len() as u64;
                self.common.ledger.release(count, bytes_of(&appends));
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

    fn appended(&mut self, appends: Vec<Append>, first: u64) {
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

    /// Stores messages, removes those that are finished, and drops what is too much then, all or none;
    /// returns the number of the first new message.
    fn write(&mut self, appends: &[Append], removes: bool) -> io::Result<u64> {
        // Rows are computed from what the store has.
        self.mend()?;
        let mut batch = Batch::reported();
        if removes {
            for ((queue, number), (_, finished)) in &self.unremoved {
                self.finish(&mut batch, *queue, *number, finished);
            }
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
        self.drop_oldest(&mut batch);
        if !batch.changes.is_empty() {
            self.commit(batch)?;
        }
        Ok(first)
    }

    /// Marks the folder as closed, unless it may hold messages that were replayed.
    pub(super) fn close(&mut self) {
        let is_closed = self.unremoved.is_empty() && !self.common.may_repeat();
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
        let mut changes: Vec<_> = self.forgotten.drain(..).map(|id| Change::Remove(Key::queue(id))).collect();
        changes.push(Change::Put(Key::STATE, state.encode()));
        let closed = self.mend().and_then(|_| self.store.commit(&changes));
        if let Err(error) = closed {
            self.store_failed(&error);
        }
    }
}

fn bytes_of(appends: &[Append]) -> u64 {
    appends.iter().map(|append| append.row.len() as u64).sum()
}
