//! Local transactions: keys that connections begin, and the messages that all of them share (B-18).

use std::{collections::BTreeMap, time::Duration};

use metaq_protocol::LocalTransactionId;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::pending::{PendingMessage, deadline};

/// The messages of all open local transactions. As in a Java broker there is one list for each key, however
/// many connections have begun it: the first commit stores the messages of all connections, and a rollback or
/// timeout of one drops the messages of all. Messages stay here when their connection ends.
#[derive(Debug, Default)]
pub(in crate::broker) struct LocalMessages(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    pending: BTreeMap<LocalTransactionId, Vec<PendingMessage>>,
    timers: BTreeMap<Timer, LocalTransactionId>,
    timers_set: u64,
}

/// The time at which a transaction times out, and the order in which timers were set.
type Timer = (Instant, u64);

impl LocalMessages {
    /// Changes the state after dropping the messages that have timed out.
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.lock();
        let now = Instant::now();
        while let Some(first) = state.timers.first_entry().filter(|first| first.key().0 <= now) {
            let id = first.remove();
            state.pending.remove(&id);
        }
        change(&mut state)
    }
}

/// The local transactions that one connection has begun, each with its timer. Timers outlive the connection.
#[derive(Debug, Default)]
pub(in crate::broker) struct LocalTransactions(BTreeMap<LocalTransactionId, Option<Timer>>);

impl LocalTransactions {
    /// Begins a transaction; has no effect on an open one.
    pub(in crate::broker) fn begin(
        &mut self,
        messages: &LocalMessages,
        id: &LocalTransactionId,
        seconds: i32,
        most: Duration,
    ) {
        let now = Instant::now();
        self.0.retain(|_, timer| !has_timed_out(timer.as_ref(), now));
        self.0.entry(id.clone()).or_insert_with(|| {
            let deadline = deadline(seconds, most)?;
            messages.with(|state| {
                state.timers_set += 1;
                let timer = (deadline, state.timers_set);
                state.timers.insert(timer, id.clone());
                Some(timer)
            })
        });
    }

    /// Returns whether this connection has begun the transaction, and it has not timed out.
    pub(in crate::broker) fn has(&self, id: &LocalTransactionId) -> bool {
        self.0.get(id).is_some_and(|timer| !has_timed_out(timer.as_ref(), Instant::now()))
    }

    /// Keeps a message until any connection commits the transaction.
    pub(in crate::broker) fn keep(
        messages: &LocalMessages,
        id: &LocalTransactionId,
        pending: PendingMessage,
    ) {
        messages.with(|state| state.pending.entry(id.clone()).or_default().push(pending));
    }

    /// Ends the transaction and returns the messages of all connections in it. `None` if this connection has
    /// not begun it.
    pub(in crate::broker) fn end(
        &mut self,
        messages: &LocalMessages,
        id: &LocalTransactionId,
    ) -> Option<Vec<PendingMessage>> {
        let timer = self.0.remove(id).filter(|timer| !has_timed_out(timer.as_ref(), Instant::now()))?;
        Some(messages.with(|state| {
            timer.and_then(|timer| state.timers.remove(&timer));
            state.pending.remove(id).unwrap_or_default()
        }))
    }
}

fn has_timed_out(timer: Option<&Timer>, now: Instant) -> bool {
    timer.is_some_and(|(deadline, _)| *deadline <= now)
}
