//! The thread that owns the store. What comes while it writes is written together the next time.

mod batch;
mod damage;
mod doubt;
pub(crate) mod open;
mod place;
mod space;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
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

/// A queue as the writer knows it.
#[derive(Debug)]
pub(crate) struct QueueState {
    pub(crate) row: QueueRow,
    pub(crate) queue: Arc<Queue>,
    /// Messages with smaller numbers were dropped, also while they were replayed.
    dropped_below: u64,
    /// The number of messages that an earlier process may have replayed and not removed.
    pub(crate) maybe_replayed: u64,
}

impl QueueState {
    pub(crate) fn new(row: QueueRow, queue: Arc<Queue>) -> Self {
        Self { row, queue, dropped_below: 0, maybe_replayed: 0 }
    }
}

pub(crate) struct Writer {
    store: Box<dyn Store>,
    common: Arc<Common>,
    state: StateRow,
    queues: BTreeMap<u32, QueueState>,
    appends: Vec<Append>,
    /// Messages to remove, in order, and by their numbers: they are in the store, and are not read again.
    finished: Vec<(Arc<Queue>, Finished)>,
    unremoved: HashSet<(u32, u64)>,
    /// Messages to move to other queues.
    to_place: Vec<Placed>,
    flushes: Vec<oneshot::Sender<()>>,
    last_commit: Instant,
    next_age_check: Instant,
    retry_at: Option<Instant>,
    /// The store must be opened again before it is used.
    is_broken: bool,
    in_doubt: Option<doubt::InDoubt>,
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
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Append(append) => self.appends.push(append),
            Request::Finish(queue, finished) => {
                let dropped_below = self.queues.get(&queue.id).map_or(0, |state| state.dropped_below);
                // Those that were dropped while they were replayed count as dropped.
                for finished in finished {
                    if finished.number < dropped_below {
                        queue.end_removal(1);
                        // Replay may wait for that.
                        contain(|| self.common.changed.notify_waiters());
                        continue;
                    }
                    self.unremoved.insert((queue.id, finished.number));
                    self.finished.push((Arc::clone(&queue), finished));
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
                self.has_pending() && now >= self.last_commit + interval
            }
            _ => self.has_pending() || !self.flushes.is_empty(),
        }
    }

    fn has_pending(&self) -> bool {
        !self.appends.is_empty() || !self.finished.is_empty() || !self.to_place.is_empty()
    }

    /// The time at which something is due although no request comes.
    fn next_deadline(&self) -> Option<Instant> {
        let commit = match self.common.fsync {
            Fsync::Interval(interval) if self.has_pending() => Some(self.last_commit + interval),
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
        let mut rows = match self.store.scan(Key::messages(queue.id, from), limit) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.read_damaged(queue.id, from, limit)?
            }
            Err(error) => {
                self.is_broken = true;
                return Err(error);
            }
            Ok(rows) => rows,
        };
        let is_queued = |state: &QueueState| state.row.messages > 0;
        if rows.is_empty()
            && from == first
            && self.queues.get(&queue.id).is_some_and(is_queued)
            && !self.unremoved.iter().any(|(id, _)| *id == queue.id)
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
        let unremoved = |number| self.unremoved.contains(&(queue.id, number));
        let young = young.into_iter().map(|(key, row)| (key.number, row));
        Ok(young.filter(|(number, _)| !unremoved(*number)).collect())
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
