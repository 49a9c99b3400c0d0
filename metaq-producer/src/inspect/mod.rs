//! Looking at a cluster: its topics, partitions and brokers, and what the brokers have stored.
//!
//! An [`Inspector`] lists what a registry names, asks brokers for their version and statistics, and reads
//! messages by partition and offset. It is for tools and tests: it belongs to no consumer group, stores no
//! offsets, and takes nothing away from consumers.
//!
//! It has connections of its own, so that reading delays no message that a producer sends.
//!
//! ```
//! # use metaq_producer::{Message, Producer, Topic, inspect::ReadItem};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = metaq_testkit::Broker::builder().topic("orders", 1).start_without_port()?;
//! # let builder = Producer::builder().discovery(broker.discovery());
//! # let producer = builder.transport(broker.transport()).build()?;
//! # let orders: Topic = "orders".parse()?;
//! # producer.publish_topic(&orders).await?;
//! producer.send(Message::new(orders.clone(), "an order")).await?;
//!
//! let inspector = producer.inspector();
//! for place in inspector.partitions(&orders).await? {
//!     let first = inspector.offsets(&place).await?.first;
//!     let mut reader = inspector.reader(&place, first);
//!     while let Some(item) = reader.next().await? {
//!         if let ReadItem::Message(message) = item {
//!             println!("{} {}: {} bytes", place.partition, message.offset, message.payload.len());
//! #           assert_eq!(message.payload, "an order");
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod error;
mod fetch;
mod reader;
mod requests;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::try_join_all;
use metaq_discovery::{BadEntry, BrokerRole, Discovery, DiscoveryError, RegisteredBrokers, TopicView};
use metaq_protocol::{
    BrokerAddr, BrokerId, Opaque, Partition, Response, StatsCommand, Token, Topic, VersionCommand,
};
use metaq_transport::Transport;
use tokio::time::{Instant, timeout_at};

pub use self::{
    error::{InspectError, InspectErrorKind},
    fetch::{FetchedMessage, ListedPartition, PartitionOffsets, ReadItem},
    reader::PartitionReader,
};
use self::{fetch::unexpected, requests::Requests};
use crate::{deadline, stats::RemoteBrokerStats};

/// The time that a call may take, unless it is set.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The number of topics that are looked up at a time.
const LOOKUPS: usize = 64;

/// Looks at the topics, partitions, brokers and messages of a cluster. Cheap to clone: clones share their
/// connections, which close with the last clone and the last reader.
///
/// It finds brokers through a [`Discovery`], so it sees what producers see: master brokers that accept
/// messages for a topic.
#[derive(Clone)]
pub struct Inspector {
    discovery: Arc<dyn Discovery>,
    requests: Arc<Requests>,
    timeout: Duration,
}

/// A broker in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedBroker {
    /// The broker's id; [`BrokerId::UNKNOWN`] if only its address is known.
    pub id: BrokerId,
    /// Master or slave. A broker without a registry counts as a master.
    pub role: BrokerRole,
    /// The address on which the broker listens.
    pub addr: BrokerAddr,
    /// The topics that producers can send to it, sorted. None for a slave.
    pub topics: Vec<Topic>,
}

/// The brokers of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedBrokers {
    /// The brokers, sorted by id, each master before its slaves.
    pub brokers: Vec<ListedBroker>,
    /// The entries of the registry that should have the address of a broker, and don't.
    pub bad_entries: Vec<BadEntry>,
}

/// A broker's answer to a request for its version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerVersion {
    /// The version as the broker reports it. A broker that was started from its library reports `0.1`.
    pub version: String,
    /// The time from just before the request was queued until its answer was read, without connecting.
    pub round_trip: Duration,
}

impl Inspector {
    /// Creates an inspector. Does no I/O.
    ///
    /// [`Producer::inspector`](crate::Producer::inspector) creates one for the cluster of a producer.
    #[must_use]
    pub fn new(discovery: Arc<dyn Discovery>, transport: Arc<dyn Transport>) -> Self {
        Self { discovery, requests: Arc::new(Requests::new(transport)), timeout: TIMEOUT }
    }

