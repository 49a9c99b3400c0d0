//! The producer: composes discovery, transport and selection.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metaq_discovery::Discovery;
use metaq_protocol::{BrokerAddr, Command, Partition, PutAnswer, PutCommand, Response, Topic};
use metaq_transport::{Connection, ConnectionState, PendingResponse, Refused, TransportErrorKind};
use tokio::time::{Instant, timeout_at};

use crate::{
    Message, PartitionSelector, ProducerBuilder, PublishError, SendError, SendErrorKind, SendReceipt,
    pool::Pool,
    route::Route,
    topics::{PublishedTopic, Topics},
};

/// Sends messages to the brokers of the topics that were published on it.
///
/// Cheap to clone, and usable from any number of tasks at once: all clones share connections and topics.
///
/// Messages sent one after another, each awaited, to one partition are stored in that order. Messages that are
/// in flight at the same time have no order, because the broker itself reorders them (findings: "Answers, order").
///
/// When the last clone is dropped, connections close after their outstanding requests have ended;
/// [`close`](Self::close) says when that is so.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) topics: Topics,
    pub(crate) pool: Arc<Pool>,
    pub(crate) discovery: Arc<dyn Discovery>,
    /// Whether the discovery is the producer's own, to be closed with it.
    pub(crate) owns_discovery: bool,
    pub(crate) selector: Box<dyn PartitionSelector>,
    pub(crate) send_timeout: Duration,
    pub(crate) max_message_size: usize,
    pub(crate) closed: AtomicBool,
}

/// What [`Producer::close`] found when it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// How many connections still had unanswered messages when the time was up. Their senders were told that the
    /// outcome is unknown.
    pub unfinished_connections: usize,
}

impl Producer {
    /// Begins to describe a producer.
    pub fn builder() -> ProducerBuilder {
        ProducerBuilder::new()
    }

