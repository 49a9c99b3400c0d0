//! The association of messages with a transaction: start and end.

use std::{collections::VecDeque, sync::Arc};

use metaq_protocol::{TransactionAction, XaTransactionId};
use tokio::time::Instant;

use super::{
    XaError, XaErrorCode, XaResource,
    flags::{Known, XaEnd, XaStart},
    resource::Current,
};
use crate::{branch::Branch, deadline, transaction::whole_seconds};

impl XaResource {
    /// Takes up a transaction: from now on [`send`](Self::send) belongs to it. A new one must have a name
    /// that was never used before, not even for an earlier attempt at the same:
    /// [`XaProducer::new_xid`](super::XaProducer::new_xid) makes one. The broker is asked first whether it
    /// holds a prepared transaction of the name, because it takes the beginning of one for a success.
    ///
    /// # Errors
    /// [`PROTO`](XaErrorCode::PROTO) while another one is taken up; [`DUPID`](XaErrorCode::DUPID) when it has
    /// begun here before, or the broker holds a prepared one of the name, which stays as it is;
    /// [`NOTA`](XaErrorCode::NOTA) when it was not suspended here; [`INVAL`](XaErrorCode::INVAL) for the
    /// qualifier of another producer; or what the broker says. A transaction that did not begin isn't taken
    /// up. One whose beginning has no answer is left to its timeout; there is nothing in it.
    ///
    /// # Cancel safety
    /// Dropping the future may leave a transaction at the broker, with nothing in it; it isn't taken up.
    pub async fn start(&mut self, xid: &XaTransactionId, flags: XaStart) -> Result<(), XaError> {
        self.xa.ensure_own(xid).map_err(|error| self.of(xid, error))?;
        if let Some(current) = &self.current {
            return Err(if current.xid == *xid {
                self.error(xid, XaErrorCode::DUPID, "it is taken up already")
            } else {
                self.error(xid, XaErrorCode::PROTO, "another transaction is taken up; end that first")
            });
        }
        let now = Instant::now();
        self.known.retain(|_, known| !known.is_over(now));
        let branch = self.branch(xid)?;
        match (flags, self.known.get(xid)) {
            (XaStart::Join, _) => {}
            (XaStart::New, None) => {
                self.xa.shared.prepared.warn_of_old();
                self.ensure_new(xid).await?;
                self.begin(&branch).await?;
                self.known.insert(xid.clone(), Known::begun(self.timeout));
            }
            (XaStart::New, Some(_)) => {
                return Err(self.error(xid, XaErrorCode::DUPID, "it has begun here before"));
            }
            (XaStart::Resume, known) => {
                if !known.is_some_and(|known| known.suspended) {
                    return Err(self.error(xid, XaErrorCode::NOTA, "it was not suspended here"));
                }
            }
        }
        self.known.entry(xid.clone()).or_default().suspended = false;
        let runtime = deadline::runtime();
        self.current = Some(Current { branch, xid: xid.clone(), puts: VecDeque::new(), runtime });
        Ok(())
    }

    /// The broker must not hold a prepared transaction of the name, and none must be about to be rolled back.
    async fn ensure_new(&self, xid: &XaTransactionId) -> Result<(), XaError> {
        if self.xa.shared.ending.lock().contains(xid) {
            return Err(self.error(xid, XaErrorCode::DUPID, "it is being rolled back"));
        }
        let listed = self.xa.list(Arc::clone(&self.connection)).await.map_err(|error| self.of(xid, error))?;
        if listed.transactions.contains(xid) {
            let text = "the broker holds a prepared transaction of this name; recover it, and use a new name";
            return Err(self.error(xid, XaErrorCode::DUPID, text));
        }
        Ok(())
    }

    async fn begin(&self, branch: &Branch) -> Result<(), XaError> {
        let deadline = self.deadline();
        let begun = async {
            branch.ready(deadline).await?;
            branch.step(TransactionAction::Begin, whole_seconds(self.timeout), deadline).await
        };
        begun.await.map(drop).map_err(|step| XaError::step(step, &branch.id, self.broker()))
    }

    /// Leaves the transaction that was taken up. A suspended one may be ended without being taken up again.
    ///
    /// # Errors
    /// [`PROTO`](XaErrorCode::PROTO) when it isn't taken up.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it taken up.
    pub async fn end(&mut self, xid: &XaTransactionId, flags: XaEnd) -> Result<(), XaError> {
        let is_current = self.current.as_ref().is_some_and(|current| current.xid == *xid);
        if is_current {
            self.settle().await;
            self.current = None;
        }
        match self.known.get_mut(xid) {
            Some(known) if is_current || (known.suspended && flags != XaEnd::Suspend) => {
                known.suspended = flags == XaEnd::Suspend;
                if flags == XaEnd::Fail {
                    known.spoil(XaErrorCode::RBROLLBACK, "it was ended as failed");
                }
                // What began elsewhere is ended elsewhere, maybe.
                if !known.begun && !known.suspended && known.rollback_only.is_none() {
                    self.known.remove(xid);
                }
                Ok(())
            }
            _ => Err(self.error(xid, XaErrorCode::PROTO, "it is not taken up")),
        }
    }
}
