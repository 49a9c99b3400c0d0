//! Reading what an earlier process has left.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{QueueState, Writer, forget::KEPT};
use crate::{
    clock::Clock,
    record,
    storage::{
        Common,
        index::{Index, Queue},
        rows::{QueueRow, StateRow},
    },
    store::{self, Change, Key, Limit, Store},
};

/// What is in the folder, without its messages.
pub(crate) struct Found {
    pub(crate) state: StateRow,
    /// None when the folder is new.
    pub(crate) was_closed: Option<bool>,
    pub(crate) queues: Vec<(u32, QueueRow)>,
    pub(crate) held_aside: u64,
    pub(crate) held_aside_bytes: u64,
    /// Messages that are missing since the file was damaged.
    pub(crate) lost: u64,
    /// The number of messages of each queue that an earlier process may have replayed and not removed.
    pub(crate) maybe_replayed: u64,
    /// Queues that were empty, whose rows the next commit removes.
    pub(crate) forgotten: Vec<u32>,
}

/// Reads the rows about the spool and its queues.
pub(crate) fn find(store: &dyn Store) -> io::Result<Found> {
    let mut queues = Vec::new();
    for (key, row) in store.scan(Key::all_queues(), Limit::ALL)? {
        match QueueRow::decode(&row) {
            Ok(row) => queues.push((key.queue, row)),
            Err(error) if error.is_newer => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, error.to_string()));
            }
            Err(_) => queues.extend(rebuild(store, key.queue)?.map(|row| (key.queue, row))),
        }
    }
    add_queues_without_row(store, &mut queues)?;
    let stored = store::get(store, Key::STATE)?;
    let state = match stored.as_deref().map(StateRow::decode) {
        Some(Ok(state)) => Some(state),
        Some(Err(error)) if error.is_newer => {
            return Err(io::Error::new(io::ErrorKind::Unsupported, error.to_string()));
        }
        _ => None,
    };
    let was_closed = match (&state, stored) {
        (Some(state), _) => Some(state.is_closed),
        (None, Some(_)) => Some(false),
        (None, None) => None,
    };
    let mut state = state.unwrap_or_default();
    // If that row is damaged, those of the queues know enough.
    for (id, row) in &queues {
        state.next_number = state.next_number.max(row.end);
        state.next_queue = state.next_queue.max(id + 1);
    }
    let (mut held_aside, mut held_aside_bytes, mut from) = (0, 0, 0);
    loop {
        let rows = store.scan(Key::all_set_aside(from), Limit { rows: 10_000, bytes: 16 << 20 })?;
        let Some((last, _)) = rows.last() else { break };
        from = last.number + 1;
        held_aside += rows.len() as u64;
        held_aside_bytes += rows.iter().map(|(_, row)| row.len() as u64).sum::<u64>();
    }
    state.next_number = state.next_number.max(from);
    Ok(Found {
        state,
        was_closed,
        queues,
        held_aside,
        held_aside_bytes,
        lost: 0,
        maybe_replayed: 0,
        forgotten: Vec::new(),
    })
}

/// Rebuilds the rows of queues that are missing, as their keys were damaged. It looks at one message of each
/// queue that has its row.
fn add_queues_without_row(store: &dyn Store, queues: &mut Vec<(u32, QueueRow)>) -> io::Result<()> {
    let known: HashSet<_> = queues.iter().map(|(queue, _)| *queue).collect();
    let mut next = 0;
    while let Some((key, _)) = store.scan(Key::messages_from(next), Limit::ONE)?.pop() {
        if !known.contains(&key.queue) {
            queues.extend(rebuild(store, key.queue)?.map(|row| (key.queue, row)));
        }
        // Damaged ones may be out of their order.
        let Some(after) = next.max(key.queue).checked_add(1) else { break };
        next = after;
    }
    queues.sort_unstable_by_key(|(queue, _)| *queue);
    Ok(())
}

/// The row of a queue from its messages; none if there are none.
fn rebuild(store: &dyn Store, queue: u32) -> io::Result<Option<QueueRow>> {
    let mut found: Option<QueueRow> = None;
    let (mut from, mut messages, mut bytes) = (0, 0, 0);
    loop {
        let rows = store.scan(Key::messages(queue, from), Limit { rows: 10_000, bytes: 16 << 20 })?;
        let Some((last, _)) = rows.last() else { break };
        from = last.number + 1;
        for (key, row) in rows {
            messages += 1;
            bytes += row.len() as u64;
            if found.is_none()
                && let Ok(record) = record::decode(row)
            {
                found = Some(QueueRow::new(record::QueueKey::of(&record.message), key.number));
            }
        }
    }
    Ok(found.map(|row| QueueRow { first: 0, end: from, messages, bytes, ..row }))
}

