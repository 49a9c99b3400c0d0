//! Describing a producer.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use metaq_discovery::Discovery;
use metaq_protocol::{BrokerAddr, MAX_READABLE_DATA};
use metaq_transport::{TcpTransport, Transport};

use crate::{
    PartitionSelector, Producer, RoundRobinSelector, direct::DirectDiscovery, pool::Pool, producer::Inner,
    route::PublishLimits, topics::Topics,
};

/// Describes a [`Producer`]. Only the discovery has no default.
///
/// ```
/// use metaq_producer::{Producer, RandomSelector, StaticDiscovery};
///
/// let producer = Producer::builder()
///     .discovery(StaticDiscovery::direct("meta://127.0.0.1:8123".parse()?))
///     .selector(RandomSelector::new())
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct ProducerBuilder {
    discovery: Option<Arc<dyn Discovery>>,
    /// The one broker without a registry, in place of a discovery.
    broker: Option<BrokerAddr>,
    owns_discovery: bool,
    transport: Arc<dyn Transport>,
    selector: Box<dyn PartitionSelector>,
    send_timeout: Duration,
    publish_timeout: Duration,
    topic_timeout: Duration,
    max_message_size: usize,
}

impl ProducerBuilder {
    pub(crate) fn new() -> Self {
        Self {
            discovery: None,
            broker: None,
            owns_discovery: true,
            transport: Arc::new(TcpTransport::default()),
            selector: Box::new(RoundRobinSelector::new()),
            send_timeout: Duration::from_secs(3),
            publish_timeout: Duration::from_secs(10),
            topic_timeout: Duration::from_secs(3),
            max_message_size: MAX_READABLE_DATA,
        }
    }

    /// Where topics and brokers are found. Closed together with the producer. Required, unless
    /// [`shared_discovery`](Self::shared_discovery) is used.
    pub fn discovery(self, discovery: impl Discovery + 'static) -> Self {
        Self { discovery: Some(Arc::new(discovery)), broker: None, owns_discovery: true, ..self }
    }

    /// Where topics and brokers are found, when others use it too: the producer doesn't close it.
    pub fn shared_discovery(self, discovery: Arc<dyn Discovery>) -> Self {
        Self { discovery: Some(discovery), broker: None, owns_discovery: false, ..self }
    }

    /// One broker that has every topic, without a registry. It is asked for its id and the partitions of each topic; where it
    /// doesn't tell, it chooses the partition itself, as for the Java client (rule S-14), and receipts show the id -1.
    pub fn broker(self, broker: BrokerAddr) -> Self {
        Self { broker: Some(broker), discovery: None, owns_discovery: true, ..self }
    }

    /// How brokers are reached. Default: [`TcpTransport`] with its default settings.
    pub fn transport(self, transport: impl Transport + 'static) -> Self {
        Self { transport: Arc::new(transport), ..self }
    }

    /// Which partition a message goes to. Default: [`RoundRobinSelector`].
    pub fn selector(self, selector: impl PartitionSelector + 'static) -> Self {
        Self { selector: Box::new(selector), ..self }
    }

    /// How long a message may take from the call of `send` to its acknowledgement, everything included: waiting for
    /// a broker, waiting for room, writing, and the answer. Default 3 s, as the Java client (rule M-1). Too short, and
    /// messages that a busy broker stores end with an unknown outcome.
    pub fn send_timeout(self, send_timeout: Duration) -> Self {
        Self { send_timeout, ..self }
    }

    /// How long publishing a topic may take until its first broker is connected. Default 10 s.
    pub fn publish_timeout(self, publish_timeout: Duration) -> Self {
        Self { publish_timeout, ..self }
    }

    /// How long publishing waits for a broker that offers the topic, when the registry knows none. Default 3 s.
    /// Some brokers register a topic anew when it is changed, so that for a moment nobody offers it.
    pub fn topic_timeout(self, topic_timeout: Duration) -> Self {
        Self { topic_timeout, ..self }
    }

    /// The largest message that is sent, in bytes, attribute and its four bytes of length included. Default
    /// 1,048,556: a larger one is stored by a broker with the shipped settings, can't be fetched by any consumer, and
    /// hides everything behind it in its partition (findings: "Sizes"). Raise it only where the brokers'
    /// `maxTransferSize` is larger.
    pub fn max_message_size(self, max_message_size: usize) -> Self {
        Self { max_message_size, ..self }
    }

    /// Makes the producer. Does no I/O: brokers are looked up when a topic is published.
    ///
    /// # Errors
    /// When there is no discovery.
    pub fn build(self) -> Result<Producer, BuildError> {
        let pool = Arc::new(Pool::new(self.transport));
        let direct = |broker| Arc::new(DirectDiscovery::new(broker, Arc::clone(&pool))) as Arc<dyn Discovery>;
        let discovery = self.discovery.or_else(|| self.broker.map(direct));
        let discovery = discovery.ok_or(BuildError { problem: Problem::NoDiscovery })?;
        let limits = PublishLimits { total: self.publish_timeout, topic: self.topic_timeout };
        Ok(Producer::from_inner(Inner {
            topics: Topics::new(Arc::clone(&discovery), Arc::clone(&pool), limits),
            pool,
            discovery,
            owns_discovery: self.owns_discovery,
            selector: self.selector,
            send_timeout: self.send_timeout,
            max_message_size: self.max_message_size,
            closed: AtomicBool::new(false),
        }))
    }
}

impl fmt::Debug for ProducerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerBuilder")
            .field("discovery", &self.discovery)
            .field("broker", &self.broker)
            .field("transport", &self.transport)
            .field("send_timeout", &self.send_timeout)
            .field("publish_timeout", &self.publish_timeout)
            .finish_non_exhaustive()
    }
}

/// The description of a producer lacks something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct BuildError {
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("a producer needs to know where brokers are; call discovery(…) or broker(…) on the builder")]
    NoDiscovery,
}
