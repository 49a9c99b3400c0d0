//! A filter for the requests that meet a fault, or are recorded.

use metaq_protocol::{Command, TransactionAction};

/// A filter for the requests that meet a fault or are recorded: all requests of a kind, unless it is
/// narrowed.
#[derive(Clone, Debug)]
pub struct Requests {
    verb: Option<&'static str>,
    action: Option<TransactionAction>,
    topic: Option<String>,
    partition: Option<i32>,
    connection: Option<usize>,
    pub(super) skip: u64,
    pub(super) limit: u64,
    pub(super) chance: f64,
}

impl Requests {
    const fn of(verb: Option<&'static str>) -> Self {
        Self {
            verb,
            action: None,
            topic: None,
            partition: None,
            connection: None,
            skip: 0,
            limit: u64::MAX,
            chance: 1.0,
        }
    }

    /// Every request.
    #[must_use]
    pub const fn any() -> Self {
        Self::of(None)
    }

    /// Every `put`, in a transaction or not.
    #[must_use]
    pub const fn puts() -> Self {
        Self::of(Some("put"))
    }

    /// Every `get`.
    #[must_use]
    pub const fn gets() -> Self {
        Self::of(Some("get"))
    }

    /// Every `offset`.
    #[must_use]
    pub const fn offsets() -> Self {
        Self::of(Some("offset"))
    }

    /// Every `stats`.
    #[must_use]
    pub const fn stats() -> Self {
        Self::of(Some("stats"))
    }

    /// Every `version`: the heartbeats.
    #[must_use]
    pub const fn versions() -> Self {
        Self::of(Some("version"))
    }

    /// Every step of a transaction, or those of one kind. The commit of a local transaction is
    /// [`CommitOnePhase`](TransactionAction::CommitOnePhase), that of a prepared XA transaction
    /// [`CommitTwoPhase`](TransactionAction::CommitTwoPhase). Messages in a transaction are
    /// [`puts`](Self::puts).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use metaq_producer::{Message, Producer, Topic};
    /// # use metaq_producer::transaction::{TransactionOptions, TransactionOutcome};
    /// use metaq_testkit::{Broker, Fault, Requests, TransactionAction};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::builder().topic("orders", 1).start_without_port()?;
    /// # let producer = Producer::builder().discovery(broker.discovery()).transport(broker.transport());
    /// # let producer = producer.build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// # producer.publish_topic(&orders).await?;
    /// // The commit is carried out, and its response is lost.
    /// broker.faults().plan(Requests::transactions(Some(TransactionAction::CommitOnePhase)), Fault::Swallow);
    ///
    /// let options = TransactionOptions::new().with_request_timeout(Duration::from_millis(100));
    /// let mut transaction = producer.begin(options);
    /// transaction.send(Message::new(orders, "one coffee")).await?;
    /// assert!(broker.messages("orders").is_empty());
    /// let error = transaction.commit().await.unwrap_err();
    /// assert_eq!(error.outcome(), TransactionOutcome::Unknown);
    /// assert_eq!(broker.messages("orders").len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn transactions(action: Option<TransactionAction>) -> Self {
        Self { action, ..Self::of(Some("transaction")) }
    }

    /// Keeps requests for this topic. Only `put`, `get` and `offset` name one.
    #[must_use]
    pub fn of_topic(mut self, topic: impl AsRef<str>) -> Self {
        self.topic = Some(topic.as_ref().to_owned());
        self
    }

    /// Keeps requests for the partition with this index, as the request names it. Only `put`, `get` and
    /// `offset` name one.
    #[must_use]
    pub fn of_partition(mut self, index: i32) -> Self {
        self.partition = Some(index);
        self
    }

    /// Keeps requests of this connection, counted from 1 in the order in which they were made.
    #[must_use]
    pub fn on_connection(mut self, number: usize) -> Self {
        self.connection = Some(number);
        self
    }

    /// Keeps the `n`-th request only, counted from 1.
    #[must_use]
    pub fn only(self, n: u64) -> Self {
        self.after(n.saturating_sub(1)).first(1)
    }

    /// Keeps the first `n` requests.
    #[must_use]
    pub fn first(mut self, n: u64) -> Self {
        self.limit = n;
        self
    }

    /// Skips the first `n` requests.
    #[must_use]
    pub fn after(mut self, n: u64) -> Self {
        self.skip = n;
        self
    }

    /// Keeps each request with this chance, from 0 to 1.
    #[must_use]
    pub fn with_chance(mut self, chance: f64) -> Self {
        self.chance = chance;
        self
    }

    /// Returns whether a request matches, regardless of its position.
    pub(super) fn matches(&self, command: &Command, connection: usize) -> bool {
        let (topic, partition) = match command {
            Command::Put(put) => (Some(&put.topic), Some(put.partition)),
            Command::Get(get) => (Some(&get.topic), Some(get.partition)),
            Command::Offset(offset) => (Some(&offset.topic), Some(offset.partition)),
            _ => (None, None),
        };
        let action = match command {
            Command::Transaction(transaction) => Some(transaction.action),
            _ => None,
        };
        self.verb.is_none_or(|verb| verb == command.name())
            && (self.action.is_none() || self.action == action)
            && self.connection.is_none_or(|wanted| wanted == connection)
            && (self.partition.is_none() || self.partition == partition)
            && self.topic.as_deref().is_none_or(|wanted| topic.is_some_and(|topic| topic == wanted))
    }
}
