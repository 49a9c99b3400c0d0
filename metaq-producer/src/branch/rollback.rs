//! Rollbacks in the background.

use std::{any::Any, time::Duration};

use bytes::Bytes;
use metaq_protocol::{TransactionAction, TransactionId, parse_recovered};
use metaq_transport::{ConnectionState, PendingResponse, Progress, TransportErrorKind};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};

use super::{Branch, REQUEST_TIMEOUT, StepError, ends_connection, read};
use crate::{deadline, panics::contain};

/// A rollback that was never confirmed is given up after this time. Brokers with the shipped settings cut
/// timeouts to the same.
const LIMIT: Duration = Duration::from_secs(60);

/// The first attempt has at least this much time for its answer, however short the timeout of steps is.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(100);

/// The first pause between two attempts; it doubles with each further one.
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// A transaction to be rolled back in the background: until the broker confirms it, a local transaction's
/// connection has ended, or [`LIMIT`] has passed.
pub(crate) struct Rollback {
    branch: Branch,
    /// The answer to `BEGIN`, if it isn't there yet. The rollback must not overtake it.
    begin: Option<PendingResponse>,
    /// The number of times that the connection had been established when the transaction began; none if it
    /// outlives its connection.
    established: Option<u64>,
    /// The time that the next attempt waits for its answer.
    attempt_timeout: Duration,
    /// An attempt that was submitted and not answered.
    attempt: Option<PendingResponse>,
    /// The rollback needs no further step.
    settled: bool,
    /// Whether it may be prepared: then the broker is asked before each attempt.
    may_be_prepared: bool,
    /// Dropped when the rollback needs no further step.
    held: Option<Box<dyn Any + Send + Sync>>,
}

impl Rollback {
    /// Rolls back a local transaction that began when its connection was established for the time
    /// `established`; `begin` is the answer to its `BEGIN`, if that is outstanding.
    pub(crate) fn of_local(
        branch: Branch,
        begin: Option<PendingResponse>,
        established: u64,
        request_timeout: Duration,
    ) -> Self {
        let mut this = Self::of_xa(branch, request_timeout);
        (this.begin, this.established, this.may_be_prepared) = (begin, Some(established), false);
        this
    }

    /// Rolls back an XA transaction, unless its broker lists it as prepared.
    pub(crate) fn of_xa(branch: Branch, request_timeout: Duration) -> Self {
        Self {
            branch,
            begin: None,
            established: None,
            attempt_timeout: request_timeout.clamp(SHORTEST_ATTEMPT, REQUEST_TIMEOUT),
            attempt: None,
            settled: false,
            may_be_prepared: true,
            held: None,
        }
    }

    /// Keeps a value until the rollback needs no further step.
    pub(crate) fn holding(mut self, held: Box<dyn Any + Send + Sync>) -> Self {
        self.held = Some(held);
        self
    }

    /// Begins at once, and goes on in the current runtime, or in `runtime` where there is none. Without any
    /// runtime the rollback is submitted once.
    pub(crate) fn start(mut self, runtime: Option<&Handle>) {
        if self.begin.is_none() && !self.may_be_prepared {
            self.submit();
        }
        // One without timers, as a program may have around what it drops, can't wait for the next attempt.
        let current = deadline::runtime();
        match current.as_ref().or(runtime) {
            Some(runtime) => drop(runtime.spawn(self.run())),
            // Nothing more can be done.
            None => self.settled |= self.attempt.is_some() || self.may_be_prepared,
        }
    }

    /// Submits the first attempt, unless the connection is gone.
    pub(crate) fn submit_first(&mut self) {
        if !self.is_lost() {
            self.submit();
        }
    }

    /// Nothing more is done.
    pub(crate) fn give_up(&mut self) {
        self.settled = true;
    }

    /// Submits an attempt without waiting for capacity.
    fn submit(&mut self) {
        if let Ok(mut command) = self.branch.command(TransactionAction::Rollback, 0) {
            let deadline = deadline::after(self.attempt_timeout);
            self.attempt = self.branch.connection.submit(&mut command, deadline).ok();
        }
    }

