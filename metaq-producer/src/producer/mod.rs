//! The producer: composes discovery, transport and selection.
//!
//! Here, in [`sending`] and in [`offer`] is what a program calls; [`builder`] makes it, and [`accept`]
//! checks, counts and takes in a message before it goes to [`send`](crate::send).

mod accept;
mod builder;
mod offer;
mod sending;

use std::{
    fmt,
    sync::{
        Arc, Weak,
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
    CloseReport, ProducerConfig, PublishError, SendError,
    branch::{OpenTransactions, TransactionNames},
    deadline,
    error::PublishErrorKind,
    health::{EventSender, NotReady, ProducerEvents, ProducerHealth, RegistryHealth},
    inspect::Inspector,
    panics::{contain, with_contained_waker},
    route::{
        PublishObserver,
        pool::Pool,
        topic_state::TopicState,
        topics::{Publisher, Topics},
    },
    send::{
        submit::Submitter,
        unacknowledged::{Millis, Unacknowledged},
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
/// capacity or for a broker fails so, too.
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
        let inner = Arc::new(inner);
        let observer = Arc::downgrade(&inner) as Weak<dyn PublishObserver>;
        inner.topics.set_publish_observer(observer);
        Self { inner }
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
    /// messages have ended. It also takes back what a message has published
    /// ([`auto_publish`](ProducerConfig::auto_publish)). False when there was none to take back: what others
    /// are still publishing, or an [`XaProducer`](crate::xa::XaProducer) has published, stays.
    pub fn unpublish_topic(&self, topic: &Topic) -> bool {
        self.inner.topics.release(topic, Publisher::Program)
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
        let (unacknowledged, unacknowledged_bytes) = self.inner.unacknowledged().permits.taken();
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

    /// Creates an [`Inspector`] of the producer's cluster, which lists topics and brokers and reads what they
    /// have stored.
    ///
    /// It looks brokers up in the producer's registry, which closes with the producer, and reaches them in
    /// the same way, over connections of its own. Making a producer does no I/O, so that a program that only
    /// looks makes one for this, too.
    #[must_use]
    pub fn inspector(&self) -> Inspector {
        Inspector::new(Arc::clone(&self.inner.discovery), self.inner.pool.transport())
    }

    /// A snapshot of the registry, the published topics, and the connections to their brokers. It sends no
    /// requests, and delays messages by less than a microsecond for each connection.
    #[must_use]
    pub fn health(&self) -> ProducerHealth {
        let inner = &self.inner;
        let of_registry = inner.discovery.events();
        let (state, since) = of_registry.registry();
        let registry = RegistryHealth { state, since: since.map(|since| since.elapsed()) };
        let states = inner.topics.states();
        let mut brokers = inner.pool.health(inner.unacknowledged().closing.elapsed());
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
        let events = inner.events.counts(of_registry.registry_losses());
        ProducerHealth { is_closed: inner.closed.load(Ordering::Acquire), registry, topics, brokers, events }
    }

    /// Checks that messages of each of `topics` can be sent now: the topic is published, and a broker of it
    /// is connected. For readiness probes.
    ///
    /// Where a topic was followed, or its connections were made, on a runtime that has ended, both begin
    /// again on the caller's.
    ///
    /// # Errors
    /// When the producer is closed, or a topic can't be sent to; the error names each such topic with the
    /// reason.
    pub fn ready<'a>(&self, topics: impl IntoIterator<Item = &'a Topic>) -> Result<(), NotReady> {
        let is_closed = self.inner.closed.load(Ordering::Acquire);
        let lookup = self.inner.topics.lookup();
        let reason = |topic: &Topic| match lookup.find(topic) {
            None => Some("it is not published".to_owned()),
            Some(state) => {
                // Its connections may live on another runtime than the one that it was followed on.
                state.ensure_followed();
                let is_ready = state.is_open() && state.is_reachable();
                (!is_ready).then(|| state.why_not_open())
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
    /// until then to be answered. The [failure handler](crate::ProducerBuilder::failure_handler) has until
    /// then to return. Takes at most `timeout` and a moment; outside of a tokio runtime it waits for nothing.
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
        let unacknowledged = inner.unacknowledged();
        inner.closed.store(true, Ordering::Release);
        unacknowledged.closing.begin();
        unacknowledged.accept_no_more();
        inner.topics.refuse();
        let (_, are_rolled_back) = join(
            unacknowledged.drain(until, || inner.expire()),
            inner.open_transactions.roll_back_all(until),
        )
        .await;
        unacknowledged.close();
        unacknowledged.fail_waiting(SendError::closed);
        inner.pool.refuse();
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
            unacknowledged.drain(end, || ()).await;
        })
        .await;
        // Of connections that have not closed: the runtime that they live on may not be running.
        unacknowledged.fail_in_flight();
        let _ =
            deadline::timeout_at(end, with_contained_waker(unacknowledged.failures.all_delivered())).await;
        if inner.owns_discovery {
            let end = deadline::at(end.max(Instant::now()), MOMENT);
            let _ = deadline::timeout_at(end, inner.discovery.close()).await;
        }
        let report = unacknowledged.closing.report();
        // The tasks that follow the connections may not have come to it yet.
        let told = async {
            while !inner.pool.report_ends() {
                yield_now().await;
            }
        };
        let _ = deadline::timeout_at(deadline::at(end.max(Instant::now()), MOMENT), told).await;
        inner.events.close();
        let counts = ProducerStats::of(&inner.topics.counts).messages;
        let crate::stats::MessageCounts { acknowledged, rejected, unknown, not_sent, .. } = counts;
        contain(|| tracing::info!(acknowledged, rejected, unknown, not_sent, "producer closed"));
        report
    }
}

/// The time that closing may take when there is nothing to wait for.
const MOMENT: Duration = Duration::from_millis(50);

impl Inner {
    pub(crate) fn unacknowledged(&self) -> &Unacknowledged {
        &self.submitter.unacknowledged
    }

    /// Ends what is overdue, in case the runtime of a connection isn't driven.
    fn expire(&self) {
        let now = Instant::now();
        self.pool.in_use().iter().for_each(|connection| connection.expire(now));
    }
}

impl PublishObserver for Inner {
    fn publishing_failed(&self, topic: &Arc<TopicState>, error: &PublishError) {
        // A registry that is away has lines of its own.
        if self.topics.let_go_of_failed(topic) && error.kind() == PublishErrorKind::NoSuchTopic {
            contain(
                || tracing::warn!(topic = %topic.topic, %error, "a message is for a topic that no broker offers"),
            );
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let unacknowledged = self.unacknowledged();
        let (messages, bytes) = unacknowledged.permits.taken();
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
        unacknowledged.accept_no_more();
        unacknowledged.close();
        unacknowledged.fail_waiting(SendError::closed);
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