    pub(crate) fn from_inner(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Gets a topic ready for sending: finds its brokers, connects to them, and follows every change from then on.
    ///
    /// Returns when at least one broker is connected, and every other one is too or has failed to be.
    /// May be called any number of times, from any clone; the topic is followed until
    /// [`unpublish_topic`](Self::unpublish_topic) was called as often.
    ///
    /// # Errors
    /// When the registry can't be read, no broker offers the topic, or none can be reached in time. The topic isn't
    /// published then.
    ///
    /// # Cancel safety
    /// Dropping the future before it is done leaves the topic as published as before.
    #[doc(alias = "publish")]
    pub async fn publish_topic(&self, topic: &Topic) -> Result<(), PublishError> {
        self.inner.topics.publish(topic, &*self.inner.selector).await
    }

    /// Takes one [`publish_topic`](Self::publish_topic) back. With the last one the topic isn't followed any more, and
    /// connections that no other topic needs are closed after their outstanding messages have ended. False when the
    /// topic wasn't published.
    pub fn unpublish_topic(&self, topic: &Topic) -> bool {
        self.inner.topics.release(topic)
    }

    /// Sends a message and waits until the broker has acknowledged it, at most for the send timeout (3 s by default).
    ///
    /// It is sent once: no failure makes this send it a second time. While no broker of the topic is connected,
    /// it waits for one.
    ///
    /// # Errors
    /// [`SendError::outcome`] says whether the message may be stored; when it was not sent, the error gives it
    /// back.
    ///
    /// # Cancel safety
    /// Dropping the future loses the outcome, nothing else: a message that was handed to a connection is still sent.
    pub async fn send(&self, message: Message) -> Result<SendReceipt, SendError> {
        self.send_before(message, Instant::now() + self.inner.send_timeout).await
    }

    /// [`send`](Self::send) with a timeout of its own.
    ///
    /// # Errors
    /// As for `send`.
    ///
    /// # Cancel safety
    /// As for `send`.
    pub async fn send_with_timeout(
        &self,
        message: Message,
        timeout: Duration,
    ) -> Result<SendReceipt, SendError> {
        self.send_before(message, Instant::now() + timeout).await
    }

    async fn send_before(&self, message: Message, deadline: Instant) -> Result<SendReceipt, SendError> {
        match self.try_send_before(&message, deadline).await {
            Ok(receipt) => Ok(receipt),
            Err(error) => Err(error.with_message(message)),
        }
    }

    async fn try_send_before(&self, message: &Message, deadline: Instant) -> Result<SendReceipt, SendError> {
        let inner = &*self.inner;
        let topic = message.topic();
        if inner.closed.load(Ordering::Acquire) {
            return Err(SendError::closed(topic));
        }
        let submitted = {
            let published = inner.topics.get(topic).ok_or_else(|| SendError::not_published(topic))?;
            let put = PutCommand::new(topic.clone(), 0, message.payload().clone(), message.attribute());
            if put.data.len() > inner.max_message_size {
                return Err(SendError::too_large(topic, put.data.len()));
            }
            inner.submit(&published, message, put, deadline).await?
        };
        let Submitted { partition, broker, pending } = submitted;
        match pending.await {
            Ok(response) => receipt(topic, partition, broker, &response),
            Err(error) => Err(SendError::transport(topic, partition, error)),
        }
    }

    /// Closes the producer and all its clones: refuses new messages, waits at most for `timeout` until those in flight
    /// have ended, and closes the connections and, unless it is shared, the discovery. Sends that are still
    /// waiting for an answer then fail with the outcome unknown.
    ///
    /// # Cancel safety
    /// Once called, new messages are refused even if the future is dropped.
    pub async fn close(&self, timeout: Duration) -> CloseReport {
        let deadline = Instant::now() + timeout;
        self.inner.closed.store(true, Ordering::Release);
        let connections = self.inner.pool.in_use().await;
        self.inner.topics.close();
        let mut unfinished_connections = 0;
        for connection in &connections {
            connection.close(deadline);
        }
        for connection in connections {
            let mut state = connection.state();
            let closed = state.wait_for(ConnectionState::is_closed);
            if timeout_at(deadline, closed).await.is_err() {
                unfinished_connections += 1;
            }
        }
        if self.inner.owns_discovery {
            self.inner.discovery.close().await;
        }
        CloseReport { unfinished_connections }
    }
}

/// What became of one attempt to hand a command to a connection.
enum Attempt {
    Submitted(Submitted),
    /// The chosen connection has no room.
    Full {
        partition: Partition,
        connection: Arc<dyn Connection>,
        command: Command,
    },
    /// No broker is connected, or the chosen one isn't.
    NotConnected(Command),
}

/// A partition, and the connection to its broker.
type Choice<'r> = (Partition, &'r Arc<dyn Connection>);

/// A command that a connection has accepted.
struct Submitted {
    partition: Partition,
    broker: BrokerAddr,
    pending: PendingResponse,
}

impl Inner {
    /// Chooses a partition and hands the put to its broker's connection; waits while there is none, or it is full.
    async fn submit(
        &self,
        published: &PublishedTopic,
        message: &Message,
        put: PutCommand,
        deadline: Instant,
    ) -> Result<Submitted, SendError> {
        let topic = message.topic();
        let mut command = Command::from(put);
        let mut changes = None;
        loop {
            if published.is_withdrawn() {
                let closed = self.closed.load(Ordering::Acquire);
                return Err(if closed { SendError::closed(topic) } else { SendError::not_published(topic) });
            }
            command = match self.attempt(published, message, command, deadline)? {
                Attempt::Submitted(submitted) => return Ok(submitted),
                Attempt::NotConnected(command) => command,
                Attempt::Full { partition, connection, command } => {
                    let broker = connection.broker().clone();
                    match connection.submit_when_free(command, deadline).await {
                        Ok(pending) => {
                            return Ok(Submitted { partition, broker, pending });
                        }
                        Err(refused) if is_gone(&refused) => refused.command,
                        Err(refused) => return Err(SendError::transport(topic, partition, refused.error)),
                    }
                }
            };
            match &mut changes {
                // From now on no change of the route is missed; but one may have come before, so try again first.
                None => changes = Some(published.route.changes()),
                Some(changes) => {
                    if timeout_at(deadline, changes.changed()).await.is_err() {
                        return Err(not_connected(topic, &published.route.load()));
                    }
                }
            }
        }
    }

