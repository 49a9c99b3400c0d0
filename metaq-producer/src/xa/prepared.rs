//! The prepared transactions that await their decision here.

use std::{collections::BTreeMap, time::Duration};

use metaq_protocol::{BrokerAddr, XaTransactionId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::panics::contain;

/// A transaction that is prepared longer is warned of. A broker with the shipped settings makes a checkpoint
/// each hour, which can forget a prepared transaction.
const TOO_LONG: Duration = Duration::from_secs(300);

/// A transaction that was prepared through this [`XaProducer`](super::XaProducer), and is neither committed
/// nor rolled back by it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PreparedTransaction {
    /// The transaction.
    pub xid: XaTransactionId,
    /// The broker that holds it.
    pub broker: BrokerAddr,
    /// For how long it has been prepared.
    pub age: Duration,
}

#[derive(Debug, Default)]
pub(super) struct PreparedTransactions {
    /// By name: a broker may move, and keep what is prepared there.
    prepared: Mutex<BTreeMap<String, Prepared>>,
}

#[derive(Debug)]
struct Prepared {
    xid: XaTransactionId,
    broker: BrokerAddr,
    since: Instant,
    is_warned_of: bool,
    /// The number of calls that commit it or roll it back at this moment.
    deciders: usize,
}

/// A transaction is being decided on, until this is dropped.
pub(super) struct Deciding<'a> {
    prepared: &'a PreparedTransactions,
    xid: XaTransactionId,
}

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        if let Some(prepared) = self.prepared.prepared.lock().get_mut(self.xid.as_str()) {
            prepared.deciders = prepared.deciders.saturating_sub(1);
        }
    }
}

impl PreparedTransactions {
    pub(super) fn add(&self, xid: &XaTransactionId, broker: &BrokerAddr) {
        let (xid, broker) = (xid.clone(), broker.clone());
        let name = xid.as_str().to_owned();
        let prepared = Prepared { xid, broker, since: Instant::now(), is_warned_of: false, deciders: 0 };
        self.prepared.lock().insert(name, prepared);
    }

    pub(super) fn remove(&self, xid: &XaTransactionId) {
        self.prepared.lock().remove(xid.as_str());
    }

    /// All, the oldest first.
    pub(super) fn all(&self) -> Vec<PreparedTransaction> {
        self.those(|_| true)
    }

    /// Those that were prepared before `end`, the oldest first.
    pub(super) fn before(&self, end: Instant) -> Vec<PreparedTransaction> {
        self.those(|prepared| prepared.since < end)
    }

    fn those(&self, wanted: impl Fn(&Prepared) -> bool) -> Vec<PreparedTransaction> {
        let now = Instant::now();
        let all = self.prepared.lock();
        let those = all.values().filter(|prepared| wanted(prepared));
        let mut those: Vec<_> = those
            .map(|prepared| PreparedTransaction {
                xid: prepared.xid.clone(),
                broker: prepared.broker.clone(),
                age: now.saturating_duration_since(prepared.since),
            })
            .collect();
        those.sort_by_key(|prepared| std::cmp::Reverse(prepared.age));
        those
    }

    /// Whether it was not ended meanwhile, and is not about to be.
    pub(super) fn is_undecided(&self, xid: &XaTransactionId) -> bool {
        self.prepared.lock().get(xid.as_str()).is_some_and(|prepared| prepared.deciders == 0)
    }

    /// A commit or rollback is under way: until it is complete, the transaction isn't missing.
    pub(super) fn deciding(&self, xid: &XaTransactionId) -> Deciding<'_> {
        if let Some(prepared) = self.prepared.lock().get_mut(xid.as_str()) {
            prepared.deciders += 1;
        }
        Deciding { prepared: self, xid: xid.clone() }
    }

    /// Warns once of each that has been prepared for too long.
    pub(super) fn warn_of_old(&self) {
        let now = Instant::now();
        let mut old = Vec::new();
        for prepared in self.prepared.lock().values_mut() {
            let age = now.saturating_duration_since(prepared.since);
            if age >= TOO_LONG && !prepared.is_warned_of {
                prepared.is_warned_of = true;
                old.push((prepared.broker.clone(), prepared.xid.clone(), age));
            }
        }
        for (broker, xid, age) in old {
            contain(|| {
                tracing::warn!(
                    transaction = xid.as_str(),
                    %broker,
                    ?age,
                    "an XA transaction has been prepared for long and is not decided; a restart of the broker can forget it"
                );
            });
        }
    }
}
