//! One broker as a resource of distributed transactions.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use metaq_protocol::{BrokerAddr, Partition, TransactionAction, TransactionId, XaTransactionId};
use metaq_transport::{Connection, Progress};
use tokio::{runtime::Handle, time::Instant};

use super::{
    XaError, XaErrorCode, XaProducer,
    course::{Known, XaEnd, XaStart},
};
use crate::{
    Message, TransactionReceipt, deadline,
    panics::contain,
    transaction::{
        Branch, NoPlace, Place, Put, Rollback, StepError, Unfit, choose_on, read_put, topic_of, whole_seconds,
    },
};

/// One broker as a resource of distributed transactions; made by [`XaProducer::resource`]. A transaction manager, or a program
/// that is its own, takes the steps in the order of X/Open: start, send, end, prepare, then commit or rollback.
///
/// All steps go to this one broker. Unlike local transactions, these outlive the connection, and can be ended by any
/// resource at the same broker, also by the Java client; once prepared they outlive the broker's process, too.
/// One that was not prepared stays at the broker for ever, unless it has a [timeout](Self::set_timeout).
///
/// # What is promised
/// - A transaction votes [`Prepared`](super::XaVote::Prepared), and is committed in one phase, only if every message that was sent
///   through this resource was answered: what a broker takes after that is lost (findings: "Transactions"). If one has no
///   answer the transaction can only be rolled back, with the code [`RBCOMMFAIL`](XaErrorCode::RBCOMMFAIL).
/// - A step that was sent and not answered fails with [`RMFAIL`](XaErrorCode::RMFAIL) and
///   [`is_unknown`](XaError::is_unknown), never as failed or done.
///
/// # What is not
/// - `END` is not sent to the broker, which does nothing about it and never answers it (rule B-20).
/// - Whether a transaction has begun before is not found out, except for those of this resource: a broker takes the
///   beginning of one that it knows for a success (rule B-14), and messages of a prepared one, which are lost (rule B-24). So
///   names have to be unique.
/// - Brokers don't compare checksums in a transaction (K-49), and nobody learns at which offsets the messages are stored.
///
/// # End
/// If it is dropped between start and end, a transaction that it has begun is rolled back in the background, which is told to
/// `tracing` as a warning. The rollback is repeated until the broker confirms it, the producer is closed, or 60 s have passed.
/// It runs on the tokio runtime in which the resource is dropped, else on the one in which the transaction was taken up.
///
/// # Statistics
/// In [`ProducerStats`](crate::ProducerStats) a message counts as acknowledged when the broker has taken it, whatever becomes
/// of the transaction.
pub struct XaResource {
    pub(super) xa: XaProducer,
    pub(super) connection: Arc<dyn Connection>,
    timeout: Duration,
    /// Between start and end.
    pub(super) current: Option<Current>,
    /// What is known of transactions that went through here and did not end yet.
    pub(super) known: HashMap<XaTransactionId, Known>,
}

pub(super) struct Current {
    branch: Branch,
    pub(super) xid: XaTransactionId,
    /// Messages without an answer. There are some between two calls if a sending was dropped.
    puts: VecDeque<Put>,
    /// The runtime in which it was taken up, to roll it back where there is none.
    runtime: Option<Handle>,
}

impl XaResource {
    pub(super) fn new(xa: &XaProducer, connection: Arc<dyn Connection>) -> Self {
        let known = HashMap::new();
        Self { xa: xa.clone(), connection, timeout: Duration::ZERO, current: None, known }
    }

    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &BrokerAddr {
        self.connection.broker()
    }

    /// Whether both are the same broker (rule X-16).
    #[must_use]
    pub fn is_same_rm(&self, other: &Self) -> bool {
        self.broker() == other.broker()
    }