    /// Sets the time that each call may take, connecting and everything else that it does included, and each
    /// [`next`](PartitionReader::next) of readers that are made afterwards. Default 5 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Returns all topics in the registry, sorted. Without a registry, the topics of the broker.
    ///
    /// # Errors
    /// When the registry can't be read.
    ///
    /// # Cancel safety
    /// Safe: it only asks.
    pub async fn topics(&self) -> Result<Vec<Topic>, InspectError> {
        self.topics_by(self.deadline()).await
    }

    async fn topics_by(&self, deadline: Instant) -> Result<Vec<Topic>, InspectError> {
        self.look_up(self.discovery.topics(), deadline).await
    }

    /// Returns the brokers and partitions of a topic, as the registry names them.
    ///
    /// Creates nothing in the registry, in contrast to publishing a topic, which announces it in ZooKeeper.
    ///
    /// # Errors
    /// When the registry can't be read; of kind [`NoSuchTopic`](InspectErrorKind::NoSuchTopic) when it
    /// doesn't list the topic, or names no broker for it.
    ///
    /// # Cancel safety
    /// Safe: it only asks.
    pub async fn topic(&self, topic: &Topic) -> Result<TopicView, InspectError> {
        self.topic_by(topic, self.deadline()).await
    }

    async fn topic_by(&self, topic: &Topic, deadline: Instant) -> Result<TopicView, InspectError> {
        // A registry may create what is watched.
        let topics = self.topics_by(deadline).await?;
        if topics.binary_search(topic).is_err() {
            let reason = if topics.is_empty() { self.explain_by(topic, deadline).await } else { None };
            return Err(InspectError::no_such_topic(topic, reason));
        }
        let view = self.view_by(topic, deadline).await?;
        if view.is_empty() {
            let reason = "it is registered, but none of its brokers is alive now".to_owned();
            return Err(InspectError::no_such_topic(topic, Some(reason)));
        }
        Ok(view)
    }

    async fn view_by(&self, topic: &Topic, deadline: Instant) -> Result<TopicView, InspectError> {
        let watch = self.look_up(self.discovery.watch(topic), deadline).await?;
        Ok((*watch.current()).clone())
    }

    /// Returns the partitions of a topic, sorted by broker, then by index. A broker whose number of
    /// partitions isn't known is asked for those that hold messages.
    ///
    /// # Errors
    /// As for [`topic`](Self::topic), and when a broker that has to be asked doesn't answer.
    ///
    /// # Cancel safety
    /// Safe: it only asks.
    pub async fn partitions(&self, topic: &Topic) -> Result<Vec<ListedPartition>, InspectError> {
        let deadline = self.deadline();
        let view = self.topic_by(topic, deadline).await?;
        let mut all = Vec::new();
        for broker in view.brokers() {
            let mut list = |id: BrokerId, index| {
                let partition = Partition { broker: id, index };
                all.push(ListedPartition::new(topic.clone(), partition, broker.addr.clone()));
            };
            match broker.partitions {
                Some(count) => (0..count as i32).for_each(|index| list(broker.id, index)),
                None => {
                    let (id, indexes) = self.stored_partitions(topic, &broker.addr, deadline).await?;
                    indexes.into_iter().for_each(|index| list(id, index));
                }
            }
        }
        Ok(all)
    }

    /// Asks a broker for its id, and the partitions of a topic that hold messages.
    async fn stored_partitions(
        &self,
        topic: &Topic,
        broker: &BrokerAddr,
        deadline: Instant,
    ) -> Result<(BrokerId, Vec<i32>), InspectError> {
        let stats = self.stats_by(broker, None, deadline).await?;
        let id = stats.get("broker_id").and_then(|id| id.trim().parse().ok());
        let stats = self.stats_by(broker, Some("offsets"), deadline).await?;
        let index = |(name, value): (&str, Option<&str>)| {
            let index = value?.strip_prefix("part ")?.split(' ').next()?;
            index.parse().ok().filter(|_| *topic == name)
        };
        let mut indexes: Vec<i32> = stats.iter().filter_map(index).collect();
        indexes.sort_unstable();
        Ok((id.map_or(BrokerId::UNKNOWN, BrokerId), indexes))
    }