    pub(crate) async fn run(mut self) {
        let limit = deadline::after(LIMIT);
        if let Some(begin) = &mut self.begin {
            let begun = begin.await;
            self.begin = None;
            self.established = self.established.map(|_| self.branch.connection.stats().established);
            // The broker doesn't know the transaction, or has lost it.
            self.settled =
                begun.is_err_and(|error| error.progress() == Progress::NotWritten || ends_connection(&error));
        }
        let mut backoff = INITIAL_BACKOFF;
        while !self.settled && !self.is_lost() {
            let outcome = self.attempt(limit).await;
            self.settled = self.settles(&outcome);
            let next = deadline::after(backoff.mul_f64(0.5 + fastrand::f64() / 2.0));
            if self.settled || self.is_lost() {
                break;
            }
            if next >= limit {
                let (id, broker, step) = (&self.branch.id, self.branch.connection.broker(), outcome.err());
                contain(|| {
                    tracing::warn!(
                        transaction = %id,
                        %broker,
                        outcome = ?step,
                        "a rollback in the background was never confirmed; the broker may hold the transaction until its timeout"
                    );
                });
                break;
            }
            sleep_until(next).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
            self.attempt_timeout = (self.attempt_timeout * 2).min(REQUEST_TIMEOUT);
        }
        self.settled = true;
    }

    /// Waits for the attempt that was submitted before, or makes one.
    async fn attempt(&mut self, limit: Instant) -> Result<Bytes, StepError> {
        if self.attempt.is_none() {
            let deadline = deadline::after(self.attempt_timeout).min(limit);
            if self.established.is_none() {
                self.branch.ready(deadline).await?;
            }
            if self.may_be_prepared && self.is_prepared(deadline).await? {
                contain(|| {
                    tracing::warn!(
                        transaction = %self.branch.id,
                        broker = %self.branch.connection.broker(),
                        "a transaction that was to be rolled back is prepared, and is left for recovery"
                    );
                });
                return Ok(Bytes::new());
            }
            self.attempt = Some(self.branch.submit(TransactionAction::Rollback, 0, deadline).await?);
        }
        let Some(attempt) = &mut self.attempt else { return Err(StepError::NoRuntime) };
        let outcome = attempt.await;
        self.attempt = None;
        read(outcome)
    }

    /// Whether the broker lists the transaction as prepared.
    async fn is_prepared(&self, deadline: Instant) -> Result<bool, StepError> {
        let TransactionId::Xa(xid) = &self.branch.id else { return Ok(false) };
        let all = Branch { id: TransactionId::Null, ..self.branch.clone() };
        let listed = all.step(TransactionAction::Recover, 0, deadline).await?;
        Ok(parse_recovered(&listed).any(|listed| listed.is_ok_and(|listed| listed == *xid)))
    }

    /// Whether nothing is left to be rolled back.
    fn settles(&self, outcome: &Result<Bytes, StepError>) -> bool {
        match outcome {
            Ok(_) => true,
            // An operator may have decided on an XA transaction.
            Err(step @ StepError::Refused(_, text)) => {
                step.is_not_started() || text.contains("heuristically")
            }
            Err(StepError::NoAnswer(error)) if self.established.is_none() => {
                error.kind() == TransportErrorKind::Closed
            }
            Err(StepError::NoAnswer(error)) => ends_connection(error),
            Err(StepError::Odd(_) | StepError::NoRuntime) => false,
        }
    }

    /// Whether the connection of a local transaction has ended.
    fn is_lost(&self) -> bool {
        self.established.is_some_and(|established| self.branch.is_lost(Some(established)))
    }
}

impl Drop for Rollback {
    /// If the runtime ends before the rollback is confirmed, it is submitted once more: an attempt that is
    /// outstanding may be refused. To roll back twice does no harm.
    fn drop(&mut self) {
        if !self.settled && !self.may_be_prepared {
            self.submit();
        }
    }
}

impl Branch {
    /// Whether a local transaction's connection is gone, which was established so often when the transaction
    /// began, if that is known. If this misses it, the broker says so.
    pub(crate) fn is_lost(&self, established: Option<u64>) -> bool {
        let state = self.connection.state();
        let gone = matches!(*state.borrow(), ConnectionState::Connecting { .. } | ConnectionState::Closed);
        gone || established.is_some_and(|established| self.connection.stats().established != established)
    }
}
