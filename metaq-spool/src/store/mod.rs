//! The store behind the spool: a sorted map of small keys whose changes are applied in atomic batches.

mod damaged_file;
pub(crate) mod disk;
#[cfg(test)]
pub(crate) mod faulty_disk;
mod file_backend;
mod file_header;
pub(crate) mod files;
mod leaf_pages;
#[cfg(test)]
pub(crate) mod memory;
mod reserve;

use std::{io, ops::Range, path::PathBuf};

/// The place of a row: its kind, the queue that it belongs to, and its number.
///
/// Ordered by these three, so the messages of a queue are neighbours, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) queue: u32,
    pub(crate) number: u64,
}

/// The kinds of rows. The figures are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    State = 0,
    Queue = 1,
    Message = 2,
    SetAside = 3,
}

impl Key {
    /// The one row about the whole spool.
    pub(crate) const STATE: Self = Self { kind: Kind::State, queue: 0, number: 0 };
    /// The length of the encoded form.
    pub(crate) const LEN: usize = 13;

    pub(crate) const fn queue(queue: u32) -> Self {
        Self { kind: Kind::Queue, queue, number: 0 }
    }

    pub(crate) const fn message(queue: u32, number: u64) -> Self {
        Self { kind: Kind::Message, queue, number }
    }

    pub(crate) const fn set_aside(number: u64) -> Self {
        Self { kind: Kind::SetAside, queue: 0, number }
    }

    /// The first message of any queue from this one on.
    pub(crate) const fn messages_from(queue: u32) -> Range<Self> {
        Self::message(queue, 0)..Self::set_aside(0)
    }

    /// The keys in one order with the numbers: each is larger by one than the one before it.
    pub(crate) fn ordinal(self) -> u128 {
        (self.kind as u128) << 96 | u128::from(self.queue) << 64 | u128::from(self.number)
    }

    /// The first key of a kind.
    pub(crate) const fn first(kind: Kind) -> Self {
        Self { kind, queue: 0, number: 0 }
    }

    /// The last key of a kind, which no row has.
    pub(crate) const fn last(kind: Kind) -> Self {
        Self { kind, queue: u32::MAX, number: u64::MAX }
    }

    /// The key with this place among all, of this kind.
    pub(crate) fn at(kind: Kind, ordinal: u128) -> Self {
        let queue = (ordinal >> 64) as u32;
        Self { kind, queue, number: ordinal as u64 }
    }

    /// All rows about queues.
    pub(crate) const fn all_queues() -> Range<Self> {
        Self::queue(0)..Self::queue(u32::MAX)
    }

    /// The messages of a queue from this number on.
    pub(crate) const fn messages(queue: u32, from: u64) -> Range<Self> {
        Self::message(queue, from)..Self::message(queue, u64::MAX)
    }

    /// The messages that were set aside, from this number on.
    pub(crate) const fn all_set_aside(from: u64) -> Range<Self> {
        Self::set_aside(from)..Self::set_aside(u64::MAX)
    }

    pub(crate) fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = self.kind as u8;
        bytes[1..5].copy_from_slice(&self.queue.to_be_bytes());
        bytes[5..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    /// None when these bytes are no key, which only damage explains.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let kind = match bytes[0] {
            0 => Kind::State,
            1 => Kind::Queue,
            2 => Kind::Message,
            3 => Kind::SetAside,
            _ => return None,
        };
        let [_, a, b, c, d, number @ ..] = *bytes;
        Some(Self { kind, queue: u32::from_be_bytes([a, b, c, d]), number: u64::from_be_bytes(number) })
    }
}

/// One change of a batch: the row to write, or the key of the row to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Put(Key, Vec<u8>),
    Remove(Key),
}

/// The largest answer of a scan. One row is returned even if it is larger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

impl Limit {
    pub(crate) const ONE: Self = Self { rows: 1, bytes: 0 };
    pub(crate) const ALL: Self = Self { rows: usize::MAX, bytes: usize::MAX };
}

