//! The producer: composes discovery, transport and selection.
//!
//! Here is what a program calls; [`builder`] makes it, and [`accept`] checks, counts and takes in a message
//! before it goes to [`send`](crate::send).

mod accept;
mod builder;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join;
use metaq_discovery::{Discovery, DiscoveryEvents};
use metaq_protocol::{BrokerAddr, Partition, Topic};
use metaq_transport::{Connection, ConnectionState};
use tokio::{task::yield_now, time::Instant};

pub use builder::ProducerBuilder;

use crate::{
    CloseReport, Message, Outcome, ProducerConfig, PublishError, SendError, SendHandle, SendReceipt,
    branch::{OpenTransactions, TransactionNames},
    deadline,
    health::{EventSender, NotReady, ProducerEvents, ProducerHealth, RegistryHealth},
    panics::contain,
    route::{
        pool::Pool,
        topics::{Publisher, Topics},
    },
    send::{
        in_flight::{InFlight, Millis, PendingMessage},
        submit::Submitter,
    },
    stats::{ProducerStats, RemoteBrokerStats},
};

/// Sends messages to the brokers of the topics that were published on it.
///
/// Cheap to clone, and usable from any number of tasks at once: all clones share connections and topics.
///
/// # Order
/// Messages sent one after another, each awaited, to one partition are stored in that order. Messages that
/// are in flight at the same time have no order, because the broker itself reorders them, unless
/// [`ordered`](ProducerConfig::ordered) is set.
///
/// # Runtimes
/// A producer belongs to no runtime: it may live in a `static`, and be used from several one after another.
/// What runs in the background runs where a topic was published or a message sent; when that runtime has
/// ended, the next call restarts it on its own, and messages that waited on the old one fail with
/// [`NoRuntime`](crate::SendErrorKind::NoRuntime). Outside of a tokio runtime, what would have to wait for
/// room or for a broker fails so, too.
///
/// A runtime that has not ended has to be driven: one that is kept and idle keeps the connections that were
/// made on it, so that calls on others end by their deadlines, in vain; dropping it heals that. The same
/// holds for connections that were made while the clock of a test is paused. Messages that have no outcome
/// when a runtime ends are unknown if they were written, and a warning says how many they are: call
/// [`close`](Self::close) before that.
///
/// # End
/// When the last clone is dropped, messages that wait for a broker fail, those in flight have a few seconds
/// to be answered, and the connections close. Every handle has its outcome then. [`close`](Self::close) says
/// when that is so, and what became of the messages.
#[derive(Clone)]
pub struct Producer {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) topics: Topics,
    pub(crate) submitter: Arc<Submitter>,
    pub(crate) transaction_names: TransactionNames,
    pub(crate) open_transactions: Arc<OpenTransactions>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) events: EventSender,
    pub(crate) discovery: Arc<dyn Discovery>,
    /// Whether the discovery is the producer's own, to be closed with it.
    pub(crate) owns_discovery: bool,
    pub(crate) config: ProducerConfig,
    pub(crate) closed: AtomicBool,
    /// The setting in short.
    pub(crate) send_timeout: Millis,
}

impl Producer {
    /// Begins to describe a producer.
    pub fn builder() -> ProducerBuilder {
        ProducerBuilder::new()
    }

