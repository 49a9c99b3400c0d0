//! Commits that have failed, and may have been applied all the same.
//!
//! The library writes the pages of a commit, synchronises, writes a header that refers to them, and
//! synchronises again. When a synchronisation fails, the operating system may have marked pages as written
//! that are not, and the next one that works doesn't write them: what is read afterwards is not known to be
//! on the disk. So a commit that has failed is never reported as successful, although its changes can be
//! read. It is undone by another commit, and what it has removed counts as removed once that one has worked.
//!
//! Further commits to the same file are sound. They refer to pages of commits whose header was written, which
//! is after the synchronisation of their pages has worked, and each writes the header again. The pages of a
//! commit whose first synchronisation has failed are referred to by none.

use std::io;

use super::{Writer, batch::Batch};
use crate::{
    storage::rows::StateRow,
    store::{self, Change, Key, Kind},
};

/// A commit that has failed.
pub(super) struct InDoubt {
    pub(super) serial: u64,
    pub(super) batch: Batch,
}

impl InDoubt {
    /// The messages that it was to store.
    pub(super) fn appended(&self) -> impl Iterator<Item = (&Key, &Vec<u8>)> {
        self.batch.changes.iter().filter_map(|change| match change {
            Change::Put(key, row) if key.kind == Kind::Message => Some((key, row)),
            _ => None,
        })
    }
}

impl Writer {
    /// Opens the store again if the last use of it has failed, and finds out what became of the last commit.
    /// Returns whether that was applied and not undone.
    pub(super) fn mend(&mut self) -> io::Result<bool> {
        if !self.is_broken {
            return Ok(false);
        }
        let done = self.reopen().and_then(|serial| self.resolve(serial));
        match done {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.rebuild(&error)?;
                Ok(false)
            }
            Err(error) => {
                self.is_broken = true;
                Err(error)
            }
            done => done,
        }
    }

    /// Opens the store, and returns the number of its last commit.
    fn reopen(&mut self) -> io::Result<u64> {
        self.store.reopen()?;
        let row = store::get(&*self.store, Key::STATE)?;
        let state = row.and_then(|row| StateRow::decode(&row).ok());
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the row about the spool is unreadable");
        let state = state.ok_or_else(damaged)?;
        self.is_broken = false;
        Ok(state.serial)
    }

    fn resolve(&mut self, serial: u64) -> io::Result<bool> {
        self.state.serial = self.state.serial.max(serial);
        let Some(in_doubt) = self.in_doubt.take_if(|in_doubt| serial >= in_doubt.serial) else {
            self.in_doubt = None;
            return Ok(false);
        };
        if !in_doubt.batch.is_reported {
            self.apply(in_doubt.batch);
            return Ok(true);
        }
        match self.undo(&in_doubt, serial) {
            Ok(batch) => {
                self.apply(batch);
                Ok(false)
            }
            Err(error) => {
                self.in_doubt = Some(in_doubt);
                Err(error)
            }
        }
    }

    /// Takes the messages of a commit out of the store, which were reported as not stored, unless that was
    /// done by a commit that has failed in its turn. Returns the rest of the commit.
    fn undo(&mut self, in_doubt: &InDoubt, serial: u64) -> io::Result<Batch> {
        let mut rest = in_doubt.batch.without_appends();
        let mut changes = Vec::new();
        for (key, row) in in_doubt.appended() {
            if serial == in_doubt.serial {
                changes.push(Change::Remove(*key));
            }
            if let Some(of_queue) = rest.rows.get_mut(&key.queue) {
                of_queue.messages = of_queue.messages.saturating_sub(1);
                of_queue.bytes = of_queue.bytes.saturating_sub(row.len() as u64);
            }
        }
        changes.extend(rest.rows.iter().map(|(id, row)| Change::Put(Key::queue(*id), row.encode())));
        let state = StateRow {
            serial: serial + 1,
            next_queue: self.common.index.next_id(),
            is_closed: false,
            times: self.common.clock.times(),
            ..self.state
        };
        changes.push(Change::Put(Key::STATE, state.encode()));
        self.store.commit(&changes)?;
        self.state = state;
        Ok(rest)
    }
}
