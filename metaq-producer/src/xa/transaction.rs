//! One XA transaction around a piece of work.

use std::{error::Error as StdError, fmt};

use metaq_protocol::{BrokerAddr, XaTransactionId};

use super::{XaEnd, XaError, XaErrorCode, XaProducer, XaResource, XaStart, XaVote};
use crate::{Message, transaction::TransactionReceipt};

/// The number of times that a prepared transaction is committed if the broker doesn't answer.
const MOST_COMMITS: u32 = 3;

/// A running XA transaction, for the work that [`XaProducer::transaction`] runs in it.
#[derive(Debug)]
pub struct XaTransaction {
    resource: XaResource,
    xid: XaTransactionId,
    state: State,
    keeps_prepared: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Messages can be sent.
    Open,
    Prepared,
    /// Nothing was sent in it, and it is over.
    ReadOnly,
    /// It could not be prepared, or it isn't known whether it is.
    NotPrepared,
}

impl XaTransaction {
    /// The name of the transaction, to be written down with the decision to commit it.
    #[must_use]
    pub fn xid(&self) -> &XaTransactionId {
        &self.xid
    }

    /// The broker, to be written down with the decision: [`XaProducer::expect_brokers`] takes it after a
    /// restart.
    #[must_use]
    pub fn broker(&self) -> &BrokerAddr {
        self.resource.broker()
    }

    /// Sends a message in the transaction, as [`XaResource::send`].
    ///
    /// # Errors
    /// As for `XaResource::send`; [`PROTO`](XaErrorCode::PROTO) after [`prepare`](Self::prepare).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the message is part of the transaction. The next call, or
    /// the end of the work, waits for its answer first.
    pub async fn send(&mut self, message: Message) -> Result<TransactionReceipt, XaError> {
        self.resource.send(message).await
    }

    /// Prepares the transaction, after which no message can be sent: the broker keeps it until it is
    /// committed or rolled back. For work that has another resource take part, such as a database, whose own
    /// transaction holds the decision; work that only sends needs no call of this.
    ///
    /// # Errors
    /// As for [`XaResource::prepare`]. The transaction can't be committed then, and is rolled back at the end
    /// of the work.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether it is prepared. It is rolled back at the end of the work.
    pub async fn prepare(&mut self) -> Result<XaVote, XaError> {
        if self.state != State::Open {
            let text = "it can be prepared once";
            return Err(XaError::new(XaErrorCode::PROTO, text));
        }
        self.state = State::NotPrepared;
        self.resource.end(&self.xid, XaEnd::Success).await?;
        let vote = self.resource.prepare(&self.xid).await?;
        self.state = match vote {
            XaVote::Prepared => State::Prepared,
            XaVote::ReadOnly => State::ReadOnly,
        };
        Ok(vote)
    }

    /// Has the transaction stay prepared, for recovery, if the work fails from now on. To be called before
    /// the decision is written down: whether it is can be in doubt when that fails.
    pub fn keep_prepared(&mut self) {
        self.keeps_prepared = true;
    }

    /// The work has succeeded.
    async fn commit(mut self) -> Result<(), XaError> {
        match self.state {
            State::ReadOnly => Ok(()),
            State::Open => {
                self.resource.end(&self.xid, XaEnd::Success).await?;
                self.resource.commit(&self.xid, true).await
            }
            State::Prepared => {
                let mut commits = 1;
                loop {
                    match self.resource.commit(&self.xid, false).await {
                        Err(error)
                            if error.code() == XaErrorCode::RMFAIL
                                && error.is_unknown()
                                && commits < MOST_COMMITS =>
                        {
                            commits += 1;
                        }
                        ended => return ended,
                    }
                }
            }
            State::NotPrepared => {
                self.resource.rollback(&self.xid).await?;
                let text = "it could not be prepared, and was rolled back";
                Err(XaError::new(XaErrorCode::RBROLLBACK, text))
            }
        }
    }

    /// The work has failed.
    async fn roll_back(mut self) -> Result<(), XaError> {
        match self.state {
            State::ReadOnly => Ok(()),
            State::Prepared if self.keeps_prepared => Ok(()),
            _ => self.resource.rollback(&self.xid).await,
        }
    }
}

