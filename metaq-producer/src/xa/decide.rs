//! The decisions on XA transactions: prepare, commit, rollback, forget; and which there are to decide on.

use std::sync::Arc;

use bytes::Bytes;
use metaq_protocol::{PrepareVote, TransactionAction, XaTransactionId};

use super::{XaError, XaErrorCode, XaResource, XaVote};

impl XaResource {
    /// Asks the broker to prepare a transaction: to write it to its disk, so that it can be committed later.
    /// It may have begun elsewhere. Decide soon: see [`commit`](Self::commit) for what a restart of the
    /// broker can do.
    ///
    /// # Errors
    /// [`PROTO`](XaErrorCode::PROTO) when it is taken up or suspended, or is prepared already. When it can
    /// only be rolled back, it is, and the [code says so](XaErrorCode::is_rollback).
    /// [`INVAL`](XaErrorCode::INVAL) for the qualifier of another producer, which would not find it again.
    /// With [`is_unknown`](XaError::is_unknown), as when the vote can't be read, it may be prepared: roll it
    /// back.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is prepared.
    pub async fn prepare(&mut self, xid: &XaTransactionId) -> Result<XaVote, XaError> {
        self.xa.ensure_own(xid).map_err(|error| self.of(xid, error))?;
        self.ensure_ended(xid)?;
        self.roll_back_if_spoilt(xid).await?;
        let body = self.step(xid, TransactionAction::Prepare).await?;
        match PrepareVote::parse(&body) {
            Ok(PrepareVote::PREPARED) => {
                self.known.remove(xid);
                self.xa.shared.prepared.add(xid, self.broker());
                Ok(XaVote::Prepared)
            }
            Ok(PrepareVote::READ_ONLY) => {
                self.known.remove(xid);
                Ok(XaVote::ReadOnly)
            }
            Ok(PrepareVote(vote)) => {
                let text = format!("the broker voted {vote}, which means nothing");
                Err(self.error(xid, XaErrorCode::RMERR, &text).into_unknown())
            }
            Err(error) => {
                let odd = self.error(xid, XaErrorCode::RMERR, "its vote can't be read");
                Err(odd.with_source(error).into_unknown())
            }
        }
    }

    /// Commits a transaction: one that is prepared, or in one phase one that isn't.
    ///
    /// # Errors
    /// [`PROTO`](XaErrorCode::PROTO) when it is taken up or suspended, or was to be prepared first;
    /// [heuristic codes](XaErrorCode::is_heuristic) when an operator decided on it.
    ///
    /// With [`is_unknown`](XaError::is_unknown) it may be committed. If there was no answer, commit it again:
    /// as long as the broker knows it that does no harm. [`NOTA`](XaErrorCode::NOTA) means that the broker
    /// doesn't know it any more: a commit before this one, by whichever resource, was carried out, another
    /// program completed it, or the broker has forgotten it. A Java broker that is restarted forgets prepared
    /// transactions that are older than another one which was live during its last checkpoint, and nothing of
    /// them is stored. [Rollback codes](XaErrorCode::is_rollback) mean that the broker failed while it stored
    /// the messages, partition by partition, so that a part may be stored. In both cases keep the decision,
    /// and look whether the messages are stored before they are sent again.
    ///
    /// The shorter a transaction is prepared, the less likely it is forgotten. Operators can raise the
    /// broker's `checkpointInterval` (an hour as shipped) above the longest time between prepare and commit;
    /// its log on disk grows as long.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is committed.
    pub async fn commit(&mut self, xid: &XaTransactionId, one_phase: bool) -> Result<(), XaError> {
        self.ensure_ended(xid)?;
        let action = if one_phase {
            self.roll_back_if_spoilt(xid).await?;
            TransactionAction::CommitOnePhase
        } else {
            TransactionAction::CommitTwoPhase
        };
        let shared = Arc::clone(&self.xa.shared);
        let _deciding = shared.prepared.deciding(xid);
        self.step(xid, action).await.map_err(XaError::of_commit)?;
        self.forget_known(xid);
        Ok(())
    }

