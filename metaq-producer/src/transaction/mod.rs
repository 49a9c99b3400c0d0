//! Local transactions: messages that one broker stores together, or not at all.

mod begin;
mod counted;
mod end;
mod error;
mod options;
mod place;
mod sending;

use std::{collections::VecDeque, fmt, mem};

use metaq_protocol::{BrokerAddr, Partition};
use metaq_transport::PendingResponse;
use tokio::runtime::Handle;

use begin::NotBegun;
use counted::CountedTransaction;
pub(crate) use counted::{CountedMessage, Put};
pub use end::CommitReceipt;
pub use error::{TransactionError, TransactionErrorKind, TransactionOutcome};
pub use metaq_protocol::TransactionId;
pub use options::TransactionOptions;
pub(crate) use options::{TIMEOUT, whole_seconds};
pub(crate) use place::{Place, PlacementError, Unsendable, choose, choose_on, topic_of};

use crate::{
    Producer,
    branch::{Branch, Registration},
};

/// Messages that are stored together, or not at all; begun by [`Producer::begin`].
///
/// All are stored by one broker, which the first message chooses: later ones go to that broker's partitions,
/// whatever their topics, and fail where a topic has none there. Consumers see them when the transaction is
/// committed, not before. Nothing depends on threads or tasks, a producer can have any number of transactions
/// at a time, and their messages don't wait for one another's.
///
/// # What is promised
/// - When [`commit`](Self::commit) returns `Ok`, exactly the messages are stored whose sending returned `Ok`,
///   and those whose sending was given up, by dropping its future, after the broker had taken them.
/// - When it fails, [`TransactionError::outcome`] says whether nothing is stored for certain, or that isn't
///   known. It isn't known only when the commit was sent and was not answered, or refused while the broker
///   stored the messages.
/// - Messages that are sent one after another to one partition are stored in that order.
///
/// # What is not
/// - A transaction lives on one connection. When that is lost, it is over and can't be committed any more,
///   but the broker rolls nothing back: it keeps the messages in its memory, where no consumer sees them,
///   until the transaction's [timeout](TransactionOptions::with_timeout) has passed, 60 s after the first
///   message by default. Without a timeout it keeps them until it is restarted.
/// - The offsets of the stored messages aren't known.
/// - Brokers don't compare checksums in a transaction, and take messages for partitions that an operator
///   closed.
///
/// # Statistics
/// In [`ProducerStats`](crate::stats::ProducerStats) a message counts as acknowledged when the broker has
/// taken it, whatever becomes of the transaction; [`transactions`](crate::stats::ProducerStats::transactions)
/// counts how those end.
///
/// # End
/// An open transaction that is dropped is rolled back in the background, and a warning is logged. The
/// rollback is repeated until the broker confirms it, the connection ends, or 60 s have passed. It runs on
/// the tokio runtime in which the transaction is dropped, else on the one in which it began. When the
/// producer is [closed](Producer::close), it rolls its open transactions back in the same way, until the
/// deadline of that.
///
/// ```no_run
/// # use metaq_producer::{Message, Producer, Topic, transaction::TransactionOptions};
/// # type Result = std::result::Result<(), Box<dyn std::error::Error>>;
/// # async fn example(producer: Producer, orders: Topic, stock: Topic) -> Result {
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
    /// The number of messages that were acknowledged.
    messages: u64,
}

enum State {
    /// No broker knows of it.
    New,
    Open(Box<Open>),
    /// Nothing of it is stored.
    Over(Box<Over>),
}

/// A transaction that has ended.
struct Over {
    /// Its id and broker; none if it never began.
    place: Option<(TransactionId, BrokerAddr)>,
    /// The reason of its end.
    text: String,
}

/// A transaction that a broker knows, or is asked to begin.
struct Open {
    branch: Branch,
    /// The number of times that its connection had been established when it began.
    established: u64,
    /// The answer to `BEGIN`, until it is there.
    begin: Option<PendingResponse>,
    /// Messages that were not answered yet, in order. There are some between two calls if a sending was
    /// dropped.
    puts: VecDeque<Put>,
    /// The runtime in which it began, to roll it back where there is none.
    runtime: Option<Handle>,
    counted: CountedTransaction,
    /// Once it has begun.
    registration: Option<Registration>,
}

/// The place that was chosen for a message of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionReceipt {
    /// The partition. The offset isn't known, also after the commit.
    pub partition: Partition,
    /// The id that the broker gave it. Real brokers give negative ids, too.
    pub message_id: i64,
    /// The broker of the transaction.
    pub broker: BrokerAddr,
}

impl Producer {
    /// Begins a local transaction. No broker is asked before its first message. From then on it must be
    /// committed within the [timeout](TransactionOptions::with_timeout), 60 s by default.
    pub fn begin(&self, options: TransactionOptions) -> Transaction {
        Transaction { producer: self.clone(), options, state: State::New, messages: 0 }
    }
}

impl Transaction {
    /// The transaction's name, `TX:…`, as it stands in the broker's log, also when an error has ended it;
    /// none before the first message.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.place().map(|(id, _)| id.as_str())
    }

    /// The broker of the transaction; none before the first message.
    #[must_use]
    pub fn broker(&self) -> Option<&BrokerAddr> {
        self.place().map(|(_, broker)| broker)
    }

    /// The number of messages in it.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    fn place(&self) -> Option<(&TransactionId, &BrokerAddr)> {
        match &self.state {
            State::New => None,
            State::Open(open) => Some((&open.branch.id, open.broker())),
            State::Over(over) => over.place.as_ref().map(|(id, broker)| (id, broker)),
        }
    }

    /// It is over, for this reason. Returns the transaction to roll back.
    fn end(&mut self, text: impl Into<String>) -> Option<Open> {
        let place = self.place().map(|(id, broker)| (id.clone(), broker.clone()));
        let over = State::Over(Box::new(Over { place, text: text.into() }));
        match mem::replace(&mut self.state, over) {
            State::Open(open) => Some(*open),
            State::New | State::Over(_) => None,
        }
    }

    fn open(&self) -> Option<&Open> {
        match &self.state {
            State::Open(open) => Some(open),
            _ => None,
        }
    }
}

/// The broker has no such transaction any more.
fn expired(open: &Open) -> TransactionError {
    let text = "the broker has ended it: its timeout has passed, or its connection was replaced";
    let kind = TransactionErrorKind::Expired;
    TransactionError::new(kind, TransactionOutcome::RolledBack, text).of(&open.branch.id, open.broker())
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