    pub(crate) fn from_inner(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Gets a topic ready for sending: finds its brokers, connects to them, and follows every change from
    /// then on.
    ///
    /// Returns when at least one broker is connected, and every other one is too or has failed to be.
    /// May be called any number of times, from any clone; the topic is followed until
    /// [`unpublish_topic`](Self::unpublish_topic) was called as often.
    ///
    /// # Errors
    /// When the registry can't be read, no broker offers the topic
    /// ([`NoSuchTopic`](crate::error::PublishErrorKind::NoSuchTopic), after
    /// [`topic_timeout`](ProducerConfig::topic_timeout)), or none can be reached in time. The topic isn't
    /// published then, and nothing tries again by itself: a program that starts before its brokers calls this
    /// again.
    ///
    /// # Cancel safety
    /// Dropping the future before it is done leaves the topic as published as before.
    ///
    /// ```
    /// # use metaq_producer::{Producer, Topic};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let producer = builder.transport(broker.transport()).build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// producer.publish_topic(&orders).await?;
    /// assert_eq!(producer.partitions(&orders).len(), 4);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "publish")]
    pub async fn publish_topic(&self, topic: &Topic) -> Result<(), PublishError> {
        self.inner.topics.publish(topic, Publisher::Program).await
    }

    /// Takes one [`publish_topic`](Self::publish_topic) back that has returned. With the last one the topic
    /// isn't followed any more, and connections that no other topic needs are closed after their outstanding
    /// messages have ended. False when there was none to take back: what others are still publishing, or an
    /// [`XaProducer`](crate::xa::XaProducer) has published, stays.
    pub fn unpublish_topic(&self, topic: &Topic) -> bool {
        self.inner.topics.release(topic, Publisher::Program)
    }

    /// Sends a message and waits until it has its outcome, at most for the send timeout (3 s by default).
    ///
    /// It waits for room when too much is unacknowledged, or [too much waits](ProducerConfig::max_in_flight)
    /// for the same broker, and for a broker while none of the topic is connected. It is sent again only as
    /// [`RetryPolicy`](crate::RetryPolicy) says: by default never when it may be stored.
    ///
    /// # Errors
    /// [`SendError::outcome`] says whether the message may be stored; when it is certainly not, the error
    /// gives it back.
    ///
    /// # Cancel safety
    /// Dropping the future takes the message back if it was not handed to a connection yet; else it is still
    /// sent, and only its outcome is lost.
    ///
    /// ```
    /// # use metaq_producer::{Message, Outcome, Producer, Topic};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let producer = builder.transport(broker.transport()).build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// # producer.publish_topic(&orders).await?;
    /// match producer.send(Message::new(orders, "one coffee").with_attribute("table 7")).await {
    ///     Ok(receipt) => println!("stored in partition {} at {}", receipt.partition, receipt.offset),
    ///     Err(error) if error.outcome() == Outcome::Unknown => println!("may be stored: {error}"),
    ///     Err(error) => println!("not stored: {error}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&self, message: Message) -> Result<SendReceipt, SendError> {
        self.inner.enqueue(message, self.inner.send_timeout).await?.that_cancels().await
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
        self.inner.enqueue(message, timeout.into()).await?.that_cancels().await
    }

