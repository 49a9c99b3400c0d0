//! Local transactions: messages that one broker stores together, or not at all.

mod begin;
mod counted;
mod end;
mod error;
mod names;
mod options;
mod place;
mod rollback;
mod steps;

use std::{collections::VecDeque, fmt, mem, sync::Arc};

use metaq_protocol::{BrokerAddr, Partition};
use metaq_transport::{PendingResponse, Progress, TransportError, TransportErrorKind};
use tokio::{runtime::Handle, time::Instant};

use begin::NotBegun;
use counted::CountedTransaction;
pub(crate) use counted::{CountedMessage, Put};
pub use end::CommitReceipt;
pub(crate) use error::NO_RUNTIME;
pub use error::{TransactionError, TransactionErrorKind, TransactionOutcome};
pub(crate) use names::{HOST, TransactionNames};
pub use options::TransactionOptions;
pub(crate) use options::{REQUEST_TIMEOUT, whole_seconds};
pub(crate) use place::{NoPlace, Place, Unfit, choose, choose_on, topic_of};
pub(crate) use rollback::Rollback;
pub(crate) use steps::{Branch, StepError, in_runtime, read, read_put};

use crate::{Message, Producer, deadline, route::TopicState};

/// How many messages [`Transaction::send_all`] has in flight.
const WINDOW: usize = 256;

/// Messages that are stored together, or not at all; begun by [`Producer::begin`].
///
/// All are stored by one broker, which the first message chooses: later ones go to that broker's partitions, whatever their
/// topics, and fail where a topic has none there (rule T-8). Consumers see them when the transaction is committed, not
/// before. Nothing depends on threads or tasks, a producer can have any number of transactions at a time, and their
/// messages don't wait for one another's.
///
/// # What is promised
/// - When [`commit`](Self::commit) returns `Ok`, exactly the messages are stored whose sending returned `Ok`.
/// - When it fails, [`TransactionError::outcome`] says whether nothing is stored for certain, or that isn't known. It isn't
///   known only when the commit was sent and its answer didn't come.
/// - Messages that are sent one after another to one partition are stored in that order.
///
/// # What is not
/// - A transaction lives on one connection. When that is lost, the broker rolls it back (rules T-16 and B-18).
/// - Nobody learns at which offsets the messages are stored (rule B-10).
/// - Brokers don't compare checksums in a transaction, and take messages for partitions that an operator closed (K-49).
///
/// # Statistics
/// In [`ProducerStats`](crate::ProducerStats) a message counts as acknowledged when the broker has taken it, whatever becomes
/// of the transaction; [`transactions`](crate::ProducerStats::transactions) counts how those end.
///
/// # End
/// An open transaction that is dropped is rolled back in the background, which is told to `tracing` as a warning. The
/// rollback is repeated until the broker confirms it, the connection ends, or 60 s have passed. It runs on the tokio runtime
/// in which the transaction is dropped, else on the one in which it began. When the producer is closed, its open
/// transactions are over and nothing of them is stored.
///
/// ```no_run
/// # use metaq_producer::{Message, Producer, Topic, TransactionOptions};
/// # async fn example(producer: Producer, orders: Topic, stock: Topic) -> Result<(), Box<dyn std::error::Error>> {
/// let mut transaction = producer.begin(TransactionOptions::new());
/// transaction.send(Message::new(orders, "one coffee")).await?;
/// transaction.send(Message::new(stock, "coffee -1")).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a transaction that is dropped is rolled back"]
pub struct Transaction {
    producer: Producer,
    options: TransactionOptions,
    state: State,
    /// How many messages were acknowledged.
    messages: u64,
}

enum State {
    /// No broker knows of it.
    New,
    Open(Box<Open>),
    /// Nothing of it is stored, for this reason.
    Over(String),
}

/// A transaction that a broker knows, or is being told.
struct Open {
    branch: Branch,
    /// How often its connection had been established when it began.
    established: u64,
    /// The answer to `BEGIN`, until it is there.
    begin: Option<PendingResponse>,
    /// Messages that were not answered yet, in order. There are some between two calls if a sending was dropped.
    puts: VecDeque<Put>,
    /// The runtime in which it began, to roll it back where there is none.
    runtime: Option<Handle>,
    counted: CountedTransaction,
}

/// A message that was offered, and its topic.
type Offered = Result<(Arc<TopicState>, CountedMessage), Unfit>;

/// Where a message of a transaction is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionReceipt {
    /// The partition. The offset isn't known, also after the commit (rule B-10).
    pub partition: Partition,
    /// The id that the broker gave it. Real brokers give negative ids, too.
    pub message_id: i64,
    /// The broker of the transaction.
    pub broker: BrokerAddr,
}

