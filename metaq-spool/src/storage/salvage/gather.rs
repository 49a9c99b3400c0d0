//! What a damaged file holds outside its tree, such as the rows below an inner page that can't be read.
//!
//! Such rows may have been removed. Messages are removed in about the order of their numbers, and the row
//! about a queue says how many it has, so those with the largest numbers are the ones that are missing.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, hash_map::Entry},
    io, mem,
};

use super::{Copy, PORTION};
use crate::{
    record::{self, SetAside},
    storage::rows::{QueueRow, StateRow},
    store::{self, Key, Kind, Limit, Remains, Rows, Store},
};

/// The newest rows about the spool and its queues that are known.
#[derive(Default)]
pub(super) struct Old {
    pub(super) state: Option<StateRow>,
    queues: HashMap<u32, QueueRow>,
    /// Set if these are the newest rows, and all of them.
    is_whole: bool,
}

impl Old {
    /// Takes over the rows of a store.
    pub(super) fn read(&mut self, from: &dyn Store) {
        let rows = from.scan(Key::STATE..Key::first(Kind::Message), Limit::ALL);
        let damaged = rows.map(|rows| rows.iter().filter(|(key, row)| !self.add(*key, row)).count());
        self.is_whole = damaged.is_ok_and(|damaged| damaged == 0) && self.state.is_some();
    }

    /// Takes over a row if it is newer than the one that is known; returns false if it is damaged.
    fn add(&mut self, key: Key, row: &[u8]) -> bool {
        match key.kind {
            Kind::State => StateRow::decode(row).is_ok_and(|row| {
                if self.state.is_none_or(|state| state.serial < row.serial) {
                    self.state = Some(row);
                }
                true
            }),
            Kind::Queue => QueueRow::decode(row).is_ok_and(|row| {
                match self.queues.entry(key.queue) {
                    Entry::Vacant(entry) => drop(entry.insert(row)),
                    Entry::Occupied(mut entry) => {
                        // The end only grows, and without new messages their number only falls.
                        let age = |row: &QueueRow| (row.end, Reverse(row.messages));
                        if age(entry.get()) < age(&row) {
                            entry.insert(row);
                        }
                    }
                }
                true
            }),
            Kind::Message | Kind::SetAside => false,
        }
    }

    /// Takes over the rows that are found anywhere, and are newer or missing. Returns false if there was a
    /// later commit than that of the rows that were known.
    pub(super) fn search(&mut self, from: &Remains<'_>) -> io::Result<bool> {
        let mut found = Self::default();
        (from.each_row)(&mut |key, row| Ok(found.add(key, &row)))?;
        let serial = |old: &Self| old.state.map(|state| state.serial);
        if serial(&found) > serial(self) {
            *self = found;
            return Ok(false);
        }
        // A queue that only an old row is about was forgotten, if the others are all there are.
        if !self.is_whole {
            for (id, row) in found.queues {
                self.queues.entry(id).or_insert(row);
            }
        }
        Ok(true)
    }

    /// The number of messages that there were.
    pub(super) fn messages(&self) -> u64 {
        self.queues.values().map(|row| row.messages).sum()
    }
}

/// The messages that are looked for.
pub(super) struct Missing {
    queues: HashMap<u32, OfQueue>,
    /// Those of queues about which nothing is known.
    others: Option<OfQueue>,
}

#[derive(Clone, Copy)]
struct OfQueue {
    count: u64,
    /// Those with smaller numbers were removed.
    first: u64,
    /// Messages with larger numbers, and this one, are not among those that were counted.
    end: u64,
}

