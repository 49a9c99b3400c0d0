//! The handler of `transaction` (protocol §3.7).

use std::io;

use bytes::Bytes;
use metaq_protocol::{
    Response, Status, TransactionAction, TransactionCommand, TransactionId, XaError, XaTransactionId,
};

use super::response::{NULL_ID, result};
use crate::broker::{
    shared::BrokerShared,
    transactions::{Heuristic, LocalTransactions, PendingMessage, prepared_file, store_all},
};

/// The text of a Java broker that takes the id `null` for a local one.
const NULL_IS_NOT_LOCAL: &str = "class com.taobao.metamorphosis.transaction.NullTransactionId cannot be cast to class \
    com.taobao.metamorphosis.transaction.LocalTransactionId \
    (com.taobao.metamorphosis.transaction.NullTransactionId and \
    com.taobao.metamorphosis.transaction.LocalTransactionId are in unnamed module of loader 'app')";

/// `XAException.XA_RBOTHER`: rolled back for a reason within the broker.
const ROLLED_BACK: i32 = 104;

/// The reason why a step was refused.
enum Refusal {
    Plain(String),
    Xa(XaError),
}

impl From<XaError> for Refusal {
    fn from(error: XaError) -> Self {
        Self::Xa(error)
    }
}

impl Refusal {
    fn not_begun(id: &str) -> Self {
        Self::Plain(format!("Local transaction '{id}' has not been started."))
    }
}

impl BrokerShared {
    /// Carries out a step of a transaction. `END` has no response.
    pub(super) fn transaction(
        &self,
        command: &TransactionCommand,
        local_transactions: &mut LocalTransactions,
    ) -> Option<Response> {
        let id = &command.id;
        let done = match command.action {
            TransactionAction::Begin => self.begin(id, command.timeout(), local_transactions),
            TransactionAction::Prepare => self.prepare(id, local_transactions),
            TransactionAction::CommitOnePhase => self.commit(id, true, local_transactions),
            TransactionAction::CommitTwoPhase => self.commit(id, false, local_transactions),
            TransactionAction::Rollback => self.roll_back(id, local_transactions),
            TransactionAction::Forget => self.forget(id),
            TransactionAction::Recover => Ok(self.recover(command.qualifier())),
            _ => return None,
        };
        Some(match done {
            Ok(text) => result(command.opaque, Status::SUCCESS, text),
            Err(Refusal::Plain(text)) => result(command.opaque, Status::INTERNAL_SERVER_ERROR, text),
            Err(Refusal::Xa(error)) => result(command.opaque, Status::INTERNAL_SERVER_ERROR, error.to_body()),
        })
    }

    fn begin(
        &self,
        id: &TransactionId,
        timeout: i32,
        local_transactions: &mut LocalTransactions,
    ) -> Result<Bytes, Refusal> {
        self.counters.begin.add_one();
        let most = self.settings.max_transaction;
        match id {
            TransactionId::Local(id) => local_transactions.begin(&self.local_messages, id, timeout, most),
            TransactionId::Xa(id) => {
                self.counters.xa_begin.add_one();
                self.transactions.lock().begin(id, timeout, most);
            }
            _ => return Err(Refusal::Plain(NULL_IS_NOT_LOCAL.to_owned())),
        }
        Ok(Bytes::new())
    }

    fn prepare(
        &self,
        id: &TransactionId,
        local_transactions: &mut LocalTransactions,
    ) -> Result<Bytes, Refusal> {
        let id = match id {
            TransactionId::Xa(id) => id,
            TransactionId::Local(id) => {
                return Err(if local_transactions.has(id) {
                    XaError::new(XaError::RMERR, "Prepare not implemented on Local Transactions.").into()
                } else {
                    Refusal::not_begun(id.as_str())
                });
            }
            _ => return Err(Refusal::not_begun(NULL_ID)),
        };
        let mut xa = self.transactions.lock();
        let transaction = xa.get(id)?;
        if transaction.prepared {
            return Err(XaError::new(XaError::PROTO, "Cannot call prepare now.").into());
        }
        if !transaction.used {
            xa.end(id)?;
            return Ok(Bytes::from_static(b"3"));
        }
        transaction.prepared = true;
        if prepared_file::write(&self.topics, &xa).is_err() {
            xa.end(id)?;
            return Err(rolled_back("PRE-PREPARE").into());
        }
        Ok(Bytes::from_static(b"0"))
    }

