//! One broker as a resource of distributed transactions.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use metaq_protocol::{BrokerAddr, Partition, TransactionId, XaTransactionId};
use metaq_transport::{Connection, Progress};
use parking_lot::Mutex;
use tokio::{runtime::Handle, time::Instant};

use super::{XaError, XaErrorCode, XaProducer, flags::Known};
use crate::{
    Message,
    branch::{Branch, Rollback, StepError, read_put},
    deadline,
    panics::contain,
    transaction::{Place, PlacementError, Put, TIMEOUT, TransactionReceipt, Unsendable, choose_on, topic_of},
};

/// One broker as a resource of distributed transactions; made by [`XaProducer::resource`]. A transaction
/// manager, or a program that is its own, takes the steps in the order of X/Open: start, send, end, prepare,
/// then commit or rollback.
///
/// All steps go to this one broker. Unlike local transactions, these outlive the connection, and can be ended
/// by any resource at the same broker, also by the Java client; once prepared they are on the broker's disk,
/// too, though a restart can [forget](Self::commit) one that has been prepared for long. One that was not
/// prepared is rolled back by the broker after its [timeout](Self::set_timeout), 60 s by default.
///
/// # What is promised
/// - A transaction votes [`Prepared`](super::XaVote::Prepared), and is committed in one phase, only if every
///   message that was sent through this resource was answered: what a broker takes after that is lost. If one
///   has no answer the transaction can only be rolled back, with the code
///   [`RBCOMMFAIL`](XaErrorCode::RBCOMMFAIL).
/// - A step that was sent and not answered fails with [`RMFAIL`](XaErrorCode::RMFAIL) and
///   [`is_unknown`](XaError::is_unknown), never as failed or done.
///
/// # What is not
/// - `END` is not sent to the broker, which does nothing about it and never answers it.
/// - Whether a transaction that isn't prepared has begun before is not found out, except for those of this
///   resource: a broker takes the beginning of one that it knows for a success. So names must be unique.
/// - Brokers don't compare checksums in a transaction, and the offsets of the stored messages aren't known.
///
/// # End
/// If it is dropped between start and end, a transaction that it has begun is rolled back in the background,
/// which is logged to `tracing` as a warning, unless the broker lists it as prepared. That is repeated until
/// the broker confirms it, the producer is closed, or 60 s have passed. It runs on the tokio runtime in which
/// the resource is dropped, else on the one in which the transaction was taken up; without one the
/// transaction is left to its timeout. A rollback that was asked for and not confirmed isn't repeated so: ask
/// again, or leave it to the timeout.
///
/// What it knows of a transaction that others may have ended is kept until its timeout; without one, until
/// the resource is dropped.
///
/// # Statistics
/// In [`ProducerStats`](crate::stats::ProducerStats) a message counts as acknowledged when the broker has
/// taken it, whatever becomes of the transaction.
pub struct XaResource {
    pub(super) xa: XaProducer,
    pub(super) connection: Arc<dyn Connection>,
    pub(super) timeout: Option<Duration>,
    /// Between start and end.
    pub(super) current: Option<Current>,
    /// The state of transactions that went through here and did not end yet.
    pub(super) known: HashMap<XaTransactionId, Known>,
}

pub(super) struct Current {
    pub(super) branch: Branch,
    pub(super) xid: XaTransactionId,
    /// Messages without an answer. There are some between two calls if a sending was dropped.
    pub(super) puts: VecDeque<Put>,
    /// The runtime in which it was taken up, to roll it back where there is none.
    pub(super) runtime: Option<Handle>,
}

impl XaResource {
    pub(super) fn new(xa: &XaProducer, connection: Arc<dyn Connection>) -> Self {
        let known = HashMap::new();
        Self { xa: xa.clone(), connection, timeout: Some(TIMEOUT), current: None, known }
    }

    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &BrokerAddr {
        self.connection.broker()
    }

    /// Whether both are the same broker.
    #[must_use]
    pub fn is_same_rm(&self, other: &Self) -> bool {
        self.broker() == other.broker()
    }

