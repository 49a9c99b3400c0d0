//! Describing a producer.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use metaq_discovery::Discovery;
use metaq_protocol::{BrokerAddr, Topic};
use metaq_transport::{TcpTransport, Transport};

use super::Inner;
use crate::{
    BuildError, PartitionSelector, Producer, ProducerConfig,
    branch::TransactionNames,
    config::PartitionSet,
    error::build::Problem,
    failure::{FailureHandler, Failures},
    health::EventSender,
    interceptor::{Interceptor, Interceptors},
    route::{
        RouteObserver,
        followed::PublishLimits,
        pool::Pool,
        single_broker::DirectDiscovery,
        topics::{TopicOptions, Topics},
    },
    selector::RoundRobinSelector,
    send::{
        permits::Permits,
        submit::Submitter,
        unacknowledged::{Millis, Unacknowledged},
    },
};

/// Describes a [`Producer`]. Only the discovery has no default.
///
/// ```
/// use metaq_producer::{Producer, selector::RandomSelector, discovery::StaticDiscovery};
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
    /// None for the one that is made of the settings.
    transport: Option<Arc<dyn Transport>>,
    selector: Arc<dyn PartitionSelector>,
    interceptors: Vec<Arc<dyn Interceptor>>,
    failure_handler: Option<Arc<dyn FailureHandler>>,
    config: ProducerConfig,
}

impl ProducerBuilder {
    pub(crate) fn new() -> Self {
        Self {
            discovery: None,
            broker: None,
            owns_discovery: true,
            transport: None,
            selector: Arc::new(RoundRobinSelector::new()),
            interceptors: Vec::new(),
            failure_handler: None,
            config: ProducerConfig::default(),
        }
    }

    /// The registry of topics and brokers. Closed together with the producer. Required, unless
    /// [`shared_discovery`](Self::shared_discovery) is used.
    pub fn discovery(self, discovery: impl Discovery + 'static) -> Self {
        Self { discovery: Some(Arc::new(discovery)), broker: None, owns_discovery: true, ..self }
    }

    /// A registry of topics and brokers that others use, too: the producer doesn't close it.
    pub fn shared_discovery(self, discovery: Arc<dyn Discovery>) -> Self {
        Self { discovery: Some(discovery), broker: None, owns_discovery: false, ..self }
    }

    /// One broker that has every topic, without a registry. It is asked for its id and the partitions of each
    /// topic; where it doesn't report them, it chooses the partition itself, as for the Java client, and
    /// receipts show the id -1.
    pub fn broker(self, broker: BrokerAddr) -> Self {
        Self { broker: Some(broker), discovery: None, owns_discovery: true, ..self }
    }

    /// The transport to brokers. Default: [`TcpTransport`] with the settings of [`ProducerConfig`]. Another
    /// transport limits by itself what one broker may have in flight; it is best made with
    /// [`ProducerConfig::connection_config`].
    pub fn transport(self, transport: impl Transport + 'static) -> Self {
        Self { transport: Some(Arc::new(transport)), ..self }
    }

    /// The selector of partitions. Default: [`RoundRobinSelector`].
    pub fn selector(self, selector: impl PartitionSelector + 'static) -> Self {
        Self { selector: Arc::new(selector), ..self }
    }

    /// Adds an interceptor, which sees every message after those that were added before. Default: none.
    pub fn interceptor(mut self, interceptor: impl Interceptor + 'static) -> Self {
        self.interceptors.push(Arc::new(interceptor));
        self
    }

    /// What gets the messages that were [offered](Producer::offer) and are not acknowledged. Default: none.
    pub fn failure_handler(self, handler: impl FailureHandler + 'static) -> Self {
        Self { failure_handler: Some(Arc::new(handler)), ..self }
    }

    /// All settings at once.
    pub fn config(self, config: ProducerConfig) -> Self {
        Self { config, ..self }
    }

    /// The time that a message may take in all; see [`ProducerConfig::send_timeout`]. Default 3 s.
    pub fn send_timeout(mut self, send_timeout: Duration) -> Self {
        self.config.send_timeout = send_timeout;
        self
    }

    /// The time that publishing a topic may take; see [`ProducerConfig::publish_timeout`]. Default 10 s.
    pub fn publish_timeout(mut self, publish_timeout: Duration) -> Self {
        self.config.publish_timeout = publish_timeout;
        self
    }

    /// The partitions of a topic that its selector chooses from; see [`ProducerConfig::partitions`]. Default:
    /// those of the brokers that are connected.
    pub fn partitions(mut self, topic: Topic, set: PartitionSet) -> Self {
        self.config.partitions.insert(topic, set);
        self
    }

    /// Makes the producer. Does no I/O: brokers are looked up when a topic is published.
    ///
    /// # Errors
    /// When there is no discovery, or a setting makes no sense.
    pub fn build(self) -> Result<Producer, BuildError> {
        let config = self.config;
        config.validate()?;
        let transport = match self.transport {
            Some(transport) => transport,
            None => Arc::new(TcpTransport::new(config.connection_config()?)),
        };
        let events = EventSender::default();
        let pool = Arc::new(Pool::new(transport, config.connections_per_broker, events.clone()));
        let direct = |broker| Arc::new(DirectDiscovery::new(broker, Arc::clone(&pool))) as Arc<dyn Discovery>;
        let discovery = self.discovery.or_else(|| self.broker.map(direct));
        let discovery = discovery.ok_or(BuildError { problem: Problem::NoDiscovery })?;
        let permits = Permits::new(config.max_in_flight, config.max_in_flight_bytes);
        let unacknowledged = Unacknowledged::new(
            permits,
            config.retry.clone(),
            Interceptors::new(self.interceptors),
            Failures::new(self.failure_handler),
        );
        let submitter = Submitter::new(unacknowledged);
        let limits = PublishLimits { total: config.publish_timeout, topic: config.effective_topic_timeout() };
        let options = TopicOptions {
            selector: self.selector,
            partition_sets: config.partitions.clone(),
            ordered: config.ordered,
            send_timeout: config.send_timeout,
        };
        let topics = Topics::new(
            Arc::clone(&discovery),
            Arc::clone(&pool),
            options,
            Arc::clone(&submitter) as Arc<dyn RouteObserver>,
            limits,
            events.clone(),
        );
        let send_timeout = Millis::from(config.send_timeout);
        Ok(Producer::from_inner(Inner {
            topics,
            submitter,
            transaction_names: TransactionNames::new(),
            open_transactions: Arc::default(),
            pool,
            events,
            discovery,
            owns_discovery: self.owns_discovery,
            send_timeout,
            config,
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
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
