//! Opening the store again after an error, and commits of which it is not known whether they were applied.

use std::io;

use super::{Writer, batch::Batch};
use crate::{
    storage::rows::StateRow,
    store::{self, Change, Key, Kind},
};

/// A commit that ended with an error, after which the store could not be opened.
pub(super) struct InDoubt {
    pub(super) serial: u64,
    pub(super) batch: Batch,
}

impl Writer {
    /// Opens the store again if the last use of it has failed.
    pub(super) fn mend(&mut self) -> io::Result<()> {
        if !self.is_broken {
            return Ok(());
        }
        let serial = self.reopen()?;
        self.state.serial = self.state.serial.max(serial);
        let Some(in_doubt) = self.in_doubt.take_if(|in_doubt| in_doubt.serial == serial) else {
            self.in_doubt = None;
            return Ok(());
        };
        if !in_doubt.batch.is_reported {
            self.apply(in_doubt.batch);
            return Ok(());
        }
        self.undo(&in_doubt).inspect_err(|_| {
            self.is_broken = true;
            self.in_doubt = Some(in_doubt);
        })
    }

    /// Opens the store, and returns the number of its last commit.
    pub(super) fn reopen(&mut self) -> io::Result<u64> {
        self.store.reopen()?;
        let row = match store::get(&*self.store, Key::STATE) {
            // A damaged row can't be read now or later, and is replaced by the next commit.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            row => row?,
        };
        self.is_broken = false;
        let state = row.and_then(|row| StateRow::decode(&row).ok());
        Ok(state.map_or(0, |state| state.serial))
    }

    /// Takes the messages of a commit out of the store, which were reported as not stored.
    /// What it removed is removed again, and counted then.
    fn undo(&mut self, in_doubt: &InDoubt) -> io::Result<()> {
        let mut rows = in_doubt.batch.rows.clone();
        let mut changes = Vec::new();
        for change in &in_doubt.batch.changes {
            if let Change::Put(key @ Key { kind: Kind::Message, queue, .. }, row) = change {
                changes.push(Change::Remove(*key));
                if let Some(of_queue) = rows.get_mut(queue) {
                    of_queue.messages = of_queue.messages.saturating_sub(1);
                    of_queue.bytes = of_queue.bytes.saturating_sub(row.len() as u64);
                }
            }
        }
        changes.extend(rows.iter().map(|(id, row)| Change::Put(Key::queue(*id), row.encode())));
        let state = StateRow {
            serial: in_doubt.serial + 1,
            next_queue: self.common.index.next_id(),
            is_closed: false,
            times: self.common.clock.times(),
            ..self.state
        };
        changes.push(Change::Put(Key::STATE, state.encode()));
        self.store.commit(&changes)?;
        self.state = state;
        Ok(())
    }
}