impl Missing {
    /// Compares a copy with what there was. `is_read` is set if the tree was read to its end, and `is_newest`
    /// if it is that of the newest commit.
    pub(super) fn new(copy: &Copy<'_>, old: &Old, is_read: bool, is_newest: bool) -> Self {
        let are_known = copy.known.messages.is_some() || (is_newest && old.is_whole);
        let of_queue = |id: u32, count: u64, end: u64| {
            let copied = copy.queues.get(&id);
            // A damaged row may have been any queue's.
            let found = copied.map_or(0, |row| row.messages) + copy.damaged;
            let is_readable = is_read && is_newest;
            let first = if is_readable { copied.map_or(u64::MAX, |row| row.first) } else { 0 };
            let end = if are_known || is_readable { u64::MAX } else { end };
            (id, OfQueue { count: count.saturating_sub(found), first, end })
        };
        let queues = match &copy.known.messages {
            Some(messages) => messages.iter().map(|(id, count)| of_queue(*id, *count, u64::MAX)).collect(),
            None => old.queues.iter().map(|(id, row)| of_queue(*id, row.messages, row.end)).collect(),
        };
        let others = (!are_known && !is_read).then_some(OfQueue { count: 0, first: 0, end: 0 });
        Self { queues, others }
    }

    pub(super) fn is_nothing(&self) -> bool {
        let is_nothing = |of_queue: &OfQueue| of_queue.count == 0 && of_queue.end == u64::MAX;
        self.others.is_none() && self.queues.values().all(is_nothing)
    }
}

/// Copies what is missing, and what was set aside if `aside` is set.
pub(super) fn gather(
    copy: &mut Copy<'_>,
    from: &Remains<'_>,
    missing: &Missing,
    aside: bool,
) -> io::Result<()> {
    let mut largest: HashMap<u32, BinaryHeap<Reverse<u64>>> = HashMap::new();
    let mut chosen = HashSet::new();
    (from.each_row)(&mut |key, row| {
        let is_whole = is_whole(key, &row);
        if is_whole
            && key.kind == Kind::Message
            && let Some(of_queue) = missing.queues.get(&key.queue).or(missing.others.as_ref())
            && ((of_queue.count > 0 && key.number >= of_queue.first) || key.number >= of_queue.end)
            && !chosen.contains(&key)
            && !is_copied(copy, key)?
        {
            chosen.insert(key);
            if key.number < of_queue.end {
                let numbers = largest.entry(key.queue).or_default();
                numbers.push(Reverse(key.number));
                if numbers.len() as u64 > of_queue.count
                    && let Some(Reverse(number)) = numbers.pop()
                {
                    chosen.remove(&Key::message(key.queue, number));
                }
            }
        }
        Ok(is_whole)
    })?;
    let (mut rows, mut bytes) = (Rows::new(), 0);
    (from.each_row)(&mut |key, row| {
        let is_whole = is_whole(key, &row);
        let is_wanted = match key.kind {
            Kind::SetAside => aside && is_whole && !is_copied(copy, key)?,
            _ => is_whole && chosen.remove(&key),
        };
        if is_wanted {
            bytes += row.len();
            rows.push((key, row));
            if rows.len() >= PORTION.rows || bytes >= PORTION.bytes {
                copy.add(mem::take(&mut rows), 0)?;
                bytes = 0;
            }
        }
        Ok(is_whole)
    })?;
    copy.add(rows, 0)?;
    Ok(())
}

fn is_whole(key: Key, row: &[u8]) -> bool {
    match key.kind {
        Kind::State => StateRow::decode(row).is_ok(),
        Kind::Queue => QueueRow::decode(row).is_ok(),
        Kind::Message => record::time(row).is_ok(),
        Kind::SetAside => SetAside::decode(row).is_ok(),
    }
}

/// Returns whether the message of this row was copied, also to those that were set aside, or is left out.
fn is_copied(copy: &Copy<'_>, key: Key) -> io::Result<bool> {
    let has = |key| store::get(&*copy.to, key).map(|row| row.is_some());
    let is_left_out = copy.known.left_out.contains(&key);
    Ok(is_left_out || has(key)? || (key.kind == Kind::Message && has(Key::set_aside(key.number))?))
}