    /// Rolls a transaction back, also one that is taken up or suspended.
    ///
    /// # Errors
    /// What the broker says: [`NOTA`](XaErrorCode::NOTA) when it doesn't know it, as after its timeout or
    /// when it was forgotten at a restart: then nothing of it is stored, unless it was committed before;
    /// [heuristic codes](XaErrorCode::is_heuristic) when an operator decided on it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is rolled back.
    pub async fn rollback(&mut self, xid: &XaTransactionId) -> Result<(), XaError> {
        if self.current.as_ref().is_some_and(|current| current.xid == *xid) {
            self.settle().await;
            self.current = None;
        }
        let shared = Arc::clone(&self.xa.shared);
        let _deciding = shared.prepared.deciding(xid);
        self.step(xid, TransactionAction::Rollback).await?;
        self.forget_known(xid);
        Ok(())
    }

    /// Has the broker forget that an operator decided on a transaction. Of others the broker says nothing.
    ///
    /// # Errors
    /// What the broker says.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is forgotten.
    pub async fn forget(&mut self, xid: &XaTransactionId) -> Result<(), XaError> {
        self.step(xid, TransactionAction::Forget).await?;
        self.xa.shared.prepared.remove(xid);
        // One that runs goes on.
        let is_current = self.current.as_ref().is_some_and(|current| current.xid == *xid);
        if !is_current && !self.known.get(xid).is_some_and(|known| known.suspended) {
            self.known.remove(xid);
        }
        Ok(())
    }

    /// The prepared transactions of this broker that hold the producer's qualifier;
    /// [`XaProducer::recover`](super::XaProducer::recover) asks all brokers, and says what it means that one
    /// isn't listed.
    ///
    /// # Errors
    /// When the broker can't be asked, or a line of its answer can't be read.
    ///
    /// # Cancel safety
    /// Safe: it only asks.
    pub async fn recover(&self) -> Result<Vec<XaTransactionId>, XaError> {
        let listed = self.xa.list(Arc::clone(&self.connection)).await?;
        listed.unreadable.map_or(Ok(listed.transactions), Err)
    }

    /// A transaction that is taken up or suspended isn't ended.
    fn ensure_ended(&self, xid: &XaTransactionId) -> Result<(), XaError> {
        let is_current = self.current.as_ref().is_some_and(|current| current.xid == *xid);
        if is_current || self.known.get(xid).is_some_and(|known| known.suspended) {
            return Err(self.error(xid, XaErrorCode::PROTO, "it is taken up or suspended; end it first"));
        }
        Ok(())
    }

    /// Rolls back a transaction that can only be rolled back, and returns its error.
    async fn roll_back_if_spoilt(&mut self, xid: &XaTransactionId) -> Result<(), XaError> {
        let Some((code, text)) = self.known.get(xid).and_then(|known| known.rollback_only.clone()) else {
            return Ok(());
        };
        match self.rollback(xid).await {
            Ok(()) => {}
            Err(error) if error.code() == XaErrorCode::NOTA => drop(self.known.remove(xid)),
            Err(error) => return Err(error),
        }
        Err(self.error(xid, code, &text))
    }

    fn forget_known(&mut self, xid: &XaTransactionId) {
        self.known.remove(xid);
        self.xa.shared.prepared.remove(xid);
    }

    async fn step(&mut self, xid: &XaTransactionId, action: TransactionAction) -> Result<Bytes, XaError> {
        let (branch, deadline) = (self.branch(xid)?, self.deadline());
        let taken = async {
            branch.ready(deadline).await?;
            branch.step(action, 0, deadline).await
        };
        match taken.await {
            Ok(body) => Ok(body),
            Err(step) => {
                let error = XaError::step(step, &branch.id, self.broker());
                let code = error.code();
                if code == XaErrorCode::NOTA || code.is_rollback() || code.is_heuristic() {
                    self.forget_known(xid);
                }
                Err(error)
            }
        }
    }
}