    /// After how long the broker rolls a transaction back that was not prepared; zero is never.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sets the timeout of the transactions that begin from now on, in whole seconds: a part of one counts as one. A broker
    /// with the shipped settings cuts it to 60 s (rules X-18 and B-19). Default zero, which is never: then a transaction whose
    /// program ends before it is prepared stays at the broker until the broker is started again.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Takes up a transaction: from now on [`send`](Self::send) belongs to it.
    ///
    /// # Errors
    /// [`PROTO`](XaErrorCode::PROTO) while another one is taken up; [`DUPID`](XaErrorCode::DUPID) when it has begun here
    /// before; [`NOTA`](XaErrorCode::NOTA) when it was not suspended here; or what the broker says. A transaction
    /// that did not begin isn't taken up (K-55).
    ///
    /// # Cancel safety
    /// Dropping the future may leave a transaction at the broker, with nothing in it; it isn't taken up.
    pub async fn start(&mut self, xid: &XaTransactionId, flags: XaStart) -> Result<(), XaError> {
        if let Some(current) = &self.current {
            return Err(if current.xid == *xid {
                self.error(xid, XaErrorCode::DUPID, "it is taken up already")
            } else {
                self.error(xid, XaErrorCode::PROTO, "another transaction is taken up; end that first")
            });
        }
        let branch = self.branch(xid)?;
        let mut known = match (self.known.remove(xid), flags) {
            (Some(known), XaStart::Resume) if known.suspended => known,
            (Some(known), XaStart::Join) => known,
            (None, XaStart::Join) => Known::default(),
            (None, XaStart::New) => {
                self.begin(&branch).await?;
                Known { begun: true, ..Known::default() }
            }
            (known, XaStart::New) => {
                self.known.extend(known.map(|known| (xid.clone(), known)));
                return Err(self.error(xid, XaErrorCode::DUPID, "it has begun here before"));
            }
            (known, _) => {
                self.known.extend(known.map(|known| (xid.clone(), known)));
                return Err(self.error(xid, XaErrorCode::NOTA, "it was not suspended here"));
            }
        };
        known.suspended = false;
        self.known.insert(xid.clone(), known);
        let runtime = Handle::try_current().ok();
        self.current = Some(Current { branch, xid: xid.clone(), puts: VecDeque::new(), runtime });
        Ok(())
    }

    async fn begin(&self, branch: &Branch) -> Result<(), XaError> {
        let deadline = self.deadline();
        let begun = async {
            branch.ready(deadline).await?;
            branch.step(TransactionAction::Begin, whole_seconds(self.timeout), deadline).await
        };
        let Err(step) = begun.await else { return Ok(()) };
        let error = XaError::step(step, &branch.id, self.broker());
        if error.is_unknown() {
            Rollback::of_xa(branch.clone(), self.xa.request_timeout).start(None);
        }
        Err(error)
    }

    /// Sends a message as part of the transaction that was taken up, and waits for the broker to take it, at most for the
    /// producer's send timeout. Messages that are sent one after another to one partition are stored in that order.
    ///
    /// # Errors
    /// [`PROTO`](XaErrorCode::PROTO) when no transaction is taken up: nothing is sent outside of it instead (K-15).
    /// [`INVAL`](XaErrorCode::INVAL) for a message that can't be sent to this broker, [`RMERR`](XaErrorCode::RMERR) for one that
    /// the broker refused: the transaction goes on without it. [`is_unknown`](XaError::is_unknown) when it may be
    /// part of the transaction, which can only be rolled back then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the message is part of the transaction. The next call waits for its answer
    /// first.
    pub async fn send(&mut self, message: Message) -> Result<TransactionReceipt, XaError> {
        let offered = topic_of(&self.xa.producer.inner, &message);
        self.settle().await;
        let Some(current) = &mut self.current else {
            return Err(XaError::new(XaErrorCode::PROTO, "no transaction is taken up; start one first"));
        };
        let (id, broker) = (&current.branch.id, self.connection.broker());
        let deadline = deadline::after(self.xa.producer.inner.config.send_timeout);
        let (topic, mut counted) = offered.map_err(|unfit| refused(unfit).of(id, broker))?;
        let Place { partition, counts, .. } = choose_on(broker, &topic, &message)
            .map_err(|no_place| no_place_error(no_place).of(id, broker))?;
        match current.branch.put(&message, partition.index, deadline).await {
            Ok(answer) => {
                counted.submitted(counts);
                current.puts.push_back(Put { partition, answer, counted });
            }
            Err(step) => return Err(XaError::step(step, id, broker)),
        }
        self.receipt().await
    }

