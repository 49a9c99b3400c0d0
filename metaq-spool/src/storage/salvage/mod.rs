//! Saving what can be read of a damaged file into a new one, which takes its place when it is complete.

mod gather;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
};

use self::gather::{Missing, Old, gather};
use super::{
    rows::{QueueRow, StateRow},
    writer::open::{Found, find},
};
use crate::{
    fields::BadRow,
    record::{self, QueueKey, SetAside},
    store::{self, Change, Key, Kind, Limit, Remains, Rows, Store},
};

/// The rows that are copied at a time.
const PORTION: Limit = Limit { rows: 1024, bytes: 4 << 20 };

/// Numbers that may have been used and are lost: as many are not used again.
const MAYBE_USED: u64 = 1 << 32;

/// What the process that replaces a file knows about it.
#[derive(Default)]
pub(crate) struct Known {
    /// Messages that are left out: they were replayed, moved, or reported as not stored.
    pub(crate) left_out: HashSet<Key>,
    /// Rows that are written beside those that are copied.
    pub(crate) added: Vec<Change>,
    /// None while the folder is opened.
    pub(crate) state: Option<StateRow>,
    /// The numbers of messages in all queues; none while the folder is opened.
    pub(crate) messages: Option<HashMap<u32, u64>>,
}

/// What was saved.
pub(crate) struct Saved {
    /// The new name of the damaged file.
    pub(crate) path: PathBuf,
    /// The number of messages that were copied, those included that were set aside.
    pub(crate) salvaged: u64,
    /// What the new file holds, and how many messages are missing in it.
    pub(crate) found: Found,
}

/// Replaces a damaged file by a new one with all that can be read. When it fails, nothing has changed.
pub(crate) fn replace_damaged(store: &mut dyn Store, known: &Known) -> io::Result<Saved> {
    let (mut salvaged, mut lost) = (0, 0);
    let path = store.replace(&mut |from, to| {
        (salvaged, lost) = Copy::new(to, known).run(from)?;
        Ok(())
    })?;
    let found = Found { lost, ..find(store)? };
    Ok(Saved { path, salvaged, found })
}

struct Copy<'a> {
    to: &'a mut dyn Store,
    known: &'a Known,
    queues: HashMap<u32, QueueRow>,
    state: StateRow,
    salvaged: u64,
    /// The number of rows that are damaged.
    damaged: u64,
}

impl<'a> Copy<'a> {
    fn new(to: &'a mut dyn Store, known: &'a Known) -> Self {
        Self { to, known, queues: HashMap::new(), state: StateRow::default(), salvaged: 0, damaged: 0 }
    }

    /// Copies everything, and returns the numbers of copied messages and of those that are missing.
    fn run(mut self, from: Remains<'_>) -> io::Result<(u64, u64)> {
        let mut old = Old::default();
        let (mut is_read, mut is_aside_read, mut is_newest) = (false, false, false);
        if let Some((tree, is_of_newest)) = from.tree {
            is_newest = is_of_newest;
            old.read(tree);
            is_read = self.copy(tree, Kind::Message)?;
            is_aside_read = self.copy(tree, Kind::SetAside)?;
        }
        is_newest &= old.search(&from)?;
        let expected = old.messages();
        let missing = Missing::new(&self, &old, is_read, is_newest);
        if !missing.is_nothing() || !is_aside_read {
            gather(&mut self, &from, &missing, !is_aside_read)?;
        }
        let used = self.known.state.or(old.state);
        for change in &self.known.added {
            if let Change::Put(key @ Key { kind: Kind::Message, .. }, row) = change {
                self.check_message(*key, row).map_err(|error| io::Error::other(error.to_string()))?;
                self.state.next_number = self.state.next_number.max(key.number + 1);
                self.salvaged += 1;
            }
        }
        let copied: u64 = self.queues.values().map(|row| row.messages).sum();
        let mut changes = self.known.added.clone();
        changes.extend(self.queues.iter().map(|(id, row)| Change::Put(Key::queue(*id), row.encode())));
        let state = match used {
            Some(used) => StateRow {
                serial: used.serial + 1,
                next_number: used.next_number.max(self.state.next_number),
                next_queue: used.next_queue.max(self.state.next_queue),
                ..used
            },
            None => StateRow {
                serial: 1,
                next_number: self.state.next_number.saturating_add(MAYBE_USED),
                ..self.state
            },
        };
        changes.push(Change::Put(Key::STATE, state.encode()));
        self.to.commit(&changes)?;
        Ok((self.salvaged, expected.saturating_sub(copied)))
    }

