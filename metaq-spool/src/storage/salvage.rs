//! Saving what can be read of a damaged file into a new one.

use std::{collections::HashMap, io};

use super::rows::{QueueRow, StateRow};
use crate::{
    record::{self, QueueKey},
    store::{Change, Key, Kind, Limit, Rows, Store},
};

/// The rows that are copied at a time.
const PORTION: Limit = Limit { rows: 1024, bytes: 4 << 20 };

/// The queues that are looked for behind the last one that could be read.
const QUEUES_BEYOND: u32 = 64;

/// The first number behind `bad`, which can't be read, from which the store can be, or `end`.
pub(crate) fn next_readable(store: &dyn Store, at: impl Fn(u64) -> Key, bad: u64, end: u64) -> u64 {
    let is_readable = |number: u64| {
        let start = at(number);
        store.scan(start..Key { number: u64::MAX, ..start }, Limit::ONE).is_ok()
    };
    // Steps that double, then halves, since every try costs a read.
    let (mut bad, mut step) = (bad, 1_u64);
    let mut good = loop {
        let next = bad.saturating_add(step).min(end);
        if next == end || is_readable(next) {
            break next;
        }
        (bad, step) = (next, step.saturating_mul(2));
    };
    while bad + 1 < good {
        let middle = bad + (good - bad) / 2;
        if is_readable(middle) { good = middle } else { bad = middle }
    }
    good
}

/// Copies all messages that can be read, also those that were set aside, and returns their number.
pub(crate) fn salvage(from: &dyn Store, to: &mut dyn Store) -> io::Result<u64> {
    let mut copy = Copy { from, to, queues: HashMap::new(), state: StateRow::default(), copied: 0 };
    let (mut queue, mut last_found) = (0, 0);
    while queue <= last_found + QUEUES_BEYOND {
        if copy.copy(|number| Key::message(queue, number))? {
            last_found = queue;
        }
        queue += 1;
    }
    copy.copy(Key::set_aside)?;
    copy.finish()
}

struct Copy<'a> {
    from: &'a dyn Store,
    to: &'a mut dyn Store,
    queues: HashMap<u32, QueueRow>,
    state: StateRow,
    copied: u64,
}

impl Copy<'_> {
    /// Copies the rows of a queue, or those that were set aside; false when there were none.
    fn copy(&mut self, at: impl Fn(u64) -> Key) -> io::Result<bool> {
        let (mut next, mut found) = (0, false);
        while next < u64::MAX {
            let end = Key { number: u64::MAX, ..at(next) };
            let read = self.from.scan(at(next)..end, PORTION);
            let read = read.or_else(|_| self.from.scan(at(next)..end, Limit::ONE));
            let Ok(rows) = read else {
                next = next_readable(self.from, &at, next, u64::MAX);
                continue;
            };
            let Some((last, _)) = rows.last() else { break };
            (next, found) = (last.number + 1, true);
            self.add(rows)?;
        }
        Ok(found)
    }

    fn add(&mut self, rows: Rows) -> io::Result<()> {
        let mut changes = Vec::with_capacity(rows.len());
        for (key, row) in rows {
            if key.kind == Kind::Message {
                let known = self.queues.contains_key(&key.queue);
                let decoded = if known { None } else { record::decode(row.clone()).ok() };
                if let Some(record) = decoded {
                    let row = QueueRow::new(QueueKey::of(&record.message), key.number);
                    self.queues.insert(key.queue, row);
                }
                // A damaged message is of no use without its queue, which another one has to name.
                let Some(queue) = self.queues.get_mut(&key.queue) else { continue };
                queue.messages += 1;
                queue.bytes += row.len() as u64;
                queue.end = key.number + 1;
                self.state.next_queue = self.state.next_queue.max(key.queue + 1);
            }
            self.state.times.spool = self.state.times.spool.max(record::time(&row).unwrap_or_default());
            self.state.next_number = self.state.next_number.max(key.number + 1);
            self.copied += 1;
            changes.push(Change::Put(key, row));
        }
        self.to.commit(&changes)
    }

    fn finish(self) -> io::Result<u64> {
        let rows = self.queues.iter().map(|(id, row)| Change::Put(Key::queue(*id), row.encode()));
        let mut changes: Vec<_> = rows.collect();
        // Numbers and queues that were used and are lost are not used again.
        let next_number = self.state.next_number + (1 << 32);
        let state = StateRow { next_number, serial: 1, ..self.state };
        changes.push(Change::Put(Key::STATE, state.encode()));
        self.to.commit(&changes)?;
        Ok(self.copied)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use metaq_producer::Message;

    use super::*;
    use crate::{storage::writer::open::find, store::memory::MemoryStore};

    #[test]
    fn everything_but_the_damage_is_saved() {
        let (mut from, mut to) = (MemoryStore::default(), MemoryStore::default());
        let message = |queue: u32, n: u64| {
            let message = Message::new(format!("t{queue}").parse().unwrap(), n.to_string());
            Change::Put(Key::message(queue, n), record::encode(&message, Duration::from_millis(n)))
        };
        let changes: Vec<_> = (0..3000).map(|n| message(if n % 2 == 0 { 1 } else { 5 }, n)).collect();
        from.commit(&changes).unwrap();
        from.commit(&[Change::Put(Key::set_aside(9000), vec![1, 2])]).unwrap();
        from.0.lock().unreadable = (100..200).step_by(2).map(|n| Key::message(1, n)).collect();
        assert_eq!(salvage(&from, &mut to).unwrap(), 2951);
        let found = find(&to).unwrap();
        assert_eq!((found.queues.len(), found.held_aside), (2, 1));
        assert_eq!(found.queues.iter().map(|(_, row)| row.messages).collect::<Vec<_>>(), [1450, 1500]);
        assert!(found.state.next_number > 9000 && found.state.next_queue == 6);
        assert_eq!(found.state.times.spool, Duration::from_millis(2999));
    }
}
