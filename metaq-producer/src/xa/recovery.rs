//! The transactions to be decided on, at all brokers.

use std::sync::Arc;

use futures_util::future::join_all;
use metaq_protocol::{BrokerAddr, TransactionAction, TransactionId, XaTransactionId, parse_recovered};
use metaq_transport::Connection;
use tokio::time::Instant;

use super::{PreparedTransaction, XaError, XaErrorCode, XaProducer};
use crate::deadline;

/// A prepared transaction that a broker holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveredTransaction {
    /// The transaction.
    pub xid: XaTransactionId,
    /// The broker that holds it; [`XaProducer::resource_at`] makes the resource to end it by.
    pub broker: BrokerAddr,
}

/// The result of [`XaProducer::recover`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Recovery {
    /// The transactions of all brokers that answered.
    pub transactions: Vec<RecoveredTransaction>,
    /// Transactions that were prepared through this [`XaProducer`], were not ended by it, and that their
    /// broker doesn't list: they were committed or rolled back by others, or the broker has forgotten them.
    pub missing: Vec<RecoveredTransaction>,
    /// The reasons why other brokers did not answer, or that a line of an answer can't be read. They may hold
    /// more.
    pub failures: Vec<(BrokerAddr, XaError)>,
}

impl Recovery {
    /// Whether every known broker listed all that it holds. If not, recover again later.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty()
    }
}

/// The list of a broker.
pub(super) struct Listed {
    pub(super) transactions: Vec<XaTransactionId>,
    /// The first line that can't be read.
    pub(super) unreadable: Option<XaError>,
}

impl XaProducer {
    /// Asks every broker for the prepared transactions that hold this producer's qualifier, and those that an
    /// operator decided on and that are not [forgotten](super::XaResource::forget). All are asked at the same
    /// time.
    ///
    /// Asked are the brokers of the published topics. Brokers that were seen before, or that the program
    /// [expects](Self::expect_brokers), and are not among them now are in [`failures`](Recovery::failures):
    /// recover again when they are back, and keep decisions until then.
    ///
    /// A listed transaction may be under way: another program, or another part of this one, may have prepared
    /// it a moment ago and be about to decide. Only a program that knows that no other instance with this
    /// qualifier runs may roll back transactions that have no decision.
    ///
    /// A transaction that isn't listed by its broker was committed or rolled back, or the broker forgot it
    /// when it was restarted: see [`XaResource::commit`](super::XaResource::commit). So keep a decision until
    /// its commit was confirmed; if the transaction isn't listed any more and its commit was not confirmed,
    /// look whether its messages are stored.
    ///
    /// # Cancel safety
    /// Safe: it only asks.
    pub async fn recover(&self) -> Recovery {
        self.shared.prepared.warn_of_old();
        let connections = self.all();
        let mut recovery = Recovery { transactions: Vec::new(), missing: Vec::new(), failures: Vec::new() };
        for broker in self.shared.brokers.all() {
            if !connections.iter().any(|connection| *connection.broker() == broker) {
                let text = format!("the registry doesn't name broker {broker} for a published topic now");
                recovery.failures.push((broker, XaError::new(XaErrorCode::RMFAIL, text)));
            }
        }
        let prepared_before = self.shared.prepared.before(Instant::now());
        let mut answered = Vec::new();
        let asked = join_all(
            connections
                .into_iter()
                .map(|connection| async move { (connection.broker().clone(), self.list(connection).await) }),
        );
        for (broker, listed) in asked.await {
            let recovered = |xid| RecoveredTransaction { xid, broker: broker.clone() };
            let Listed { transactions, unreadable } = match listed {
                Ok(listed) => listed,
                Err(error) => {
                    recovery.failures.push((broker, error));
                    continue;
                }
            };
            if unreadable.is_none() {
                answered.push(broker.clone());
            }
            recovery.transactions.extend(transactions.into_iter().map(recovered));
            recovery.failures.extend(unreadable.map(|error| (broker.clone(), error)));
        }
        for PreparedTransaction { xid, broker, .. } in prepared_before {
            let is_listed = recovery.transactions.iter().any(|listed| listed.xid == xid);
            // A broker that has moved may be one of those that were asked, at its new address.
            let has_answered = answered.contains(&broker) || recovery.failures.is_empty();
            if !is_listed && has_answered && self.shared.prepared.is_undecided(&xid) {
                recovery.missing.push(RecoveredTransaction { xid, broker });
            }
        }
        recovery
    }

    /// Asks one broker.
    pub(super) async fn list(&self, connection: Arc<dyn Connection>) -> Result<Listed, XaError> {
        let branch = self.branch(TransactionId::Null, connection)?;
        let deadline = deadline::after(self.request_timeout);
        let asked = async {
            branch.ready(deadline).await?;
            branch.step(TransactionAction::Recover, 0, deadline).await
        };
        let broker = branch.connection.broker();
        let body = asked.await.map_err(|step| XaError::step(step, &branch.id, broker))?;
        let mut listed = Listed { transactions: Vec::new(), unreadable: None };
        for line in parse_recovered(&body) {
            match line {
                Ok(xid) => listed.transactions.push(xid),
                Err(error) => {
                    let text = "a line of the broker's list of prepared transactions can't be read";
                    let unreadable = XaError::new(XaErrorCode::RMERR, text).of(&branch.id, broker);
                    listed.unreadable.get_or_insert_with(|| unreadable.with_source(error));
                }
            }
        }
        Ok(listed)
    }

    /// Has [`recover`](Self::recover) expect these brokers, too, such as those that the program has written
    /// down before it was restarted: a broker that is away isn't in the registry, and may hold prepared
    /// transactions.
    pub fn expect_brokers(&self, brokers: impl IntoIterator<Item = BrokerAddr>) {
        self.shared.brokers.expect(brokers);
    }

    /// The brokers that [`recover`](Self::recover) expects, sorted: all that were seen with published topics,
    /// and those that the program [expects](Self::expect_brokers). One that was seen at another address since
    /// under the same id isn't among them.
    #[must_use]
    pub fn expected_brokers(&self) -> Vec<BrokerAddr> {
        let _ = self.all();
        self.shared.brokers.all()
    }

    /// Has [`recover`](Self::recover) not expect a broker any more that is gone for good. False when it was
    /// not expected.
    pub fn dismiss_broker(&self, broker: &BrokerAddr) -> bool {
        self.shared.brokers.dismiss(broker)
    }

    /// The transactions that were prepared through this and are neither committed nor rolled back by it, the
    /// oldest first. A broker can forget one when it is restarted, the more likely the older it is; one that
    /// is older than 5 minutes when another begins, or in a recovery, is logged as a warning.
    #[must_use]
    pub fn prepared(&self) -> Vec<PreparedTransaction> {
        self.shared.prepared.all()
    }
}