impl Found {
    /// Moves the messages of queues that exist twice into the one with the smaller number: only one of them
    /// would be found by its topic and partition.
    pub(crate) fn unite_queues(&mut self, store: &mut dyn Store) -> io::Result<()> {
        let mut first = HashMap::new();
        for at in 0..self.queues.len() {
            let known = *first.entry(self.queues[at].1.key.clone()).or_insert(at);
            if known != at {
                self.move_queue(store, at, known)?;
            }
        }
        Ok(())
    }

    fn move_queue(&mut self, store: &mut dyn Store, from: usize, to: usize) -> io::Result<()> {
        let (from_id, to_id) = (self.queues[from].0, self.queues[to].0);
        loop {
            let rows = store.scan(Key::messages(from_id, 0), Limit { rows: 1024, bytes: 4 << 20 })?;
            let mut changes = Vec::new();
            let (count, bytes) =
                (rows.len() as u64, rows.iter().map(|(_, row)| row.len() as u64).sum::<u64>());
            let into = &mut self.queues[to].1;
            (into.messages, into.bytes) = (into.messages + count, into.bytes + bytes);
            for (key, row) in rows {
                into.first = into.first.min(key.number);
                into.end = into.end.max(key.number + 1);
                changes.extend([Change::Remove(key), Change::Put(Key::message(to_id, key.number), row)]);
            }
            let left = &mut self.queues[from].1;
            (left.messages, left.bytes) =
                (left.messages.saturating_sub(count), left.bytes.saturating_sub(bytes));
            if count == 0 {
                // There are no more, whatever its row says.
                (left.messages, left.bytes) = (0, 0);
                return Ok(());
            }
            for at in [from, to] {
                let (id, row) = &self.queues[at];
                changes.push(Change::Put(Key::queue(*id), row.encode()));
            }
            store.commit(&changes)?;
        }
    }

    /// Marks the folder as in use, and forgets empty queues, so that their number is bounded by what is in
    /// use. Nothing is written if the process before has not closed it: then it is marked already, and the
    /// first commit would take as long as the disk takes for all that the process has left.
    pub(crate) fn take_up(&mut self, store: &mut dyn Store, clock: &Clock, window: u64) -> io::Result<()> {
        self.unite_queues(store)?;
        // As many as the earlier processes may have left, which keeps counting until none of these is left.
        let left = match self.was_closed {
            Some(false) if self.state.window == 0 => window,
            Some(_) => self.state.window,
            None => 0,
        };
        let window = window.max(left);
        self.maybe_replayed = left;
        let state = StateRow {
            serial: self.state.serial + 1,
            is_closed: false,
            times: clock.times(),
            window,
            ..self.state
        };
        let empty = self.queues.extract_if(.., |(_, row)| row.messages == 0);
        self.forgotten = empty.map(|(id, _)| id).collect();
        if self.was_closed == Some(false) && self.state.window == window {
            return Ok(());
        }
        let mut changes: Vec<_> = self.forgotten.drain(..).map(|id| Change::Remove(Key::queue(id))).collect();
        changes.push(Change::Put(Key::STATE, state.encode()));
        store.commit(&changes)?;
        self.state = state;
        Ok(())
    }

    /// The queues that hold messages, as those who spool and replay see them.
    pub(crate) fn index(&self) -> (Index, BTreeMap<u32, QueueState>) {
        let filled = self.queues.iter().filter(|(_, row)| row.messages > 0);
        let states: BTreeMap<_, _> = filled
            .map(|(id, row)| {
                let queue = Arc::new(Queue::new(*id, row.key.clone(), row.messages));
                let mut state = QueueState::new(row.clone(), queue);
                state.maybe_replayed = self.maybe_replayed;
                (*id, state)
            })
            .collect();
        let queues = states.values().map(|state| Arc::clone(&state.queue));
        (Index::new(queues, self.state.next_queue), states)
    }
}

impl Writer {
    /// Goes on with what was found and taken up.
    pub(crate) fn new(
        store: Box<dyn Store>,
        common: Arc<Common>,
        found: &Found,
        queues: BTreeMap<u32, QueueState>,
    ) -> Self {
        common.ledger.update(|counts| {
            let rows = || queues.values().map(|state| &state.row);
            counts.waiting = rows().map(|row| row.messages).sum();
            counts.waiting_bytes = rows().map(|row| row.bytes).sum();
            (counts.recovered, counts.damaged) = (counts.waiting + found.lost, found.lost);
            (counts.held_aside, counts.held_aside_bytes) = (found.held_aside, found.held_aside_bytes);
        });
        let now = Instant::now();
        Self {
            store,
            common,
            state: found.state,
            queues,
            appends: Vec::new(),
            unremoved: BTreeMap::new(),
            to_place: BTreeMap::new(),
            flushes: Vec::new(),
            last_commit: now.checked_sub(Duration::from_secs(1)).unwrap_or(now),
            next_age_check: now,
            retry_at: None,
            is_broken: false,
            in_doubt: None,
            replace_at: None,
            forgotten: found.forgotten.clone(),
            looks_at: KEPT,
            emptied: 0,
        }
    }
}
