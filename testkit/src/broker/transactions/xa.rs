//! XA transactions, which belong to the broker (protocol §3.7).

use std::{collections::BTreeMap, time::Duration};

use metaq_protocol::{XaError, XaTransactionId};
use tokio::time::Instant;

use super::pending::{PendingMessage, deadline};

/// An XA transaction that has begun.
#[derive(Debug, Default)]
pub(in crate::broker) struct XaTransaction {
    pub(in crate::broker) pending: Vec<PendingMessage>,
    /// Set if a put named it, even a refused one (B-21).
    pub(in crate::broker) used: bool,
    pub(in crate::broker) prepared: bool,
    deadline: Option<Instant>,
}

impl XaTransaction {
    fn has_expired(&self, now: Instant) -> bool {
        !self.prepared && self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Keeps a message until the commit. Messages after `PREPARE` are lost, as in a Java broker (B-24).
    pub(in crate::broker) fn keep(&mut self, pending: PendingMessage) {
        if !self.prepared {
            self.pending.push(pending);
        }
    }
}

/// The decision of an operator on a prepared XA transaction, made without its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Heuristic {
    /// The transaction was committed: `XA_HEURCOM`, 7.
    Committed,
    /// The transaction was rolled back: `XA_HEURRB`, 6.
    RolledBack,
    /// The transaction may have been committed or rolled back: `XA_HEURHAZ`, 8.
    Completed,
}

impl Heuristic {
    fn error(self, id: &XaTransactionId) -> XaError {
        let (code, text) = match self {
            Self::Committed => (7, "committed"),
            Self::RolledBack => (6, "rolled back"),
            Self::Completed => (8, "completed"),
        };
        XaError::new(code, format!("XA transaction '{}' has been heuristically {text}.", id.as_str()))
    }
}

/// The XA transactions of a broker.
#[derive(Debug, Default)]
pub(in crate::broker) struct XaTransactions {
    /// Each with its order.
    open: BTreeMap<XaTransactionId, (u64, XaTransaction)>,
    decided: BTreeMap<XaTransactionId, (u64, Heuristic)>,
    begun: u64,
    /// Set when the broker has ended: its folder may belong to another.
    pub(in crate::broker) closed: bool,
}

impl XaTransactions {
    /// Begins a transaction; has no effect on an open one.
    pub(in crate::broker) fn begin(&mut self, id: &XaTransactionId, seconds: i32, most: Duration) {
        self.drop_expired();
        let order = self.next_order();
        let begun = || XaTransaction { deadline: deadline(seconds, most), ..XaTransaction::default() };
        self.open.entry(id.clone()).or_insert_with(|| (order, begun()));
    }

    /// Restores a transaction that was prepared before a restart.
    pub(in crate::broker) fn restore(&mut self, id: XaTransactionId, pending: Vec<PendingMessage>) {
        let order = self.next_order();
        let transaction = XaTransaction { pending, used: true, prepared: true, deadline: None };
        self.open.insert(id, (order, transaction));
    }

    /// Restores a decision that an operator made before a restart.
    pub(in crate::broker) fn restore_decided(&mut self, id: XaTransactionId, heuristic: Heuristic) {
        let order = self.next_order();
        self.decided.insert(id, (order, heuristic));
    }

    pub(in crate::broker) fn get(&mut self, id: &XaTransactionId) -> Result<&mut XaTransaction, XaError> {
        match self.open.get_mut(id) {
            Some((_, transaction)) if !transaction.has_expired(Instant::now()) => Ok(transaction),
            _ => Err(Self::unknown(&self.decided, id)),
        }
    }

    pub(in crate::broker) fn end(&mut self, id: &XaTransactionId) -> Result<XaTransaction, XaError> {
        match self.open.remove(id) {
            Some((_, transaction)) if !transaction.has_expired(Instant::now()) => Ok(transaction),
            _ => Err(Self::unknown(&self.decided, id)),
        }
    }

    fn unknown(decided: &BTreeMap<XaTransactionId, (u64, Heuristic)>, id: &XaTransactionId) -> XaError {
        match decided.get(id) {
            Some((_, heuristic)) => heuristic.error(id),
            None => {
                let text = format!("XA transaction '{}' has not been started.", id.as_str());
                XaError::new(XaError::NOTA, text)
            }
        }
    }

    /// Replaces a prepared transaction by the decision of an operator.
    pub(in crate::broker) fn decide(&mut self, id: &XaTransactionId, heuristic: Heuristic) {
        if let Some((order, _)) = self.open.remove(id) {
            self.decided.insert(id.clone(), (order, heuristic));
        }
    }

    /// Returns the prepared transaction with this id.
    pub(in crate::broker) fn get_prepared(&self, id: &XaTransactionId) -> Option<&XaTransaction> {
        let (_, transaction) = self.open.get(id)?;
        transaction.prepared.then_some(transaction)
    }

    /// Removes a decision. Returns false if there was none.
    pub(in crate::broker) fn forget(&mut self, id: &XaTransactionId) -> bool {
        self.decided.remove(id).is_some()
    }

    /// Returns the transactions that are prepared or decided by an operator, oldest first: those with the
    /// given qualifier, or all.
    pub(in crate::broker) fn recover(&self, qualifier: Option<&str>) -> Vec<XaTransactionId> {
        let prepared = self.open.iter().filter(|(_, (_, transaction))| transaction.prepared);
        let mut found: Vec<_> = prepared.map(|(id, (order, _))| (false, *order, id)).collect();
        found.extend(self.decided.iter().map(|(id, (order, _))| (true, *order, id)));
        found.retain(|(_, _, id)| qualifier.is_none_or(|qualifier| id.qualifier() == qualifier));
        found.sort_unstable_by_key(|(is_decided, order, _)| (*is_decided, *order));
        found.into_iter().map(|(_, _, id)| id.clone()).collect()
    }

    /// Returns all prepared transactions.
    pub(in crate::broker) fn prepared(&self) -> impl Iterator<Item = (&XaTransactionId, &XaTransaction)> {
        let prepared = self.open.iter().filter(|(_, (_, transaction))| transaction.prepared);
        prepared.map(|(id, (_, transaction))| (id, transaction))
    }

    /// Returns all decisions of operators, oldest first.
    pub(in crate::broker) fn decided(&self) -> Vec<(&XaTransactionId, Heuristic)> {
        let mut decided: Vec<_> = self.decided.iter().collect();
        decided.sort_unstable_by_key(|(_, (order, _))| *order);
        decided.into_iter().map(|(id, (_, heuristic))| (id, *heuristic)).collect()
    }

    fn next_order(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    fn drop_expired(&mut self) {
        if !self.open.is_empty() {
            let now = Instant::now();
            self.open.retain(|_, (_, transaction)| !transaction.has_expired(now));
        }
    }
}
