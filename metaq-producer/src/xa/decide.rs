//! What is decided on an XA transaction: prepare, commit, rollback, forget; and which there are to decide on.

use std::sync::Arc;

use bytes::Bytes;
use metaq_protocol::{PrepareVote, TransactionAction, XaTransactionId};

use super::{XaError, XaErrorCode, XaResource, XaVote};

impl XaResource {
    /// Asks the broker to prepare a transaction: to write it to its disk, so that it can be committed whatever happens. It
    /// may have begun elsewhere.
    ///
    /// # Errors
    /// [`PROTO`](XaErrorCode::PROTO) when it is taken up or suspended, or is prepared already (rules X-11 and B-22). When it can
    /// only be rolled back, it is, and the [code says so](XaErrorCode::is_rollback).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is prepared.
    pub async fn prepare(&mut self, xid: &XaTransactionId) -> Result<XaVote, XaError> {
        self.is_ended(xid)?;
        self.is_sound(xid).await?;
        let body = self.step(xid, TransactionAction::Prepare).await?;
        match PrepareVote::parse(&body) {
            Ok(PrepareVote::PREPARED) => Ok(XaVote::Prepared),
            Ok(PrepareVote::READ_ONLY) => {
                self.known.remove(xid);
                Ok(XaVote::ReadOnly)
            }
            Ok(PrepareVote(vote)) => Err(self.error(
                xid,
                XaErrorCode::RMERR,
                &format!("the broker voted {vote}, which means nothing"),
            )),
            Err(error) => {
                Err(self.error(xid, XaErrorCode::RMERR, "its vote can't be read").with_source(error))
            }
        }
    }

    /// Commits a transaction: one that is prepared, or in one phase one that isn't.
    ///
    /// # Errors
    /// [`PROTO`](XaErrorCode::PROTO) when it is taken up or suspended, or was to be prepared first (rules X-12 and B-22);
    /// [`NOTA`](XaErrorCode::NOTA) when the broker doesn't know it; [heuristic codes](XaErrorCode::is_heuristic) when an
    /// operator decided on it. With [`is_unknown`](XaError::is_unknown) it may be committed: a prepared one
    /// that is still [recovered](Self::recover) isn't.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is committed.
    pub async fn commit(&mut self, xid: &XaTransactionId, one_phase: bool) -> Result<(), XaError> {
        self.is_ended(xid)?;
        let action = if one_phase {
            self.is_sound(xid).await?;
            TransactionAction::CommitOnePhase
        } else {
            TransactionAction::CommitTwoPhase
        };
        self.step(xid, action).await.map_err(XaError::of_commit)?;
        self.known.remove(xid);
        Ok(())
    }

    /// Rolls a transaction back, also one that is taken up or suspended (rule X-13).
    ///
    /// # Errors
    /// What the broker says: [`NOTA`](XaErrorCode::NOTA) when it doesn't know it, as after its timeout (rule X-18);
    /// [heuristic codes](XaErrorCode::is_heuristic) when an operator decided on it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is rolled back.
    pub async fn rollback(&mut self, xid: &XaTransactionId) -> Result<(), XaError> {
        if self.current.as_ref().is_some_and(|current| current.xid == *xid) {
            self.settle().await;
            self.current = None;
        }
        self.step(xid, TransactionAction::Rollback).await?;
        self.known.remove(xid);
        Ok(())
    }

    /// Has the broker forget that an operator decided on a transaction. Of others the broker says nothing (rule X-14).
    ///
    /// # Errors
    /// What the broker says.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is forgotten.
    pub async fn forget(&mut self, xid: &XaTransactionId) -> Result<(), XaError> {
        self.step(xid, TransactionAction::Forget).await?;
        self.known.remove(xid);
        Ok(())
    }

    /// The prepared transactions of this broker that hold the producer's qualifier; [`XaProducer::recover`](super::XaProducer::recover) asks all brokers.
    ///
    /// # Errors
    /// When the broker can't be asked.
    ///
    /// # Cancel safety
    /// Safe: it only asks.
    pub async fn recover(&self) -> Result<Vec<XaTransactionId>, XaError> {
        self.xa.recover_from(Arc::clone(&self.connection)).await
    }

    /// A transaction that is taken up or suspended isn't ended.
    fn is_ended(&self, xid: &XaTransactionId) -> Result<(), XaError> {
        let is_current = self.current.as_ref().is_some_and(|current| current.xid == *xid);
        if is_current || self.known.get(xid).is_some_and(|known| known.suspended) {
            return Err(self.error(xid, XaErrorCode::PROTO, "it is taken up or suspended; end it first"));
        }
        Ok(())
    }

    /// One that can only be rolled back is, and this fails.
    async fn is_sound(&mut self, xid: &XaTransactionId) -> Result<(), XaError> {
        let Some((code, text)) = self.known.get(xid).and_then(|known| known.spoilt.clone()) else {
            return Ok(());
        };
        match self.rollback(xid).await {
            Ok(()) => {}
            Err(error) if error.code() == XaErrorCode::NOTA => drop(self.known.remove(xid)),
            Err(error) => return Err(error),
        }
        Err(self.error(xid, code, &text))
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
                if error.code() == XaErrorCode::NOTA || error.code().is_rollback() {
                    self.known.remove(xid);
                }
                Err(error)
            }
        }
    }
}