impl Producer {
    /// Begins a local transaction. No broker is asked before its first message (rule T-2).
    pub fn begin(&self, options: TransactionOptions) -> Transaction {
        Transaction { producer: self.clone(), options, state: State::New, messages: 0 }
    }
}

impl Transaction {
    /// Sends a message as part of the transaction, and waits for the broker to take it, at most for the producer's send
    /// timeout, the beginning included where it is the first.
    ///
    /// Nothing is sent twice: unlike [`Producer::send`] this doesn't follow the retry policy, except that the transaction
    /// begins at another broker where one can't be reached.
    ///
    /// # Errors
    /// [`TransactionError::outcome`] says whether the transaction goes on without the message: as long as the message is
    /// certainly not part of it (rule T-14). If that isn't certain the transaction is rolled back.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the message is part of the transaction. The next call waits for its answer
    /// first; without one, the transaction is rolled back.
    pub async fn send(&mut self, message: Message) -> Result<TransactionReceipt, TransactionError> {
        let offered = self.offer(&message);
        self.settle().await?;
        self.queue(&message, offered).await?;
        self.receipt().await
    }

    /// Sends many messages as part of the transaction without waiting for each, and returns their receipts in the same
    /// order. The broker stores them in any order (K-50). Each has the producer's send timeout.
    ///
    /// # Errors
    /// As for [`send`](Self::send), with the first error. No more messages are sent then; those before it, and up to 255
    /// after it, may be part of the transaction.
    ///
    /// # Cancel safety
    /// As for `send`.
    pub async fn send_all(
        &mut self,
        messages: impl IntoIterator<Item = Message>,
    ) -> Result<Vec<TransactionReceipt>, TransactionError> {
        self.settle().await?;
        let (mut receipts, mut failed) = (Vec::new(), None);
        for message in messages {
            if self.unanswered() >= WINDOW {
                match self.receipt().await {
                    Ok(receipt) => receipts.push(receipt),
                    Err(error) => failed = Some(error),
                }
            }
            if failed.is_none() {
                let offered = self.offer(&message);
                failed = self.queue(&message, offered).await.err();
            }
            if failed.is_some() {
                break;
            }
        }
        while self.unanswered() > 0 {
            match self.receipt().await {
                Ok(receipt) => receipts.push(receipt),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(receipts), Err)
    }

    /// The transaction's name, `TX:…`, as it stands in the broker's log; none before the first message.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.open().map(|open| open.branch.id.as_str())
    }

    /// The broker of the transaction; none before the first message.
    #[must_use]
    pub fn broker(&self) -> Option<&BrokerAddr> {
        self.open().map(Open::broker)
    }