impl XaProducer {
    /// Runs `work` in a new XA transaction of one of the [brokers](Self::brokers): begins it, and commits it
    /// if the work succeeds, else rolls it back. Nothing of the work's messages is stored before it is
    /// committed.
    ///
    /// Work that only sends is committed in one phase. Work in which another resource takes part calls
    /// [`prepare`](XaTransaction::prepare), has the other resource write down the decision, and returns; the
    /// commit follows, repeated twice if the broker doesn't answer. `xid` is a name that was never used
    /// before, as by [`new_xid`](Self::new_xid).
    ///
    /// A panic in the work, and dropping the future, roll the transaction back in the background, as dropping
    /// an [`XaResource`] does; but one that is prepared by then is left to [recovery](Self::recover): the
    /// decision to commit it may be written down.
    ///
    /// # Errors
    /// [`Work`](XaTransactionError::Work) when the work has failed; the transaction is rolled back then, or
    /// the error says why that isn't confirmed, or it stays prepared as [asked
    /// for](XaTransaction::keep_prepared). [`Xa`](XaTransactionError::Xa) when the transaction could not
    /// begin, or could not be committed: [`XaError::is_unknown`] says whether it may be.
    ///
    /// # Cancel safety
    /// As said above. Dropping the future while the transaction is being committed leaves it open whether it
    /// is.
    ///
    /// ```
    /// # use metaq_producer::{Message, Producer, Topic, xa::{UniqueQualifier, XaError, XaProducer}};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let producer = builder.transport(broker.transport()).build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// let xa = XaProducer::new(&producer, UniqueQualifier::new("billing-1")?);
    /// xa.publish_topic(&orders).await?;
    /// let xid = xa.new_xid(1, b"invoice 17")?;
    /// xa.transaction(&xid, async |transaction| {
    ///     transaction.send(Message::new(orders.clone(), "one coffee")).await?;
    ///     transaction.send(Message::new(orders.clone(), "one tea")).await?;
    ///     Ok::<_, XaError>(())
    /// })
    /// .await?;
    /// assert_eq!(broker.messages("orders").len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn transaction<T, E>(
        &self,
        xid: &XaTransactionId,
        work: impl AsyncFnOnce(&mut XaTransaction) -> Result<T, E>,
    ) -> Result<T, XaTransactionError<E>> {
        let mut resource = self.resource().map_err(XaTransactionError::Xa)?;
        resource.start(xid, XaStart::New).await.map_err(XaTransactionError::Xa)?;
        let (xid, state, keeps_prepared) = (xid.clone(), State::Open, false);
        let mut transaction = XaTransaction { resource, xid, state, keeps_prepared };
        match work(&mut transaction).await {
            Ok(value) => transaction.commit().await.map(|()| value).map_err(XaTransactionError::Xa),
            Err(error) => {
                let rollback = transaction.roll_back().await.err();
                Err(XaTransactionError::Work { error, rollback })
            }
        }
    }
}

/// Work in an XA transaction was not committed.
#[derive(Debug)]
#[non_exhaustive]
pub enum XaTransactionError<E> {
    /// The work has failed, and nothing of it is committed.
    #[non_exhaustive]
    Work {
        /// What the work said.
        error: E,
        /// Why it isn't confirmed that the transaction is rolled back, if so. The broker does it at the
        /// transaction's timeout, unless it is prepared: then recovery lists it.
        rollback: Option<XaError>,
    },
    /// The transaction could not begin, or could not be committed.
    Xa(XaError),
}

impl<E: fmt::Display> fmt::Display for XaTransactionError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work { error, rollback: None } => error.fmt(f),
            Self::Work { error, rollback: Some(rollback) } => {
                write!(f, "{error}; the rollback that followed was not confirmed: {rollback}")
            }
            Self::Xa(error) => error.fmt(f),
        }
    }
}

impl<E: StdError> StdError for XaTransactionError<E> {
    /// The source of the error, which it shows itself.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Work { error, .. } => error.source(),
            Self::Xa(error) => error.source(),
        }
    }
}
