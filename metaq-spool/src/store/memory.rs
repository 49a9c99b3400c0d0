//! A store in memory, with faults for tests.

use std::{collections::BTreeMap, io, ops::Range, path::PathBuf, sync::Arc};

use parking_lot::Mutex;

use super::{Change, Copying, Key, Kind, Limit, Remains, Rows, Store};

/// What is stored, and the faults, shared with the test.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) rows: BTreeMap<Key, Vec<u8>>,
    /// Commits fail, and change nothing.
    pub(crate) is_full: bool,
    /// The chance that a commit fails, and the chance that one that fails is applied all the same.
    pub(crate) failing: f64,
    pub(crate) failing_after_commit: f64,
    /// Commits that remove messages fail, and change nothing.
    pub(crate) keeps_messages: bool,
    /// The number of attempts to reopen that fail.
    pub(crate) failing_reopens: u32,
    /// Reads that touch one of these fail.
    pub(crate) unreadable: Vec<Key>,
    /// It can't be opened again before it is replaced.
    pub(crate) is_damaged: bool,
    pub(crate) commits: u64,
    /// How often it was replaced.
    pub(crate) replacements: u64,
    pub(crate) needs_reopening: bool,
    /// A commit was applied in spite of its error, and none has worked since.
    pub(crate) is_in_doubt: bool,
    /// Its process was killed: whatever it does changes nothing.
    pub(crate) is_dead: bool,
}

impl Memory {
    /// Ends all faults.
    pub(crate) fn heal(&mut self) {
        (self.is_full, self.keeps_messages, self.failing_reopens) = (false, false, 0);
        (self.failing, self.failing_after_commit) = (0.0, 0.0);
    }
}

/// A store that a test can look into.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryStore(pub(crate) Arc<Mutex<Memory>>);

fn fault(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, text.to_owned())
}

impl Store for MemoryStore {
    fn commit(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut memory = self.0.lock();
        if memory.needs_reopening {
            return Err(io::Error::other("it was not reopened"));
        }
        let removes = |change: &Change| matches!(change, Change::Remove(key) if key.kind == Kind::Message);
        let is_refused =
            memory.is_dead || memory.is_full || (memory.keeps_messages && changes.iter().any(removes));
        let fails = is_refused || fastrand::f64() < memory.failing;
        if fails && (is_refused || fastrand::f64() >= memory.failing_after_commit) {
            memory.needs_reopening = true;
            return Err(fault("no space is left"));
        }
        let rows = &memory.rows;
        if changes.iter().any(|change| {
            matches!(change, Change::Remove(key) if key.kind == Kind::Message && !rows.contains_key(key))
        }) {
            memory.needs_reopening = true;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is not there"));
        }
        for change in changes {
            match change {
                Change::Put(key, row) => {
                    memory.rows.insert(*key, row.clone());
                }
                Change::Remove(key) => {
                    memory.rows.remove(key);
                }
            }
        }
        memory.commits += 1;
        (memory.needs_reopening, memory.is_in_doubt) = (fails, fails);
        if fails { Err(fault("the disk was lost after the commit")) } else { Ok(()) }
    }

    fn scan(&self, range: Range<Key>, limit: Limit) -> io::Result<Rows> {
        let memory = self.0.lock();
        if memory.needs_reopening {
            return Err(io::Error::other("it was not reopened"));
        }
        let (mut rows, mut bytes) = (Rows::new(), 0);
        for (key, row) in memory.rows.range(range) {
            if memory.unreadable.contains(key) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a page is damaged"));
            }
            bytes += row.len();
            rows.push((*key, row.clone()));
            if rows.len() >= limit.rows || bytes >= limit.bytes {
                break;
            }
        }
        Ok(rows)
    }

    fn reopen(&mut self) -> io::Result<()> {
        let mut memory = self.0.lock();
        if memory.is_dead {
            return Err(fault("its process was killed"));
        }
        if let Some(left) = memory.failing_reopens.checked_sub(1) {
            memory.failing_reopens = left;
            return Err(fault("it can't be opened"));
        }
        if memory.is_damaged {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a page is damaged"));
        }
        memory.needs_reopening = false;
        Ok(())
    }

    fn replace(&mut self, copy: &mut Copying<'_>) -> io::Result<PathBuf> {
        self.0.lock().needs_reopening = false;
        let mut new = Self::default();
        copy(Remains { tree: Some((&*self, true)), each_row: &|_| Ok(()) }, &mut new)?;
        let mut memory = self.0.lock();
        if memory.is_full || memory.is_dead {
            return Err(fault("no space is left"));
        }
        memory.rows = std::mem::take(&mut new.0.lock().rows);
        memory.unreadable.clear();
        (memory.is_damaged, memory.is_in_doubt) = (false, false);
        memory.replacements += 1;
        Ok(PathBuf::from("damaged"))
    }
}
