//! The thread that owns the store. What comes while it writes is written together the next time.

mod batch;
mod damage;
mod doubt;
mod forget;
pub(crate) mod open;
mod place;
mod space;
mod writing;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    Common,
    inbox::{Append, Finished, Placed, Request, Stored},
    index::Queue,
    rows::{QueueRow, StateRow},
};
use crate::{
    events::{DropReason, SpoolEvent, contain},
    options::Fsync,
    record,
    store::{Key, Limit, Rows, Store},
};

/// The pause before what could not be written is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// The longest interval between writes, since longer ones may be beyond the system's clock.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A queue as the writer knows it.
#[derive(Debug)]
pub(crate) struct QueueState {
    pub(crate) row: QueueRow,
    pub(crate) queue: Arc<Queue>,
    /// Messages with smaller numbers were dropped, also while they were replayed.
    dropped_below: u64,
    /// The exceptions: messages that were moved into the queue later.
    placed_below: BTreeSet<u64>,
    /// The number of messages that an earlier process may have replayed and not removed.
    pub(crate) maybe_replayed: u64,
}

impl QueueState {
    pub(crate) fn new(row: QueueRow, queue: Arc<Queue>) -> Self {
        Self { row, queue, dropped_below: 0, placed_below: BTreeSet::new(), maybe_replayed: 0 }
    }
}

pub(crate) struct Writer {
    store: Box<dyn Store>,
    common: Arc<Common>,
    state: StateRow,
    queues: BTreeMap<u32, QueueState>,
    appends: Vec<Append>,
    /// Messages to remove, by queue and number: they are in the store, and are not read again.
    unremoved: BTreeMap<(u32, u64), (Arc<Queue>, Finished)>,
    /// The same for messages to move to other queues.
    to_place: BTreeMap<(u32, u64), Placed>,
    flushes: Vec<oneshot::Sender<()>>,
    last_commit: Instant,
    next_age_check: Instant,
    retry_at: Option<Instant>,
    /// The store must be opened again before it is used.
    is_broken: bool,
    in_doubt: Option<doubt::InDoubt>,
    /// When a damaged file may be replaced again, if the last attempt has failed.
    replace_at: Option<Instant>,
    /// Queues that are not known any more, and whose rows the next commit removes.
    forgotten: Vec<u32>,
    /// The number of queues from which on it is looked for those that can be forgotten.
    looks_at: usize,
    /// The number of queues that were emptied since that was done.
    emptied: usize,
}

impl Writer {
    /// Handles requests until the inbox is closed and empty, and marks the folder as closed then.
    pub(crate) fn run(mut self) {
        while let Some(requests) = self.common.inbox.take(self.next_deadline()) {
            self.work(requests);
        }
        self.write_pending();
        self.close();
    }

    /// The same on a task, on a store that takes some time for each round.
    #[cfg(test)]
    pub(crate) async fn run_on_task(mut self, round: impl Fn() -> Duration) {
        let common = Arc::clone(&self.common);
        while let Some(requests) = common.inbox.take_on_task(self.next_deadline()).await {
            let pause = round();
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            self.work(requests);
        }
        self.write_pending();
        self.close();
    }

