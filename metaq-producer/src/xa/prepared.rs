//! The prepared transactions that await their decision here.

use std::{collections::BTreeMap, time::Duration};

use metaq_protocol::{BrokerAddr, XaTransactionId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::panics::contain;

/// A transaction that is prepared longer is warned of. A broker with the shipped settings makes a checkpoint each hour, which
/// can forget a prepared transaction.
const TOO_LONG: Duration = Duration::from_secs(300);

/// A transaction that was prepared through this [`XaProducer`](super::XaProducer), and is neither committed nor rolled back by it.
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
    /// By broker and name.
    prepared: Mutex<BTreeMap<(BrokerAddr, String), Prepared>>,
}

#[derive(Debug)]
struct Prepared {
    xid: XaTransactionId,
    since: Instant,
    is_warned_of: bool,
}

fn key(xid: &XaTransactionId, broker: &BrokerAddr) -> (BrokerAddr, String) {
    (broker.clone(), xid.as_str().to_owned())
}

impl PreparedTransactions {
    pub(super) fn add(&self, xid: &XaTransactionId, broker: &BrokerAddr) {
        let prepared = Prepared { xid: xid.clone(), since: Instant::now(), is_warned_of: false };
        self.prepared.lock().insert(key(xid, broker), prepared);
    }

    pub(super) fn remove(&self, xid: &XaTransactionId, broker: &BrokerAddr) {
        self.prepared.lock().remove(&key(xid, broker));
    }

    /// All, the oldest first.
    pub(super) fn all(&self) -> Vec<PreparedTransaction> {
        let now = Instant::now();
        let all = self.prepared.lock();
        let mut all: Vec<_> = all
            .iter()
            .map(|((broker, _), prepared)| PreparedTransaction {
                xid: prepared.xid.clone(),
                broker: broker.clone(),
                age: now.saturating_duration_since(prepared.since),
            })
            .collect();
        all.sort_by_key(|prepared| std::cmp::Reverse(prepared.age));
        all
    }

    /// Those at `broker` that were prepared before `asked_at` and are not in the broker's list.
    pub(super) fn missing(
        &self,
        broker: &BrokerAddr,
        listed: &[XaTransactionId],
        asked_at: Instant,
    ) -> Vec<XaTransactionId> {
        let prepared = self.prepared.lock();
        let of_broker = prepared.iter().filter(|((of, _), _)| of == broker);
        let missing =
            of_broker.filter(|(_, prepared)| prepared.since < asked_at && !listed.contains(&prepared.xid));
        missing.map(|(_, prepared)| prepared.xid.clone()).collect()
    }

    /// Warns once of each that has been prepared for too long.
    pub(super) fn warn_of_old(&self) {
        let now = Instant::now();
        let mut old = Vec::new();
        for ((broker, _), prepared) in self.prepared.lock().iter_mut() {
            let age = now.saturating_duration_since(prepared.since);
            if age >= TOO_LONG && !prepared.is_warned_of {
                prepared.is_warned_of = true;
                old.push((broker.clone(), prepared.xid.clone(), age));
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