    /// Gives a message to the producer, and returns when there is room for it; the handle ends with its
    /// outcome. This way one task can have thousands of messages in flight. One that can't be sent at once is
    /// accepted as long as [not too much waits](ProducerConfig::max_in_flight) for the same broker.
    ///
    /// # Errors
    /// When the message can't be sent at all, or there is no room for it within the send timeout. Of kind
    /// [`NotConnected`](crate::SendErrorKind::NotConnected) when too many waited for a broker that is away.
    /// It was not sent then, and the error gives it back.
    ///
    /// # Cancel safety
    /// Dropping this future before it is done means that the message was not accepted. Those who wait for
    /// room are served in the order in which they came.
    ///
    /// ```
    /// # use metaq_producer::{Message, Producer, Topic};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let producer = builder.transport(broker.transport()).build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// # producer.publish_topic(&orders).await?;
    /// let first = producer.enqueue(Message::new(orders.clone(), "one coffee")).await?;
    /// let second = producer.enqueue(Message::new(orders, "one tea")).await?;
    /// // Both are in flight.
    /// let receipts = (first.await?, second.await?);
    /// println!("stored in {} and {}", receipts.0.partition, receipts.1.partition);
    /// # Ok(())
    /// # }
    /// ```
    // No future around another: a message would be moved once more.
    pub fn enqueue(
        &self,
        message: Message,
    ) -> impl Future<Output = Result<SendHandle, SendError>> + Send + '_ {
        self.inner.enqueue(message, self.inner.send_timeout)
    }

    /// [`enqueue`](Self::enqueue) with a timeout of its own, which is for everything until the outcome.
    ///
    /// # Errors
    /// As for `enqueue`.
    ///
    /// # Cancel safety
    /// As for `enqueue`.
    pub async fn enqueue_with_timeout(
        &self,
        message: Message,
        timeout: Duration,
    ) -> Result<SendHandle, SendError> {
        self.inner.enqueue(message, timeout.into()).await
    }

    /// Sends a message if it can be handed to a connection at once; the handle ends with its outcome. Never
    /// waits.
    ///
    /// # Errors
    /// Of kind [`Full`](crate::SendErrorKind::Full) when there is no room, or others wait for it, or, with
    /// [`ordered`](ProducerConfig::ordered), another message is under way in its partition; of kind
    /// [`NotConnected`](crate::SendErrorKind::NotConnected) when no broker of the topic is connected; and as
    /// for [`enqueue`](Self::enqueue). The error gives the message back.
    ///
    /// ```
    /// # use metaq_producer::{Message, Producer, SendErrorKind, Topic};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let producer = builder.transport(broker.transport()).build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// # producer.publish_topic(&orders).await?;
    /// match producer.try_send(Message::new(orders, "one coffee")) {
    ///     Ok(handle) => println!("stored at {}", handle.await?.offset),
    ///     Err(error) if error.kind() == SendErrorKind::Full => println!("busy: {:?}", error.into_message()),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_send(&self, mut message: Message) -> Result<SendHandle, SendError> {
        let inner = &self.inner;
        let started = Instant::now();
        inner.intercept(&mut message)?;
        let timeout = inner.send_timeout;
        let lookup = inner.topics.lookup();
        let topic = match inner.check(&message, &lookup) {
            Ok(topic) => topic,
            Err(error) => return Err(error.with_message(message)),
        };
        let permits = &inner.in_flight().permits;
        let Some(share) = permits.try_take(message.encoded_len()) else {
            topic.counts.failed(Outcome::NotSent, None);
            // It may have been closed a moment ago, which gives no room to anybody.
            let error = if inner.closed.load(Ordering::Acquire) {
                SendError::closed(&topic.topic)
            } else {
                SendError::full(&topic.topic, &permits.describe())
            };
            return Err(error.with_message(message));
        };
        let mut pending = PendingMessage { message, share, attempts_before: 0, started, timeout, rare: None };
        if inner.config.span_per_send {
            pending.begin_span(None);
        }
        let token = inner.submitter.send_now(topic, pending)?;
        Ok(SendHandle::new(Arc::clone(&inner.submitter.in_flight), token))
    }

    /// Sends all messages, as many at a time as there is room for, and returns their outcomes in the same
    /// order.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the messages that were accepted until then on their way.
    ///
    /// ```
    /// # use metaq_producer::{Message, Producer, Topic};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let producer = builder.transport(broker.transport()).build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// # producer.publish_topic(&orders).await?;
    /// let messages = ["one coffee", "one tea"].map(|order| Message::new(orders.clone(), order));
    /// for outcome in producer.send_all(messages).await {
    ///     println!("stored at {}", outcome?.offset);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_all(
        &self,
        messages: impl IntoIterator<Item = Message>,
    ) -> Vec<Result<SendReceipt, SendError>> {
        let mut handles = Vec::new();
        for message in messages {
            handles.push(self.enqueue(message).await);
        }
        let mut outcomes = Vec::with_capacity(handles.len());
        for handle in handles {
            outcomes.push(match handle {
                Ok(handle) => handle.await,
                Err(error) => Err(error),
            });
        }
        outcomes
    }

    /// Waits until all messages that were accepted before the call have their outcome. Messages that are
    /// accepted meanwhile aren't waited for. Nothing is hurried by it: messages never wait for others to be
    /// sent with.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    ///
    /// ```
    /// # use metaq_producer::{Message, Producer, Topic};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let producer = builder.transport(broker.transport()).build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// # producer.publish_topic(&orders).await?;
    /// let handle = producer.enqueue(Message::new(orders, "one coffee")).await?;
    /// producer.flush().await;
    /// // It has its outcome, so this doesn't wait.
    /// handle.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn flush(&self) {
        self.inner.in_flight().flush(|| self.inner.expire()).await;
    }

    /// Takes the messages to `topic` back that wait, and returns those that are certainly not stored, in the
    /// order in which they were offered. Nothing else changes: the topic stays published, and new messages
    /// are accepted.
    ///
    /// A message waits while its brokers are not connected or have no capacity, before another attempt, and,
    /// with [`ordered`](ProducerConfig::ordered), for its turn. The handle of one that is taken back ends
    /// with an error of kind [`Purged`](crate::SendErrorKind::Purged), whose outcome is
    /// [`NotSent`](Outcome::NotSent) for the messages that are returned. One that an earlier attempt may have
    /// stored is [`Unknown`](Outcome::Unknown), and is not returned.
    ///
    /// These are left alone: messages in flight, that is to say handed to a connection, also one that another
    /// thread is handing over during the call; messages that wait for room, which are not accepted yet and
    /// may be accepted into the room that becomes free; messages of transactions; and those to other topics,
    /// also if they go to the same brokers by way of the [default topic](ProducerConfig::default_topic).
    ///
    /// If the producer is being closed, messages that are returned here are not in the [`CloseReport`].
    #[must_use = "the messages are taken back, and are in nobody else's hands"]
    pub fn purge(&self, topic: &Topic) -> Vec<Message> {
        self.inner.in_flight().purge(topic)
    }

    /// The partitions of a topic whose brokers are connected now, sorted. Empty when there is none, or the
    /// topic isn't published.
    #[must_use]
    pub fn partitions(&self, topic: &Topic) -> Vec<Partition> {
        let lookup = self.inner.topics.lookup();
        lookup.find(topic).map(|state| state.route().partitions.clone()).unwrap_or_default()
    }

    /// The statistics of the producer since it was built.
    pub async fn stats(&self) -> ProducerStats {
        let (unacknowledged, unacknowledged_bytes) = self.inner.in_flight().permits.taken();
        let connections = self.inner.pool.in_use();
        let stats = |connection: &Arc<dyn Connection>| (connection.broker().clone(), connection.stats());
        let connections = connections.iter().map(stats).collect();
        let counted = ProducerStats::of(&self.inner.topics.counts);
        ProducerStats { unacknowledged, unacknowledged_bytes, connections, ..counted }
    }

    /// Asks every broker that is connected for its own statistics: all of them, or those of `item`, which is
    /// `topics`, `realtime`, `offsets`, or the name of a topic. Each has `timeout` to answer; one that
    /// doesn't is in the result with the reason.
    ///
    /// # Cancel safety
    /// Safe: it only asks.
    pub async fn broker_stats(
        &self,
        item: Option<&str>,
        timeout: Duration,
    ) -> Vec<(BrokerAddr, Result<RemoteBrokerStats, String>)> {
        let deadline = deadline::after(timeout);
        self.inner.topics.revive(deadline).await;
        self.inner.pool.broker_stats(item, deadline).await
    }

    /// A snapshot of the registry, the published topics, and the connections to their brokers. It sends no
    /// requests, and delays messages by less than a microsecond for each connection.
    #[must_use]
    pub fn health(&self) -> ProducerHealth {
        let inner = &self.inner;
        let (state, since) = inner.discovery.events().registry();
        let registry = RegistryHealth { state, since: since.map(|since| since.elapsed()) };
        let states = inner.topics.states();
        let mut brokers = inner.pool.health(inner.in_flight().closing.elapsed());
        for state in &states {
            for (id, addr) in state.route().named() {
                if let Ok(at) = brokers.binary_search_by(|broker| broker.addr.cmp(addr))
                    && let Err(place) = brokers[at].ids.binary_search(&id)
                {
                    brokers[at].ids.insert(place, id);
                }
            }
        }
        let topics = states.iter().map(|state| state.health()).collect();
        ProducerHealth { is_closed: inner.closed.load(Ordering::Acquire), registry, topics, brokers }
    }

    /// Checks that messages of each of `topics` can be sent now: the topic is published, and a broker of it
    /// is connected. For readiness probes.
    ///
    /// Where the connections of a topic have ended with the runtime that they were made on, they are
    /// re-established on the caller's.
    ///
    /// # Errors
    /// When the producer is closed, or a topic can't be sent to; the error names each such topic with the
    /// reason.
    pub fn ready<'a>(&self, topics: impl IntoIterator<Item = &'a Topic>) -> Result<(), NotReady> {
        let is_closed = self.inner.closed.load(Ordering::Acquire);
        let lookup = self.inner.topics.lookup();
        let reason = |topic: &Topic| match lookup.find(topic) {
            None => Some("it is not published".to_owned()),
            Some(state) if state.is_open() => None,
            Some(state) => {
                state.ensure_followed();
                Some(state.why_not_open())
            }
        };
        let reasons = topics.into_iter().filter_map(|topic| Some((topic.clone(), reason(topic)?)));
        let reasons: Vec<_> = reasons.collect();
        if is_closed || !reasons.is_empty() { Err(NotReady { reasons, is_closed }) } else { Ok(()) }
    }

    /// The changes of connections, routes and the registry from now on. A reader never delays messages.
    #[must_use]
    pub fn events(&self) -> ProducerEvents {
        self.inner.events.subscribe(self.inner.discovery.events())
    }

    /// The events of the registry, and the changes of topics' brokers.
    #[must_use]
    pub fn discovery_events(&self) -> DiscoveryEvents {
        self.inner.discovery.events()
    }

    /// Closes the producer and all its clones. New messages are refused; those that were accepted have
    /// `timeout` to get their outcome. Then those that still wait fail as not sent, those in flight as
    /// unknown, and the connections and, unless it is shared, the discovery are closed. Open local
    /// transactions are rolled back at once, and again while brokers refuse that; a commit that was sent has
    /// until then to be answered. Takes at most `timeout` and a moment; outside of a tokio runtime it waits
    /// for nothing.
    ///
    /// # Cancel safety
    /// Once called, new messages are refused even if the future is dropped.
    ///
    /// ```
    /// # use metaq_producer::{Message, Producer, Topic};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
    /// # let builder = Producer::builder().discovery(broker.discovery());
    /// # let producer = builder.transport(broker.transport()).build()?;
    /// # let orders: Topic = "orders".parse()?;
    /// # producer.publish_topic(&orders).await?;
    /// let handle = producer.enqueue(Message::new(orders, "one coffee")).await?;
    /// let report = producer.close(std::time::Duration::from_secs(5)).await;
    /// assert_eq!((report.acknowledged, report.unknown, report.unsent.len()), (1, 0, 0));
    /// # handle.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(&self, timeout: Duration) -> CloseReport {
        let inner = &*self.inner;
        let until = deadline::after(timeout);
        let in_flight = inner.in_flight();
        inner.closed.store(true, Ordering::Release);
        in_flight.closing.begin();
        in_flight.accept_no_more();
        inner.topics.refuse();
        let (_, are_rolled_back) =
            join(in_flight.drain(until, || inner.expire()), inner.open_transactions.roll_back_all(until))
                .await;
        in_flight.close();
        in_flight.fail_waiting(SendError::closed);
        let connections = inner.pool.in_use();
        inner.topics.close();
        // Closing takes no time of the network's.
        let end = deadline::at(until.max(Instant::now()), MOMENT);
        // What is outstanding by now are steps of transactions, or nothing can be waited for any more; but
        // rollbacks are written at least.
        let close_by = if are_rolled_back { until } else { end };
        connections.iter().for_each(|connection| connection.close(close_by));
        let _ = deadline::timeout_at(end, async {
            for connection in &connections {
                let _ = connection.state().wait_for(ConnectionState::is_closed).await;
            }
            in_flight.drain(end, || ()).await;
        })
        .await;
        // Of connections that have not closed: the runtime that they live on may not be running.
        in_flight.fail_in_flight();
        if inner.owns_discovery {
            let end = deadline::at(end.max(Instant::now()), MOMENT);
            let _ = deadline::timeout_at(end, inner.discovery.close()).await;
        }
        let report = in_flight.closing.report();
        // The tasks that follow the connections may not have come to it yet.
        let told = async {
            while !inner.pool.report_ends() {
                yield_now().await;
            }
        };
        let _ = deadline::timeout_at(deadline::at(end.max(Instant::now()), MOMENT), told).await;
        inner.events.close();
        let CloseReport { acknowledged, rejected, unknown, unsent } = &report;
        contain(|| tracing::info!(acknowledged, rejected, unknown, unsent = unsent.len(), "producer closed"));
        report
    }
}

/// The time that closing may take when there is nothing to wait for.
const MOMENT: Duration = Duration::from_millis(50);

impl Inner {
    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.submitter.in_flight
    }

    /// Ends what is overdue, in case the runtime of a connection isn't driven.
    fn expire(&self) {
        let now = Instant::now();
        self.pool.in_use().iter().for_each(|connection| connection.expire(now));
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let in_flight = self.in_flight();
        let (messages, bytes) = in_flight.permits.taken();
        if messages > 0 {
            contain(|| {
                tracing::warn!(
                    messages,
                    bytes,
                    "the producer was dropped while messages had no outcome yet; those that wait are not sent, and those \
                     in flight have a few seconds to be answered. Close it to learn what becomes of them"
                );
            });
        }
        in_flight.accept_no_more();
        in_flight.close();
        in_flight.fail_waiting(SendError::closed);
        // What is in flight ends with its connection.
        self.topics.close();
        self.events.close();
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("discovery", &self.inner.discovery)
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}