/// Rows in the order of their keys.
pub(crate) type Rows = Vec<(Key, Vec<u8>)>;

/// The remains of a damaged store.
#[derive(Clone, Copy)]
pub(crate) struct Remains<'a> {
    /// The store, if it can be opened, and whether it is that of the newest commit. Its scans may fail.
    pub(crate) tree: Option<(&'a dyn Store, bool)>,
    /// Calls a function with all rows that are found outside the tree as well, in no order, with those that
    /// were removed or replaced since. The function returns which are whole.
    pub(crate) each_row: &'a EachRow<'a>,
}

type EachRow<'a> = dyn Fn(&mut dyn FnMut(Key, Vec<u8>) -> io::Result<bool>) -> io::Result<()> + 'a;

/// Copies what can be read of a damaged store into an empty one.
pub(crate) type Copying<'a> = dyn FnMut(Remains<'_>, &mut dyn Store) -> io::Result<()> + 'a;

/// A sorted map on disk, or in a test's memory.
///
/// Errors of kind [`InvalidData`](io::ErrorKind::InvalidData) mean that what is stored is damaged. What
/// follows is found out by [`replace`](Self::replace) only.
pub(crate) trait Store: Send {
    /// Applies all changes or none. When it returns, they are as durable as the store was opened for. The
    /// removal of a message that isn't there is damage: it was read before.
    ///
    /// After an error it is not known whether they were applied, and the store has to be reopened.
    fn commit(&mut self, changes: &[Change]) -> io::Result<()>;

    /// The first rows within the range. What is damaged may be out of its order.
    fn scan(&self, range: Range<Key>, limit: Limit) -> io::Result<Rows>;

    /// Opens the store, also again after an error.
    fn reopen(&mut self) -> io::Result<()>;

    /// Replaces a damaged file by one into which `copy` writes what can be read of it, and returns the new
    /// name of the damaged one. Nothing has changed if this fails, or the process ends meanwhile.
    fn replace(&mut self, copy: &mut Copying<'_>) -> io::Result<PathBuf>;
}

/// The place of the checksum in a row.
const CHECKSUM: Range<usize> = 1..5;

/// Binds the checksum of a row to the key, or takes that away again. What is too short to have a checksum is
/// damaged anyway.
fn seal(key: &[u8], row: &mut [u8]) {
    if let Some(checksum) = row.get_mut(CHECKSUM) {
        let of_key = crc32fast::hash(key).to_be_bytes();
        checksum.iter_mut().zip(of_key).for_each(|(byte, of_key)| *byte ^= of_key);
    }
}

/// The one row with this key, if it exists.
pub(crate) fn get(store: &dyn Store, key: Key) -> io::Result<Option<Vec<u8>>> {
    // The last number is no row's.
    let Some(next) = key.number.checked_add(1) else { return Ok(None) };
    let end = Key { number: next, ..key };
    Ok(store.scan(key..end, Limit::ONE)?.pop().map(|(_, row)| row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_encoding_and_sort_as_their_bytes() {
        let keys = [
            Key::STATE,
            Key::queue(1),
            Key::queue(700),
            Key::message(1, 2),
            Key::message(1, u64::from(u32::MAX) + 5),
            Key::message(2, 0),
            Key::set_aside(3),
        ];
        assert!(keys.is_sorted() && keys.map(Key::encode).is_sorted());
        assert!(keys.iter().all(|key| Key::decode(&key.encode()) == Some(*key)));
        assert_eq!(Key::decode(&[9; Key::LEN]), None);
        assert_eq!(Key::decode(&[0; 3]), None);
    }

    #[test]
    fn the_last_number_is_no_rows() {
        let store = memory::MemoryStore::default();
        assert_eq!(get(&store, Key::message(0, u64::MAX)).unwrap(), None);
        assert_eq!(get(&store, Key::set_aside(u64::MAX)).unwrap(), None);
    }
}
