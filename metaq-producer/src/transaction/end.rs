//! The end of a transaction: commit, rollback, or being dropped.

use std::{mem, time::Duration};

use metaq_protocol::{BrokerAddr, TransactionAction};
use metaq_transport::Progress;

use super::{CountedTransaction, Open, State, Transaction, TransactionError, TransactionOutcome, expired};
use crate::branch::{Rollback, StepError, ends_connection, read};
use crate::{deadline, panics::contain};

/// A transaction was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitReceipt {
    /// The transaction's name; none when nothing was sent in it, so that no broker was asked.
    pub transaction: Option<String>,
    /// Its broker.
    pub broker: Option<BrokerAddr>,
    /// The number of messages that it stored.
    pub messages: u64,
}

impl Transaction {
    /// Has the broker store all messages, which consumers see from then on. Without any message no broker is
    /// asked.
    ///
    /// # Errors
    /// [`TransactionError::outcome`] says whether nothing is stored for certain, or that isn't known. It
    /// isn't known only when the commit was sent and the broker didn't answer, or not that it had no such
    /// transaction.
    ///
    /// # Cancel safety
    /// Not safe: if the future is dropped after it was polled, the transaction may be committed or not.
    pub async fn commit(mut self) -> Result<CommitReceipt, TransactionError> {
        self.settle().await?;
        let State::Open(open) = &self.state else {
            return Ok(CommitReceipt { transaction: None, broker: None, messages: 0 });
        };
        if open.registration.as_ref().is_some_and(|registration| !registration.withdraw()) {
            return Err(self.closed());
        }
        if open.is_lost() {
            return Err(self.lost());
        }
        let deadline = deadline::after(self.options.request_timeout());
        let submitted = open.branch.submit(TransactionAction::CommitOnePhase, 0, deadline).await;
        let answer = match submitted {
            Ok(answer) => answer,
            // Not a byte of it was written, so that the broker never commits.
            Err(step) => {
                self.register();
                return Err(self.over(step));
            }
        };
        // From here on it is the broker's decision: nothing is rolled back any more.
        let Some(open) = self.end("it was committed") else { return Err(self.refusal()) };
        let commit = Commit { open: Some(open) };
        let outcome = read(answer.await);
        let Some(open) = commit.answered() else { return Err(self.refusal()) };
        let (id, broker) = (open.branch.id.clone(), open.broker().clone());
        let Err(step) = outcome else {
            open.counted.committed();
            let (transaction, broker) = (Some(id.to_string()), Some(broker));
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
        let has_answered = matches!(step, StepError::Refused(..) | StepError::Odd(_));
        let error = TransactionError::step(step, outcome).of(&id, &broker);
        if outcome == TransactionOutcome::RolledBack {
            open.roll_back_later(self.options.request_timeout());
        } else if has_answered {
            // What it has stored stays stored; the rest need not stay in its memory.
            open.start_rollback(self.options.request_timeout()).unknown();
        } else {
            open.counted.unknown();
        }
        Err(error)
    }

    /// Has the broker forget all messages, and waits for its confirmation. When the broker has ended the
    /// transaction before, this is a success, too; also when its connection was lost, after which nothing is
    /// stored, but the broker keeps the messages until the transaction's timeout. A transaction that an
    /// earlier error has ended is being rolled back in the background already, which isn't waited for.
    ///
    /// # Errors
    /// When the broker doesn't confirm it in time. The outcome is
    /// [`RolledBack`](TransactionOutcome::RolledBack) even so: it never was committed. The rollback is
    /// repeated in the background then, as if the transaction had been dropped.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the rollback to be done in the background.
    pub async fn rollback(mut self) -> Result<(), TransactionError> {
        // A rollback that overtakes the beginning would be without effect. If it fails there is nothing to
        // roll back.
        let _ = self.begun().await;
        let State::Open(open) = &self.state else {
            return Ok(());
        };
        if open.is_lost() {
            drop(self.end("it was rolled back"));
            return Ok(());
        }
        let deadline = deadline::after(self.options.request_timeout());
        let branch = open.branch.clone();
        let Some(open) = self.end("it was rolled back") else { return Ok(()) };
        let unconfirmed = Unconfirmed { open: Some(open), request_timeout: self.options.request_timeout() };
        match branch.step(TransactionAction::Rollback, 0, deadline).await {
            Ok(_) => {}
            Err(step) if step.is_not_started() => {}
            Err(StepError::NoAnswer(error)) if ends_connection(&error) => {}
            Err(step) => {
                return Err(TransactionError::step(step, TransactionOutcome::RolledBack)
                    .of(&branch.id, branch.connection.broker()));
            }
        }
        unconfirmed.confirmed();
        Ok(())
    }
}

/// A transaction whose commit was submitted. Its outcome is unknown if the answer isn't waited for.
struct Commit {
    open: Option<Open>,
}

impl Commit {
    fn answered(mut self) -> Option<Open> {
        self.open.take()
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            open.counted.unknown();
        }
    }
}

/// A transaction whose rollback was not confirmed. Dropped so, it is rolled back in the background.
struct Unconfirmed {
    open: Option<Open>,
    request_timeout: Duration,
}

impl Unconfirmed {
    fn confirmed(mut self) {
        self.open = None;
    }
}

impl Drop for Unconfirmed {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            open.roll_back_later(self.request_timeout);
        }
    }
}

impl Open {
    /// Rolls back without anybody waiting for it.
    pub(super) fn roll_back_later(self, request_timeout: Duration) {
        // Counted as rolled back.
        drop(self.start_rollback(request_timeout));
    }

    fn start_rollback(self, request_timeout: Duration) -> CountedTransaction {
        let is_lost = self.is_lost();
        let Self { branch, established, begin, runtime, counted, registration, .. } = self;
        if !is_lost {
            let rollback = Rollback::of_local(branch, begin, established, request_timeout);
            rollback.holding(Box::new(registration)).start(runtime.as_ref());
        }
        counted
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let State::Open(open) = mem::replace(&mut self.state, State::New) {
            // Whatever a subscriber does, it is.
            contain(|| {
                tracing::warn!(
                    transaction = %open.branch.id,
                    broker = %open.broker(),
                    messages = self.messages,
                    "an open transaction was dropped and is rolled back"
                );
            });
            open.roll_back_later(self.options.request_timeout());
        }
    }
}