    /// Copies the rows of a kind, and returns whether all of them could be read.
    fn copy(&mut self, from: &dyn Store, kind: Kind) -> io::Result<bool> {
        let mut is_complete = true;
        let scan = |next: u128, limit| from.scan(Key::at(kind, next)..Key::last(kind), limit);
        let (mut next, end) = (Key::first(kind).ordinal(), Key::last(kind).ordinal());
        let mut at_once = PORTION.rows;
        while next < end {
            let rows = match scan(next, Limit { rows: at_once, ..PORTION }) {
                Ok(rows) => rows,
                // There is damage behind the first ones.
                Err(_) if at_once > 1 => {
                    is_complete = false;
                    at_once /= 2;
                    continue;
                }
                Err(_) => {
                    is_complete = false;
                    next = next_good(next, end, |place| scan(place, Limit::ONE).is_ok());
                    continue;
                }
            };
            at_once = (at_once * 2).min(PORTION.rows);
            let Some((first, _)) = rows.first() else { break };
            let first = *first;
            next = match self.add(rows, next)? {
                Some(last) => last.ordinal() + 1,
                // Its key is as little to be trusted as the rest of it.
                None => next_good(next, end, |place| {
                    scan(place, Limit::ONE)
                        .is_ok_and(|rows| rows.first().is_none_or(|(key, _)| *key != first))
                }),
            };
        }
        Ok(is_complete)
    }

    /// Copies rows that were found from a place on, and returns the largest key of those that are whole.
    fn add(&mut self, rows: Rows, from: u128) -> io::Result<Option<Key>> {
        let mut last = None;
        let mut changes = Vec::with_capacity(rows.len());
        for (key, row) in rows {
            // A damaged key before them leads back to rows that were copied already.
            let is_back = key.ordinal() < from;
            let behind = if is_back { None } else { Some(key) };
            if self.known.left_out.contains(&key) {
                last = last.max(behind);
                continue;
            }
            if is_back && store::get(&*self.to, key)?.is_some() {
                continue;
            }
            let checked = match key.kind {
                Kind::Message => self.check_message(key, &row),
                _ => SetAside::decode(&row).map(|aside| aside.time),
            };
            match checked {
                Ok(time) => {
                    last = last.max(behind);
                    self.state.times.spool = self.state.times.spool.max(time);
                    self.state.next_number = self.state.next_number.max(key.number + 1);
                    self.salvaged += 1;
                    changes.push(Change::Put(key, row));
                }
                Err(error) if error.is_newer => {
                    return Err(io::Error::new(io::ErrorKind::Unsupported, error.to_string()));
                }
                Err(error) => {
                    self.damaged += 1;
                    changes.push(damaged(key, row, &error));
                }
            }
        }
        self.to.commit(&changes)?;
        Ok(last)
    }

    /// Checks a message and adds it to its queue; returns its time.
    fn check_message(&mut self, key: Key, row: &[u8]) -> Result<std::time::Duration, BadRow> {
        let record = record::decode(row.to_vec()).map_err(|(_, error)| error)?;
        let new = || QueueRow::new(QueueKey::of(&record.message), key.number);
        let queue = self.queues.entry(key.queue).or_insert_with(new);
        queue.messages += 1;
        queue.bytes += row.len() as u64;
        queue.first = queue.first.min(key.number);
        queue.end = queue.end.max(key.number + 1);
        self.state.next_queue = self.state.next_queue.max(key.queue + 1);
        Ok(record.time)
    }
}