    /// Waits for the answer to the first message that has none. There has to be one.
    async fn receipt(&mut self) -> Result<TransactionReceipt, XaError> {
        let nothing = || XaError::new(XaErrorCode::PROTO, "no message awaits its answer");
        let current = self.current.as_mut().ok_or_else(nothing)?;
        let put = current.puts.front_mut().ok_or_else(nothing)?;
        let (id, outcome) = (put.partition.broker, (&mut put.answer).await);
        let received_at = outcome.as_ref().map(|answer| answer.received_at);
        let received_at = received_at.unwrap_or_else(|_| Instant::now());
        let outcome = read_put(outcome);
        if let Some(put) = current.puts.pop_front() {
            put.count(outcome.as_ref().map(|_| received_at));
        }
        let broker = self.connection.broker();
        let step = match outcome {
            Ok(place) => {
                let partition = Partition::new(id.0, place.partition);
                return Ok(TransactionReceipt {
                    partition,
                    message_id: place.message_id,
                    broker: broker.clone(),
                });
            }
            Err(step) => step,
        };
        let certain = match &step {
            StepError::Refused(..) => true,
            StepError::NoAnswer(error) => error.progress() == Progress::NotWritten,
            StepError::NoRuntime => true,
            StepError::Odd(_) => false,
        };
        let error = XaError::step(step, &current.branch.id, broker);
        if !certain && let Some(known) = self.known.get_mut(&current.xid) {
            known.spoil(XaErrorCode::RBCOMMFAIL, "a message of it has no answer");
        }
        Err(error)
    }

    /// Waits for what calls before this left unanswered.
    pub(super) async fn settle(&mut self) {
        while self.current.as_ref().is_some_and(|current| !current.puts.is_empty()) {
            // What it means for the transaction is kept.
            let _ = self.receipt().await;
        }
    }

    /// Leaves the transaction that was taken up. A suspended one may be ended without being taken up again.
    ///
    /// # Errors
    /// [`PROTO`](XaErrorCode::PROTO) when it isn't taken up (rule X-10).
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
                Ok(())
            }
            _ => Err(self.error(xid, XaErrorCode::PROTO, "it is not taken up")),
        }
    }

    pub(super) fn branch(&self, xid: &XaTransactionId) -> Result<Branch, XaError> {
        self.xa.branch(TransactionId::Xa(xid.clone()), Arc::clone(&self.connection))
    }

    pub(super) fn deadline(&self) -> Instant {
        deadline::after(self.xa.request_timeout)
    }

    pub(super) fn error(&self, xid: &XaTransactionId, code: XaErrorCode, text: &str) -> XaError {
        XaError::new(code, text).of(&TransactionId::Xa(xid.clone()), self.broker())
    }
}

fn no_place_error(no_place: NoPlace) -> XaError {
    match no_place {
        NoPlace::NoBroker => XaError::new(XaErrorCode::RMFAIL, "no broker of the topic is connected"),
        NoPlace::Away(text) => XaError::new(XaErrorCode::RMFAIL, text),
        NoPlace::Refused(text) => XaError::new(XaErrorCode::INVAL, text),
    }
}

fn refused(unfit: Unfit) -> XaError {
    match unfit {
        Unfit::Closed => XaError::new(XaErrorCode::RMFAIL, "the producer was closed"),
        Unfit::NotPublished => {
            XaError::new(XaErrorCode::INVAL, "the message's topic is not published; call publish_topic first")
        }
        Unfit::TooLarge { size, limit } => {
            let text = format!("the message's {size} bytes are more than max_message_size, which is {limit}");
            XaError::new(XaErrorCode::INVAL, text)
        }
    }
}

impl Drop for XaResource {
    fn drop(&mut self) {
        let Some(current) = self.current.take() else { return };
        let begun = self.known.get(&current.xid).is_some_and(|known| known.begun);
        // Whatever a subscriber does, the rest is done.
        contain(|| {
            tracing::warn!(
                transaction = %current.branch.id,
                broker = %self.broker(),
                "an XA transaction was dropped before its end{}",
                if begun { " and is rolled back" } else { "; it was begun elsewhere, and is left" }
            );
        });
        if begun {
            let Current { branch, runtime, .. } = current;
            Rollback::of_xa(branch, self.xa.request_timeout).start(runtime.as_ref());
        }
    }
}

impl fmt::Debug for XaResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XaResource")
            .field("broker", self.broker())
            .field("current", &self.current.as_ref().map(|current| &current.xid))
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}
