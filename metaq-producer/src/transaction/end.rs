//! The end of a transaction: commit, rollback, or being dropped.

use std::{mem, time::Duration};

use metaq_protocol::{BrokerAddr, TransactionAction};
use metaq_transport::Progress;
use tokio::time::Instant;

use super::{
    Open, State, StepError, Transaction, TransactionError, TransactionOutcome, ends_connection, expired, read,
};

/// A transaction was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitReceipt {
    /// The transaction's name; none when nothing was sent in it, so that no broker was asked.
    pub transaction: Option<String>,
    /// Its broker.
    pub broker: Option<BrokerAddr>,
    /// How many messages are stored by it.
    pub messages: u64,
}

impl Transaction {
    /// Has the broker store all messages, which consumers see from then on. Without any message no broker is asked.
    ///
    /// # Errors
    /// [`TransactionError::outcome`] says whether nothing is stored for certain, or that isn't known. It isn't known only
    /// when the commit was sent and the broker didn't answer, or not that it had no such transaction (rules T-10 and K-48).
    ///
    /// # Cancel safety
    /// Not safe: if the future is dropped after it was polled, the transaction may be committed or not.
    pub async fn commit(mut self) -> Result<CommitReceipt, TransactionError> {
        self.settle().await?;
        let State::Open(open) = &self.state else {
            return Ok(CommitReceipt { transaction: None, broker: None, messages: 0 });
        };
        if open.is_lost() {
            return Err(self.lost());
        }
        let deadline = Instant::now() + self.options.request_timeout();
        let submitted = open.branch.submit(TransactionAction::CommitOnePhase, 0, deadline).await;
        let answer = match submitted {
            Ok(answer) => answer,
            // Not a byte of it was written, so that the broker never commits.
            Err(step) => return Err(self.over(step)),
        };
        // From here on it is the broker's decision: nothing is rolled back any more.
        let State::Open(open) = mem::replace(&mut self.state, State::Over("it was committed".to_owned()))
        else {
            return Err(self.refusal());
        };
        let (id, broker) = (&open.branch.id, open.broker());
        let Err(step) = read(answer.await) else {
            let (transaction, broker) = (Some(id.to_string()), Some(broker.clone()));
            return Ok(CommitReceipt { transaction, broker, messages: self.messages });
        };
        if step.is_not_started() {
            return Err(expired(&open));
        }
        let outcome = match &step {
            StepError::NoAnswer(error) if error.progress() == Progress::NotWritten => {
                TransactionOutcome::RolledBack
            }
            // Also when the broker refused: part of it may be on the disk.
            _ => TransactionOutcome::Unknown,
        };
        let error = TransactionError::step(step, outcome).of(id, broker);
        if outcome == TransactionOutcome::RolledBack {
            open.roll_back_later(self.options.request_timeout());
        }
        Err(error)
    }

    /// Has the broker forget all messages, and waits for its confirmation. When the broker has ended the transaction before,
    /// or its connection was lost, this is a success, too.
    ///
    /// # Errors
    /// When the broker doesn't confirm it. The outcome is [`RolledBack`](TransactionOutcome::RolledBack) even so: it never
    /// was committed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the rollback to be done in the background.
    pub async fn rollback(mut self) -> Result<(), TransactionError> {
        // A rollback that overtakes the beginning would be without effect. If it fails there is nothing to roll back.
        let _ = self.begun().await;
        let State::Open(open) = &self.state else {
            return Ok(());
        };
        if open.is_lost() {
            self.state = State::Over("it was rolled back".to_owned());
            return Ok(());
        }
        let deadline = Instant::now() + self.options.request_timeout();
        let submitted = open.branch.submit(TransactionAction::Rollback, 0, deadline).await;
        let State::Open(open) = mem::replace(&mut self.state, State::Over("it was rolled back".to_owned()))
        else {
            return Ok(());
        };
        let outcome = match submitted {
            Ok(answer) => read(answer.await),
            Err(step) => Err(step),
        };
        match outcome {
            Ok(_) => Ok(()),
            Err(step) if step.is_not_started() => Ok(()),
            Err(StepError::NoAnswer(error)) if ends_connection(&error) => Ok(()),
            Err(step) => Err(TransactionError::step(step, TransactionOutcome::RolledBack)
                .of(&open.branch.id, open.broker())),
        }
    }
}

impl Open {
    /// Rolls back without anybody waiting for it.
    pub(super) fn roll_back_later(self, patience: Duration) {
        if !self.is_lost() {
            self.branch.roll_back_later(self.begin, Instant::now() + patience);
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let State::Open(open) = mem::replace(&mut self.state, State::New) {
            tracing::warn!(
                transaction = %open.branch.id,
                broker = %open.broker(),
                messages = self.messages,
                "an open transaction was dropped and is rolled back"
            );
            open.roll_back_later(self.options.request_timeout());
        }
    }
}