/// A damaged row is kept with those that were set aside.
fn damaged(key: Key, row: Vec<u8>, error: &BadRow) -> Change {
    if key.kind != Kind::Message {
        return Change::Put(key, row);
    }
    let reason = format!("it is damaged: {error}");
    let aside = SetAside { queue: key.queue, reason, attempts: 0, time: std::time::Duration::ZERO, row };
    Change::Put(Key::set_aside(key.number), aside.encode())
}

/// The first place behind `bad` that is good, or `end`.
fn next_good(mut bad: u128, end: u128, is_good: impl Fn(u128) -> bool) -> u128 {
    // Steps that double, then halves, since every try costs a read.
    let mut step = 1;
    let mut good = loop {
        let next = (bad + step).min(end);
        if next == end || is_good(next) {
            break next;
        }
        (bad, step) = (next, step * 2);
    };
    while bad + 1 < good {
        let middle = bad + (good - bad) / 2;
        if is_good(middle) { good = middle } else { bad = middle }
    }
    good
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use metaq_producer::Message;

    use super::*;
    use crate::store::memory::MemoryStore;

    fn message(queue: u32, n: u64) -> Change {
        let message = Message::new(format!("t{queue}").parse().unwrap(), n.to_string());
        Change::Put(Key::message(queue, n), record::encode(&message, Duration::from_millis(n.min(2999))))
    }

    #[test]
    fn everything_but_the_damage_is_saved() {
        let mut store = MemoryStore::default();
        // Numbers of queues only grow.
        let changes: Vec<_> = (0..3000).map(|n| message(if n % 2 == 0 { 1 } else { 70_005 }, n)).collect();
        store.commit(&changes).unwrap();
        store
            .commit(&[Change::Put(Key::set_aside(9000), vec![1, 2]), message(u32::MAX - 1, 1 << 63)])
            .unwrap();
        store.0.lock().unreadable = (100..200).step_by(2).map(|n| Key::message(1, n)).collect();
        store.0.lock().rows.get_mut(&Key::message(1, 300)).unwrap()[9] ^= 1;
        let saved = replace_damaged(&mut store, &Known::default()).unwrap();
        assert_eq!((saved.salvaged, saved.found.lost), (2950, 0), "no row says what there was");
        let messages: Vec<_> = saved.found.queues.iter().map(|(id, row)| (*id, row.messages)).collect();
        assert_eq!(messages, [(1, 1449), (70_005, 1500), (u32::MAX - 1, 1)]);
        assert_eq!(saved.found.held_aside, 2, "the damaged one as well");
        assert!(saved.found.state.next_number > 1 << 63 && saved.found.state.next_queue == u32::MAX);
        assert_eq!(saved.found.state.times.spool, Duration::from_millis(2999));
    }

    #[test]
    fn what_was_replayed_is_left_out_and_what_is_missing_is_known() {
        let mut store = MemoryStore::default();
        let mut row = QueueRow::new(QueueKey { topic: "t1".parse().unwrap(), partition: None }, 0);
        (row.messages, row.end) = (10, 10);
        let mut changes: Vec<_> = (0..8).map(|n| message(1, n)).collect();
        changes.push(Change::Put(Key::queue(1), row.encode()));
        let state =
            StateRow { serial: 5, next_number: 33, next_queue: 4, is_closed: true, ..StateRow::default() };
        changes.push(Change::Put(Key::STATE, state.encode()));
        store.commit(&changes).unwrap();
        let known = Known { left_out: HashSet::from([Key::message(1, 3)]), ..Known::default() };
        let saved = replace_damaged(&mut store, &known).unwrap();
        assert_eq!((saved.salvaged, saved.found.lost, saved.found.queues[0].1.messages), (7, 3, 7));
        assert_eq!(saved.found.state, StateRow { serial: 6, ..state });
    }

    #[test]
    fn a_full_disk_leaves_the_damaged_file_as_it_is() {
        let mut store = MemoryStore::default();
        store.commit(&[message(1, 1)]).unwrap();
        store.0.lock().is_full = true;
        replace_damaged(&mut store, &Known::default()).err().unwrap();
        assert_eq!(store.0.lock().rows.len(), 1);
    }
}