    fn work(&mut self, requests: VecDeque<Request>) {
        for request in requests {
            self.handle(request);
        }
        if self.is_due() {
            self.write_pending();
        }
        self.check_age();
        self.forget_unused();
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Append(append) => self.appends.push(append),
            Request::Finish(queue, finished) => {
                // Those that were dropped while they were replayed count as dropped.
                for finished in finished {
                    if self.is_dropped(queue.id, finished.number) {
                        queue.end_removal(1);
                        // Replay may wait for that.
                        contain(|| self.common.changed.notify_waiters());
                        continue;
                    }
                    let key = (queue.id, finished.number);
                    if self.unremoved.insert(key, (Arc::clone(&queue), finished)).is_some() {
                        queue.end_removal(1);
                    }
                }
            }
            Request::Place(placed) => self.accept_placed(placed),
            Request::Read(queue, from, limit, answer) => {
                // The reader may be gone.
                let rows = self.read(&queue, from, limit);
                contain(|| _ = answer.send(rows));
            }
            Request::Flush(answer) => self.flushes.push(answer),
        }
    }

    /// Whether what came is to be written now.
    fn is_due(&self) -> bool {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| now < at) && self.appends.is_empty() && self.flushes.is_empty() {
            return false;
        }
        match self.common.fsync {
            // Half of the slots: those who wait for more would wait for the interval.
            Fsync::Interval(interval) if self.flushes.is_empty() && !self.common.inbox.is_crowded() => {
                self.has_pending() && now.saturating_duration_since(self.last_commit) >= interval.min(LONGEST)
            }
            _ => self.has_pending() || !self.flushes.is_empty(),
        }
    }

    fn has_pending(&self) -> bool {
        !self.appends.is_empty() || !self.unremoved.is_empty() || !self.to_place.is_empty()
    }

    /// The time at which something is due although no request comes.
    fn next_deadline(&self) -> Option<Instant> {
        let commit = match self.common.fsync {
            Fsync::Interval(interval) if self.has_pending() => Some(self.last_commit + interval.min(LONGEST)),
            _ => None,
        };
        let retry = self.has_pending().then(|| self.retry_at.unwrap_or_else(Instant::now));
        let age = self.common.max_age.map(|_| self.next_age_check);
        [commit.max(retry), age].into_iter().flatten().min()
    }

    /// The first messages of a queue from a number on, without those that are too old or only wait for their
    /// removal.
    fn read(&mut self, queue: &Queue, from: u64, limit: Limit) -> io::Result<Stored> {
        self.mend()?;
        let first = self.queues.get(&queue.id).map_or(0, |state| state.row.first);
        let from = from.max(first);
        let scan = |store: &dyn Store| store.scan(Key::messages(queue.id, from), limit);
        let mut scanned = scan(&*self.store);
        if let Err(error) = &scanned
            && error.kind() == io::ErrorKind::InvalidData
        {
            let rebuilt = self.rebuild(error).inspect_err(|error| self.store_failed(error));
            scanned = rebuilt.and_then(|()| scan(&*self.store));
        }
        let mut rows = scanned.inspect_err(|_| self.is_broken = true)?;
        let is_queued = |state: &QueueState| state.row.messages > 0;
        if rows.is_empty()
            && from == first
            && self.queues.get(&queue.id).is_some_and(is_queued)
            && self.unremoved.range((queue.id, 0)..=(queue.id, u64::MAX)).next().is_none()
            && self.to_place.range((queue.id, 0)..=(queue.id, u64::MAX)).next().is_none()
        {
            self.lose_missing(queue.id)?;
        }
        // Those behind the head may be behind others that are in flight, and are dropped at the head.
        let expired = if from == first { self.expired(&rows) } else { 0 };
        let young = rows.split_off(expired);
        if !rows.is_empty() && self.drop_rows(queue.id, &rows, DropReason::Age).is_err() {
            // What was too old to be sent is not sent since it can't be dropped.
            tracing::debug!(queue = queue.id, "messages that are too old are dropped later");
        }
        let young = young.into_iter().map(|(key, row)| (key.number, row));
        Ok(young.filter(|(number, _)| !self.is_leaving(queue.id, *number)).collect())
    }

    /// Whether a message was dropped, also while it was replayed.
    fn is_dropped(&self, queue: u32, number: u64) -> bool {
        let state = self.queues.get(&queue);
        state.is_some_and(|state| number < state.dropped_below && !state.placed_below.contains(&number))
    }

    /// Whether a message only waits for its removal, or to be moved to another queue.
    fn is_leaving(&self, queue: u32, number: u64) -> bool {
        self.unremoved.contains_key(&(queue, number)) || self.to_place.contains_key(&(queue, number))
    }

    /// The number of rows at the beginning that have reached the greatest age.
    fn expired(&self, rows: &Rows) -> usize {
        let Some(max_age) = self.common.max_age else { return 0 };
        let now = self.common.clock.now();
        let is_old = |row: &[u8]| record::time(row).is_ok_and(|time| now.saturating_sub(time) >= max_age);
        rows.iter().take_while(|(_, row)| is_old(row)).count()
    }

    fn check_age(&mut self) {
        let Some(max_age) = self.common.max_age else { return };
        let now = Instant::now();
        if now < self.next_age_check {
            return;
        }
        let pause = (max_age / 10).clamp(Duration::from_millis(50), Duration::from_secs(60));
        self.next_age_check = now + pause;
        if self.mend().is_err() {
            return;
        }
        let filled = self.queues.iter().filter(|(_, state)| state.row.messages > 0);
        let filled: Vec<_> = filled.map(|(id, state)| (*id, state.row.first)).collect();
        for (queue, first) in filled {
            self.drop_expired(queue, first);
        }
    }

    /// Drops the messages at the beginning of a queue that are too old, until that fails.
    fn drop_expired(&mut self, queue: u32, mut from: u64) {
        let limit = Limit { rows: 1024, bytes: 4 << 20 };
        while let Ok(mut rows) = self.store.scan(Key::messages(queue, from), limit) {
            let (found, expired) = (rows.len(), self.expired(&rows));
            rows.truncate(expired);
            let Some((last, _)) = rows.last() else { return };
            // Rows that only wait for their removal stay: the next ones are behind them.
            from = last.number + 1;
            if self.drop_rows(queue, &rows, DropReason::Age).is_err() || expired < found {
                return;
            }
        }
    }

    fn store_failed(&mut self, error: &io::Error) {
        if self.retry_at.is_none() {
            self.common.events.send(SpoolEvent::StoreFailed { reason: error.to_string() });
        }
        self.retry_at = Some(Instant::now() + RETRY);
    }
}