    /// After how long the broker rolls a transaction back that was not prepared; none is never.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Sets the timeout of the transactions that begin from now on, in whole seconds: a part of one, and
    /// zero, count as one. A broker with the shipped settings cuts it to 60 s, which is the default. It ends
    /// with prepare.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = Some(timeout);
    }

    /// Has transactions that begin from now on stay at the broker until they are committed or rolled back.
    /// One whose program ends before it is prepared stays in the broker's memory, with its messages, until
    /// the broker is restarted.
    pub fn remove_timeout(&mut self) {
        self.timeout = None;
    }

    /// Sends a message as part of the transaction that was taken up, and waits for the broker to take it, at
    /// most for the producer's send timeout. Messages that are sent one after another to one partition are
    /// stored in that order.
    ///
    /// # Errors
    /// [`PROTO`](XaErrorCode::PROTO) when no transaction is taken up: nothing is sent outside of it instead.
    /// [`INVAL`](XaErrorCode::INVAL) for a message that can't be sent to this broker,
    /// [`RMERR`](XaErrorCode::RMERR) for one that the broker refused: the transaction goes on without it.
    /// [`is_unknown`](XaError::is_unknown) when it may be part of the transaction, which can only be rolled
    /// back then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the message is part of the transaction. The next call waits
    /// for its answer first.
    pub async fn send(&mut self, mut message: Message) -> Result<TransactionReceipt, XaError> {
        let offered = topic_of(&self.xa.producer.inner, &mut message);
        self.settle().await;
        let Some(current) = &mut self.current else {
            return Err(XaError::new(XaErrorCode::PROTO, "no transaction is taken up; start one first"));
        };
        let (id, broker) = (&current.branch.id, self.connection.broker());
        let deadline = deadline::after(self.xa.producer.inner.config.send_timeout);
        let (topic, mut counted) = offered.map_err(|unfit| refused(unfit).of(id, broker))?;
        let Place { partition, counts, .. } = choose_on(broker, &topic, &message)
            .map_err(|placement_error| no_place_error(placement_error).of(id, broker))?;
        match current.branch.put(&message, partition.index, deadline).await {
            Ok(answer) => {
                counted.submitted(counts);
                current.puts.push_back(Put { partition, answer, counted });
            }
            Err(step) => return Err(XaError::step(step, id, broker)),
        }
        self.receipt().await
    }

    /// Waits for the answer to the first message that has none. There must be one.
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

    pub(super) fn branch(&self, xid: &XaTransactionId) -> Result<Branch, XaError> {
        self.xa.branch(TransactionId::Xa(xid.clone()), Arc::clone(&self.connection))
    }

    pub(super) fn deadline(&self) -> Instant {
        deadline::after(self.xa.request_timeout)
    }

    pub(super) fn error(&self, xid: &XaTransactionId, code: XaErrorCode, text: &str) -> XaError {
        self.of(xid, XaError::new(code, text))
    }

    pub(super) fn of(&self, xid: &XaTransactionId, error: XaError) -> XaError {
        error.of(&TransactionId::Xa(xid.clone()), self.broker())
    }
}

fn no_place_error(placement_error: PlacementError) -> XaError {
    match placement_error {
        PlacementError::NoBroker => XaError::new(XaErrorCode::RMFAIL, "no broker of the topic is connected"),
        PlacementError::Away(text) => XaError::new(XaErrorCode::RMFAIL, text),
        PlacementError::Refused(text) => XaError::new(XaErrorCode::INVAL, text),
    }
}

fn refused(unfit: Unsendable) -> XaError {
    match unfit {
        Unsendable::Closed => XaError::new(XaErrorCode::RMFAIL, "the producer was closed"),
        Unsendable::NotPublished => {
            XaError::new(XaErrorCode::INVAL, "the message's topic is not published; call publish_topic first")
        }
        Unsendable::Intercepted(text) => XaError::new(XaErrorCode::INVAL, text),
        Unsendable::TooLarge { size, limit } => {
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
            let Current { branch, runtime, xid, .. } = current;
            let ending = Ending::new(&self.xa.shared.ending, xid);
            Rollback::of_xa(branch, self.xa.request_timeout)
                .holding(Box::new(ending))
                .start(runtime.as_ref());
        }
    }
}

/// A transaction that is being rolled back in the background, until this is dropped.
struct Ending {
    all: Arc<Mutex<Vec<XaTransactionId>>>,
    xid: XaTransactionId,
}

impl Ending {
    fn new(all: &Arc<Mutex<Vec<XaTransactionId>>>, xid: XaTransactionId) -> Self {
        all.lock().push(xid.clone());
        Self { all: Arc::clone(all), xid }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(at) = all.iter().position(|xid| *xid == self.xid) {
            all.swap_remove(at);
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