    /// Returns the brokers and partitions of all topics, sorted by topic. Looks topics up a few at a time.
    ///
    /// # Errors
    /// When the registry can't be read.
    ///
    /// # Cancel safety
    /// Safe: it only asks.
    pub async fn all_topics(&self) -> Result<Vec<TopicView>, InspectError> {
        self.all_topics_by(self.deadline()).await
    }

    async fn all_topics_by(&self, deadline: Instant) -> Result<Vec<TopicView>, InspectError> {
        let topics = self.topics_by(deadline).await?;
        let mut views = Vec::with_capacity(topics.len());
        for topics in topics.chunks(LOOKUPS) {
            views.append(&mut try_join_all(topics.iter().map(|topic| self.view_by(topic, deadline))).await?);
        }
        Ok(views)
    }

    /// Explains why no broker offers a topic, as part of an error's text: for instance that the registry's
    /// root has no brokers, and which roots have some. `None` if there is nothing to say.
    ///
    /// # Cancel safety
    /// Safe: it only asks.
    pub async fn explain_absence(&self, topic: &Topic) -> Option<String> {
        self.explain_by(topic, self.deadline()).await
    }

    async fn explain_by(&self, topic: &Topic, deadline: Instant) -> Option<String> {
        deadline::runtime()?;
        let explained = timeout_at(deadline, self.discovery.explain_absence(topic));
        explained.await.ok().flatten()
    }

    /// Returns all brokers in the registry: masters and slaves, and also those without topics. Where a
    /// [`Discovery`] doesn't list them, the brokers that offer a topic. One whose id isn't known for some of
    /// its topics, such as those that it takes by a pattern, is one broker all the same. Looks all topics up.
    ///
    /// # Errors
    /// When the registry can't be read.
    ///
    /// # Cancel safety
    /// Safe: it only asks.
    pub async fn brokers(&self) -> Result<ListedBrokers, InspectError> {
        let deadline = self.deadline();
        let registered = self.look_up(self.discovery.brokers(), deadline).await?;
        let RegisteredBrokers { brokers: registered, bad_entries, .. } = registered.unwrap_or_default();
        let mut slaves = Vec::new();
        let mut brokers = BTreeMap::<(BrokerId, BrokerAddr), Vec<Topic>>::new();
        for broker in registered {
            if broker.role != BrokerRole::Master {
                let (id, role, addr) = (broker.id, broker.role, broker.addr);
                slaves.push(ListedBroker { id, role, addr, topics: Vec::new() });
            } else {
                brokers.entry((broker.id, broker.addr)).or_default();
            }
        }
        for view in self.all_topics_by(deadline).await? {
            for broker in view.brokers() {
                let topics = brokers.entry((broker.id, broker.addr.clone())).or_default();
                topics.push(view.topic().clone());
            }
        }
        let ids: BTreeMap<_, _> = brokers.keys().map(|(id, addr)| (addr.clone(), *id)).collect();
        let unnamed: Vec<_> = brokers
            .keys()
            .filter(|(id, addr)| *id == BrokerId::UNKNOWN && ids[addr] != *id)
            .cloned()
            .collect();
        for (unknown, addr) in unnamed {
            let known = (ids[&addr], addr.clone());
            let more = brokers.remove(&(unknown, addr)).unwrap_or_default();
            let topics = brokers.entry(known).or_default();
            topics.extend(more);
            topics.sort_unstable();
        }
        let master = |((id, addr), topics)| ListedBroker { id, role: BrokerRole::Master, addr, topics };
        let mut brokers: Vec<_> = brokers.into_iter().map(master).chain(slaves).collect();
        brokers.sort_by_key(|broker| (broker.id, broker.role));
        Ok(ListedBrokers { brokers, bad_entries })
    }

