//! The local transactions that brokers hold, so that they are rolled back when their producer is closed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Branch, Rollback};
use crate::deadline;

/// The local transactions of a producer that have begun at a broker and are neither committed nor certainly
/// rolled back.
#[derive(Debug, Default)]
pub(crate) struct OpenTransactions {
    state: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    is_closed: bool,
    last: u64,
    transactions: HashMap<u64, HeldTransaction>,
}

/// The parts that rolling a transaction back needs.
#[derive(Clone, Debug)]
pub(crate) struct HeldTransaction {
    pub(crate) branch: Branch,
    /// The number of times that the connection had been established when it began.
    pub(crate) established: u64,
    pub(crate) request_timeout: Duration,
}

/// A place among the [`OpenTransactions`], given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    open: Arc<OpenTransactions>,
    number: u64,
}

impl OpenTransactions {
    /// Adds a transaction; none once the producer is being closed.
    pub(crate) fn register(self: &Arc<Self>, transaction: HeldTransaction) -> Option<Registration> {
        let mut held = self.state.lock();
        if held.is_closed {
            return None;
        }
        held.last += 1;
        let number = held.last;
        held.transactions.insert(number, transaction);
        Some(Registration { open: Arc::clone(self), number })
    }

    /// Rolls all back, and takes no more. Waits until the brokers have confirmed it, at most until
    /// `deadline`, and returns whether they have. Outside of a tokio runtime each rollback is submitted once.
    pub(crate) async fn roll_back_all(&self, until: Instant) -> bool {
        // They stay until brokers have confirmed the rollback: another close, concurrent or later, repeats
        // it.
        let held = {
            let mut held = self.state.lock();
            held.is_closed = true;
            held.transactions.clone()
        };
        if held.is_empty() {
            return true;
        }
        let numbers: Vec<_> = held.keys().copied().collect();
        let mut rollbacks: Vec<_> = held
            .into_values()
            .map(|HeldTransaction { branch, established, request_timeout }| {
                Rollback::of_local(branch, None, established, request_timeout)
            })
            .collect();
        rollbacks.iter_mut().for_each(Rollback::submit_first);
        if deadline::runtime().is_none() {
            rollbacks.iter_mut().for_each(Rollback::give_up);
            return false;
        }
        let all = join_all(rollbacks.into_iter().map(Rollback::run));
        let is_done = deadline::timeout_at(until, all).await.is_ok();
        if is_done {
            let mut held = self.state.lock();
            let confirmed: Vec<_> =
                numbers.iter().filter_map(|number| held.transactions.remove(number)).collect();
            drop(held);
            drop(confirmed);
        }
        is_done
    }
}

impl Registration {
    /// Takes the transaction out, as when its commit is about to be submitted. False when the producer is
    /// being closed and rolls it back.
    pub(crate) fn withdraw(&self) -> bool {
        let mut held = self.open.state.lock();
        let is_closed = held.is_closed;
        let withdrawn = if is_closed { None } else { held.transactions.remove(&self.number) };
        drop(held);
        drop(withdrawn);
        !is_closed
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.withdraw();
    }
}