    /// How many messages are part of it.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    fn open(&self) -> Option<&Open> {
        match &self.state {
            State::Open(open) => Some(open),
            _ => None,
        }
    }

    fn unanswered(&self) -> usize {
        self.open().map_or(0, |open| open.puts.len())
    }

    /// Counts a message as offered, and finds its topic.
    fn offer(&self, message: &Message) -> Offered {
        topic_of(&self.producer.inner, message)
    }

    /// Waits for what calls before this left unanswered.
    async fn settle(&mut self) -> Result<(), TransactionError> {
        if let State::Over(_) = self.state {
            return Err(self.refusal());
        }
        match self.begun().await {
            // Nothing was sent in it yet: it begins anew.
            Ok(()) | Err(NotBegun { elsewhere: true, .. }) => {}
            Err(NotBegun { error, .. }) => return Err(error),
        }
        while self.unanswered() > 0 {
            match self.receipt().await {
                Err(error) if error.outcome() != TransactionOutcome::Open => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Hands a message to the connection, after `BEGIN` where it is the first.
    async fn queue(&mut self, message: &Message, offered: Offered) -> Result<(), TransactionError> {
        let deadline = deadline::after(self.producer.inner.config.send_timeout);
        in_runtime().map_err(|step| self.not_sent(step))?;
        let (topic, mut counted) = match offered {
            Ok(offered) => offered,
            Err(unfit) => {
                let error = self.placed(TransactionError::unfit(unfit, TransactionOutcome::Open));
                return Err(self.ended_by(error));
            }
        };
        let Place { partition, counts, .. } = match &self.state {
            State::New => self.begin_for(&topic, message, deadline).await?,
            State::Over(_) => return Err(self.refusal()),
            State::Open(open) if open.is_lost() => return Err(self.lost()),
            State::Open(open) => {
                choose_on(open.broker(), &topic, message).map_err(|no_place| self.placed(no_place.into()))?
            }
        };
        let State::Open(open) = &mut self.state else { return Err(self.refusal()) };
        match open.branch.put(message, partition.index, deadline).await {
            Ok(answer) => {
                counted.submitted(counts);
                open.puts.push_back(Put { partition, answer, counted });
                Ok(())
            }
            Err(step) => Err(self.not_sent(step)),
        }
    }

    /// Waits for the answer to the first message that has none. There has to be one.
    async fn receipt(&mut self) -> Result<TransactionReceipt, TransactionError> {
        let State::Open(open) = &mut self.state else { return Err(self.refusal()) };
        let Some(put) = open.puts.front_mut() else { return Err(self.refusal()) };
        let outcome = (&mut put.answer).await;
        let id = put.partition.broker;
        let received_at = outcome.as_ref().map(|answer| answer.received_at);
        let received_at = received_at.unwrap_or_else(|_| Instant::now());
        let outcome = read_put(outcome);
        if let Some(put) = open.puts.pop_front() {
            put.count(outcome.as_ref().map(|_| received_at));
        }
        match outcome {
            Ok(place) => {
                let partition = Partition::new(id.0, place.partition);
                let broker = open.broker().clone();
                self.messages += 1;
                Ok(TransactionReceipt { partition, message_id: place.message_id, broker })
            }
            Err(step) if step.is_not_started() => {
                let error = expired(open);
                Err(self.ended_by(error))
            }
            // The message is certainly not part of it (rule T-14).
            Err(step @ StepError::Refused(..)) => {
                Err(self.placed(TransactionError::step(step, TransactionOutcome::Open)))
            }
            Err(step) => Err(self.not_sent(step)),
        }
    }

    /// A message has no proper answer. The transaction goes on if the broker can't have seen it.
    fn not_sent(&mut self, step: StepError) -> TransactionError {
        let goes_on = match &step {
            StepError::NoAnswer(error) => error.progress() == Progress::NotWritten && !ends_connection(error),
            StepError::NoRuntime => true,
            StepError::Refused(..) | StepError::Odd(_) => false,
        };
        if goes_on {
            return self.placed(TransactionError::step(step, TransactionOutcome::Open));
        }
        self.over(step)
    }

    /// The transaction is over by this failure, and nothing of it will be stored.
    fn over(&mut self, step: StepError) -> TransactionError {
        let error = self.placed(TransactionError::step(step, TransactionOutcome::RolledBack));
        self.ended_by(error)
    }

    /// The transaction's connection is another than that on which it began.
    fn lost(&mut self) -> TransactionError {
        let text = "its connection was lost";
        let kind = TransactionErrorKind::ConnectionLost;
        let error = self.placed(TransactionError::new(kind, TransactionOutcome::RolledBack, text));
        self.ended_by(error)
    }

    /// Ends the transaction, unless it goes on for all of this error.
    fn ended_by(&mut self, error: TransactionError) -> TransactionError {
        if error.outcome() == TransactionOutcome::RolledBack
            && let State::Open(open) = mem::replace(&mut self.state, State::Over(error.text().to_owned()))
        {
            open.roll_back_later(self.options.request_timeout());
        }
        error
    }

    fn placed(&self, error: TransactionError) -> TransactionError {
        match &self.state {
            State::Open(open) => error.of(&open.branch.id, open.broker()),
            _ => error,
        }
    }

    /// The error of a step that comes too late.
    fn refusal(&self) -> TransactionError {
        let text = match &self.state {
            State::Over(text) => format!("it is over: {text}"),
            _ => "it is over".to_owned(),
        };
        TransactionError::new(TransactionErrorKind::Over, TransactionOutcome::RolledBack, text)
    }
}

/// The broker has no such transaction any more.
fn expired(open: &Open) -> TransactionError {
    let text = "the broker has ended it: its timeout has passed, or its connection was replaced";
    let kind = TransactionErrorKind::Expired;
    TransactionError::new(kind, TransactionOutcome::RolledBack, text).of(&open.branch.id, open.broker())
}

/// Whether the connection is gone, and local transactions with it.
fn ends_connection(error: &TransportError) -> bool {
    use TransportErrorKind::{Closed, Lost, NotConnected};
    matches!(error.kind(), Closed | Lost | NotConnected)
}

impl Open {
    fn broker(&self) -> &BrokerAddr {
        self.branch.connection.broker()
    }

    /// Whether the connection on which it began is gone.
    fn is_lost(&self) -> bool {
        self.branch.is_lost(self.begin.is_none().then_some(self.established))
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("id", &self.id())
            .field("broker", &self.broker())
            .field("messages", &self.messages)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