    /// Asks a broker for its version. Fails as soon as it can't be connected to.
    ///
    /// # Errors
    /// When the broker can't be reached, or refuses.
    ///
    /// # Cancel safety
    /// Safe: it only asks.
    pub async fn version(&self, broker: &BrokerAddr) -> Result<BrokerVersion, InspectError> {
        let deadline = self.deadline();
        self.requests.connect(broker, deadline).await?;
        let started = Instant::now();
        let command = VersionCommand::new(Opaque::default());
        match self.requests.ask(broker, command, "asking for the version", deadline).await? {
            Response::Boolean(answer) if answer.status.is_success() => {
                let version = answer.text().trim().to_owned();
                Ok(BrokerVersion { version, round_trip: started.elapsed() })
            }
            answer => Err(unexpected("asking for the version", broker, &answer)),
        }
    }

    /// Asks a broker for its own statistics: all of them, or those of `item`, which is `topics`, `realtime`,
    /// `offsets`, or the name of a topic. Fails as soon as it can't be connected to.
    ///
    /// # Errors
    /// When the broker can't be reached, or refuses; of kind
    /// [`InvalidResponse`](InspectErrorKind::InvalidResponse) when `item` has a space or a line end.
    ///
    /// # Cancel safety
    /// Safe, unless `item` is `reset`, which the broker may have done.
    pub async fn stats(
        &self,
        broker: &BrokerAddr,
        item: Option<&str>,
    ) -> Result<RemoteBrokerStats, InspectError> {
        self.stats_by(broker, item, self.deadline()).await
    }

    async fn stats_by(
        &self,
        broker: &BrokerAddr,
        item: Option<&str>,
        deadline: Instant,
    ) -> Result<RemoteBrokerStats, InspectError> {
        Ok(RemoteBrokerStats::parse(&self.stats_body(broker, item, deadline).await?))
    }

    async fn stats_body(
        &self,
        broker: &BrokerAddr,
        item: Option<&str>,
        deadline: Instant,
    ) -> Result<Bytes, InspectError> {
        let item: Option<Token> = item.map(str::parse).transpose().map_err(|error| {
            let text = format!("there are no statistics of such a name: {error}");
            InspectError::new(InspectErrorKind::InvalidResponse, text)
        })?;
        let command = StatsCommand::new(item, Opaque::default());
        match self.requests.ask(broker, command, "asking for statistics", deadline).await? {
            Response::Boolean(answer) if answer.status.is_success() => Ok(answer.body),
            answer => Err(unexpected("asking for statistics", broker, &answer)),
        }
    }

    /// Asks a broker for the text of its configuration file. It may hold passwords.
    ///
    /// # Errors
    /// When the broker can't be reached, or refuses.
    ///
    /// # Cancel safety
    /// Safe: it only asks.
    pub async fn config(&self, broker: &BrokerAddr) -> Result<String, InspectError> {
        let body = self.stats_body(broker, Some("config"), self.deadline()).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Returns the first offset of a partition, and the end of what can be read.
    ///
    /// # Errors
    /// When the broker can't be reached, or refuses.
    ///
    /// # Cancel safety
    /// Safe: it only asks.
    pub async fn offsets(&self, place: &ListedPartition) -> Result<PartitionOffsets, InspectError> {
        fetch::offsets(&self.requests, place, self.deadline()).await
    }

    /// Begins to read a partition at `offset`, which has to be that of a message or the end. Does no I/O.
    ///
    /// An offset before the first one is moved there; at one behind the end, the reader waits for it.
    #[must_use]
    pub fn reader(&self, place: &ListedPartition, offset: i64) -> PartitionReader {
        PartitionReader::new(Arc::clone(&self.requests), place.clone(), self.timeout, offset)
    }

    /// The instant by which a call that begins now is over, whatever it does.
    fn deadline(&self) -> Instant {
        deadline::after(self.timeout)
    }

    async fn look_up<T>(
        &self,
        call: impl Future<Output = Result<T, DiscoveryError>>,
        deadline: Instant,
    ) -> Result<T, InspectError> {
        if deadline::runtime().is_none() {
            return Err(InspectError::no_runtime());
        }
        match timeout_at(deadline, call).await {
            Ok(answer) => answer.map_err(InspectError::discovery),
            Err(_) => {
                let text = format!("the registry did not answer within {:?}", self.timeout);
                Err(InspectError::new(InspectErrorKind::Discovery, text))
            }
        }
    }
}

impl fmt::Debug for Inspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspector")
            .field("discovery", &self.discovery)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