    fn attempt(
        &self,
        published: &PublishedTopic,
        message: &Message,
        mut command: Command,
        deadline: Instant,
    ) -> Result<Attempt, SendError> {
        let route = published.route.load();
        let Some((partition, connection)) = self.choose(published, &route, message)? else {
            return Ok(Attempt::NotConnected(command));
        };
        if let Command::Put(put) = &mut command {
            put.partition = partition.index;
        }
        match connection.submit(command, deadline) {
            Ok(pending) => {
                let broker = connection.broker().clone();
                Ok(Attempt::Submitted(Submitted { partition, broker, pending }))
            }
            Err(refused) if is_gone(&refused) => Ok(Attempt::NotConnected(refused.command)),
            Err(refused) if refused.error.kind() == TransportErrorKind::Full => {
                Ok(Attempt::Full { partition, connection: Arc::clone(connection), command: refused.command })
            }
            Err(refused) => Err(SendError::transport(message.topic(), partition, refused.error)),
        }
    }

    /// Asks the selector; `None` when no broker is connected, or the chosen one isn't.
    fn choose<'r>(
        &self,
        published: &PublishedTopic,
        route: &'r Route,
        message: &Message,
    ) -> Result<Option<Choice<'r>>, SendError> {
        let topic = message.topic();
        let wrong = |text: String| SendError::new(SendErrorKind::NoPartition, topic, text);
        let partitions = route.partitions();
        if partitions.is_empty() {
            return Ok(None);
        }
        let selector = published.selector.as_deref().unwrap_or(&*self.selector);
        let Some(partition) = selector.select(topic, partitions, message) else {
            return Err(wrong("the partition selector refused it".to_owned()));
        };
        match route.connection(partition.broker) {
            Some(connection) if partitions.binary_search(&partition).is_ok() => {
                Ok(Some((partition, connection)))
            }
            None if route.knows(partition.broker) => Ok(None),
            _ => {
                Err(wrong(format!("the partition selector chose {partition}, which the topic doesn't have")))
            }
        }
    }
}

/// Whether a command was refused because its connection is not, or no longer, there.
fn is_gone(refused: &Refused) -> bool {
    matches!(refused.error.kind(), TransportErrorKind::NotConnected | TransportErrorKind::Closed)
}

fn not_connected(topic: &Topic, route: &Route) -> SendError {
    let (brokers, last) = route.unreachable();
    let text = format!("no broker of the topic could be reached in time: {brokers}");
    SendError::new(SendErrorKind::NotConnected, topic, text).with_source(last)
}

/// Reads the answer to a put (rules M-20 to M-24).
fn receipt(
    topic: &Topic,
    partition: Partition,
    broker: BrokerAddr,
    response: &Response,
) -> Result<SendReceipt, SendError> {
    let bad = |text: String| SendError::new(SendErrorKind::BadAnswer, topic, text);
    match response {
        Response::Boolean(answer) if answer.status.is_success() => match PutAnswer::parse(&answer.body) {
            Ok(put) => {
                let partition = Partition { broker: partition.broker, index: put.partition };
                Ok(SendReceipt::new(partition, put.message_id, put.offset, broker))
            }
            Err(error) => {
                Err(bad(format!("the broker reported success, but not where: {error}")).at(partition, broker))
            }
        },
        Response::Boolean(answer) => {
            Err(SendError::rejected(topic, partition, broker, answer.status, &answer.text()))
        }
        _ => {
            Err(bad("the broker answered with data, as if asked for messages".to_owned())
                .at(partition, broker))
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("discovery", &self.inner.discovery)
            .field("send_timeout", &self.inner.send_timeout)
            .finish_non_exhaustive()
    }
}
