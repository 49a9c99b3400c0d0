//! Transactions: what both kinds have in common, and XA branches, which belong to the broker (protocol §3.7).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use metaq_protocol::{Flag, XaError, XaTransactionId, encode_stored_message};
use tokio::time::Instant;

use super::topics::{TopicEntry, Topics};

/// The message of a transaction, which is stored when it commits.
#[derive(Clone, Debug)]
pub(super) struct PendingMessage {
    pub(super) topic: Arc<TopicEntry>,
    pub(super) partition: i32,
    pub(super) id: i64,
    pub(super) flag: Flag,
    pub(super) data: Bytes,
}

/// Stores messages, those for one partition in one piece. False when one could not be stored.
pub(super) fn store(messages: &[PendingMessage], topics: &Topics) -> bool {
    let mut batches = BTreeMap::<(&str, i32), Vec<&PendingMessage>>::new();
    for pending in messages {
        batches.entry((&pending.topic.name, pending.partition)).or_default().push(pending);
    }
    batches.into_values().all(|batch| {
        let mut bytes = BytesMut::new();
        for pending in &batch {
            // The checksum is made anew: a wrong one was let pass (B-10).
            encode_stored_message(&mut bytes, pending.id, pending.flag, &pending.data);
        }
        let Ok(log) = topics.log(&batch[0].topic, batch[0].partition) else { return false };
        let write = |to: &mut BytesMut| to.extend_from_slice(&bytes);
        topics.append(&log, batch.len() as u64, bytes.len(), write).is_ok()
    })
}

/// The time at which a transaction that is begun now times out: after so many seconds, at most `most`; 0 or less is never.
pub(super) fn deadline(seconds: i32, most: Duration) -> Option<Instant> {
    let timeout = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    timeout.map(|timeout| Instant::now() + timeout.min(most))
}

/// An XA transaction that was begun.
#[derive(Debug, Default)]
pub(super) struct XaTransaction {
    pub(super) pending: Vec<PendingMessage>,
    /// Whether a put named it, a refused one included (B-21).
    pub(super) used: bool,
    pub(super) prepared: bool,
    deadline: Option<Instant>,
}

impl XaTransaction {
    fn has_expired(&self, now: Instant) -> bool {
        !self.prepared && self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Keeps a message until the commit. What comes after `PREPARE` is lost, as in a Java broker (B-24).
    pub(super) fn keep(&mut self, pending: PendingMessage) {
        if !self.prepared {
            self.pending.push(pending);
        }
    }
}

/// The decision of an operator on a prepared XA transaction, made without asking who had begun it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Heuristic {
    /// It was committed: `XA_HEURCOM`, 7.
    Committed,
    /// It was rolled back: `XA_HEURRB`, 6.
    RolledBack,
    /// It may have been either: `XA_HEURHAZ`, 8.
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
pub(super) struct XaTransactions {
    /// With their order.
    open: BTreeMap<XaTransactionId, (u64, XaTransaction)>,
    decided: BTreeMap<XaTransactionId, (u64, Heuristic)>,
    begun: u64,
    /// The broker has ended: its folder may be another's.
    pub(super) closed: bool,
}

impl XaTransactions {
    /// Begins it; one that goes on is left as it is.
    pub(super) fn begin(&mut self, id: &XaTransactionId, seconds: i32, most: Duration) {
        self.drop_expired();
        let order = self.next();
        let begun = || XaTransaction { deadline: deadline(seconds, most), ..XaTransaction::default() };
        self.open.entry(id.clone()).or_insert_with(|| (order, begun()));
    }

    /// Takes up what was prepared before a restart.
    pub(super) fn restore(&mut self, id: XaTransactionId, pending: Vec<PendingMessage>) {
        let order = self.next();
        let transaction = XaTransaction { pending, used: true, prepared: true, deadline: None };
        self.open.insert(id, (order, transaction));
    }

    /// Takes up what an operator decided before a restart.
    pub(super) fn restore_decided(&mut self, id: XaTransactionId, heuristic: Heuristic) {
        let order = self.next();
        self.decided.insert(id, (order, heuristic));
    }

    pub(super) fn get(&mut self, id: &XaTransactionId) -> Result<&mut XaTransaction, XaError> {
        match self.open.get_mut(id) {
            Some((_, transaction)) if !transaction.has_expired(Instant::now()) => Ok(transaction),
            _ => Err(Self::unknown(&self.decided, id)),
        }
    }

    pub(super) fn end(&mut self, id: &XaTransactionId) -> Result<XaTransaction, XaError> {
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

    /// Takes a prepared one out of its owner's hands.
    pub(super) fn decide(&mut self, id: &XaTransactionId, heuristic: Heuristic) {
        if let Some((order, _)) = self.open.remove(id) {
            self.decided.insert(id.clone(), (order, heuristic));
        }
    }

    /// The prepared transaction of this name.
    pub(super) fn prepared_one(&self, id: &XaTransactionId) -> Option<&XaTransaction> {
        let (_, transaction) = self.open.get(id)?;
        transaction.prepared.then_some(transaction)
    }

    /// False when no operator had decided it.
    pub(super) fn forget(&mut self, id: &XaTransactionId) -> bool {
        self.decided.remove(id).is_some()
    }

    /// The transactions that are prepared or decided by an operator, oldest first: with the given qualifier, or all.
    pub(super) fn recover(&self, qualifier: Option<&str>) -> Vec<XaTransactionId> {
        let prepared = self.open.iter().filter(|(_, (_, transaction))| transaction.prepared);
        let mut found: Vec<_> = prepared.map(|(id, (order, _))| (false, *order, id)).collect();
        found.extend(self.decided.iter().map(|(id, (order, _))| (true, *order, id)));
        found.retain(|(_, _, id)| qualifier.is_none_or(|qualifier| id.qualifier() == qualifier));
        found.sort_unstable_by_key(|(is_decided, order, _)| (*is_decided, *order));
        found.into_iter().map(|(_, _, id)| id.clone()).collect()
    }

    /// All that is prepared.
    pub(super) fn prepared(&self) -> impl Iterator<Item = (&XaTransactionId, &XaTransaction)> {
        let prepared = self.open.iter().filter(|(_, (_, transaction))| transaction.prepared);
        prepared.map(|(id, (_, transaction))| (id, transaction))
    }

    /// All that operators decided, oldest first.
    pub(super) fn decided(&self) -> Vec<(&XaTransactionId, Heuristic)> {
        let mut decided: Vec<_> = self.decided.iter().collect();
        decided.sort_unstable_by_key(|(_, (order, _))| *order);
        decided.into_iter().map(|(id, (_, heuristic))| (id, *heuristic)).collect()
    }

    fn next(&mut self) -> u64 {
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