    fn commit(
        &self,
        id: &TransactionId,
        one_phase: bool,
        local_transactions: &mut LocalTransactions,
    ) -> Result<Bytes, Refusal> {
        self.counters.commit.add_one();
        let id = match id {
            TransactionId::Xa(id) => id,
            // Local transactions accept the second phase, too (B-16).
            TransactionId::Local(id) => {
                let pending = local_transactions.end(&self.local_messages, id);
                let pending = pending.ok_or_else(|| Refusal::not_begun(id.as_str()))?;
                // Locked so that the broker doesn't end during the commit.
                let _xa = self.transactions.lock();
                return self.store(&pending);
            }
            _ => return Err(Refusal::not_begun(NULL_ID)),
        };
        let mut xa = self.transactions.lock();
        if !one_phase && !xa.get(id)?.prepared {
            let text = "Cannot do 2 phase commit if the transaction has not been prepared.";
            return Err(XaError::new(XaError::PROTO, text).into());
        }
        let transaction = xa.end(id)?;
        let stored = self.store(&transaction.pending);
        prepared_file::forget(&self.topics, &transaction, &xa);
        stored
    }

    fn store(&self, messages: &[PendingMessage]) -> Result<Bytes, Refusal> {
        for pending in messages {
            self.announce_topic(&pending.topic);
        }
        if store_all(messages, &self.topics) {
            return Ok(Bytes::new());
        }
        Err(rolled_back("STORE COMMIT").into())
    }

    fn roll_back(
        &self,
        id: &TransactionId,
        local_transactions: &mut LocalTransactions,
    ) -> Result<Bytes, Refusal> {
        self.counters.rollback.add_one();
        match id {
            TransactionId::Local(id) => {
                let pending = local_transactions.end(&self.local_messages, id);
                pending.ok_or_else(|| Refusal::not_begun(id.as_str()))?;
            }
            TransactionId::Xa(id) => {
                let mut xa = self.transactions.lock();
                let transaction = xa.end(id)?;
                prepared_file::forget(&self.topics, &transaction, &xa);
            }
            _ => return Err(Refusal::not_begun(NULL_ID)),
        }
        Ok(Bytes::new())
    }

    fn forget(&self, id: &TransactionId) -> Result<Bytes, Refusal> {
        let id = match id {
            TransactionId::Xa(id) => {
                let mut xa = self.transactions.lock();
                if xa.forget(id) {
                    // When the disk fails, the transaction is there again after a restart, for another
                    // `FORGET`.
                    let _ = prepared_file::write(&self.topics, &xa);
                }
                return Ok(Bytes::new());
            }
            TransactionId::Local(id) => id.as_str(),
            _ => NULL_ID,
        };
        Err(XaError::new(XaError::NOTA, format!("{id} is not a valid xid")).into())
    }

    fn recover(&self, qualifier: Option<&str>) -> Bytes {
        let found = self.transactions.lock().recover(qualifier);
        let keys: Vec<&str> = found.iter().map(XaTransactionId::as_str).collect();
        keys.join("\r\n").into()
    }

    /// Completes a prepared transaction for an operator. Returns false if no such transaction is prepared.
    pub(in crate::broker) fn decide(&self, id: &XaTransactionId, heuristic: Heuristic) -> io::Result<bool> {
        let mut xa = self.transactions.lock();
        let Some(transaction) = xa.get_prepared(id) else { return Ok(false) };
        if heuristic == Heuristic::Committed && !store_all(&transaction.pending, &self.topics) {
            return Err(io::Error::other("the messages of the transaction could not be stored"));
        }
        xa.decide(id, heuristic);
        prepared_file::write(&self.topics, &xa)?;
        Ok(true)
    }
}

fn rolled_back(step: &str) -> XaError {
    XaError::new(ROLLED_BACK, format!("{step} FAILED: Transaction rolled back."))
}
