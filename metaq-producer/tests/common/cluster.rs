//! A cluster of embedded brokers without ports, for tests whose time is paused.

use metaq_producer::{
    Message, Partition, PartitionSelector, Producer, ProducerBuilder, ProducerConfig, Topic,
    selector::RoundRobinSelector, stats::MessageCounts, transport::ConnectionConfig,
};
use metaq_testkit::{Broker, EmbeddedRegistry};

use super::{message, topic};

/// Brokers with two partitions each of topic `t`, and a producer that has published it.
pub(crate) struct Cluster {
    pub(crate) registry: EmbeddedRegistry,
    pub(crate) brokers: Vec<Broker>,
    pub(crate) producer: Producer,
}

impl Cluster {
    pub(crate) async fn new(brokers: i32, change: impl FnOnce(&mut ProducerConfig)) -> Self {
        let cluster = Self::unpublished(brokers, change);
        cluster.producer.publish_topic(&topic()).await.unwrap();
        cluster
    }

    /// The same, except that the producer has nothing published yet, and no task.
    pub(crate) fn unpublished(brokers: i32, change: impl FnOnce(&mut ProducerConfig)) -> Self {
        let registry = EmbeddedRegistry::new();
        let brokers = (0..brokers).map(|id| broker(&registry, id)).collect();
        let producer = producer(&registry, change);
        Self { registry, brokers, producer }
    }

    pub(crate) fn stored(&self) -> Vec<String> {
        let all = self.brokers.iter().flat_map(|broker| broker.messages("t"));
        all.map(|stored| String::from_utf8(stored.payload.to_vec()).unwrap()).collect()
    }

    pub(crate) async fn counts(&self) -> MessageCounts {
        counts(&self.producer).await
    }
}

pub(crate) async fn counts(producer: &Producer) -> MessageCounts {
    producer.stats().await.messages
}

pub(crate) fn broker(registry: &EmbeddedRegistry, id: i32) -> Broker {
    Broker::builder()
        .id(id)
        .seed(id as u64)
        .topic("t", 2)
        .register_with(registry)
        .start_without_port()
        .unwrap()
}

pub(crate) fn producer(registry: &EmbeddedRegistry, change: impl FnOnce(&mut ProducerConfig)) -> Producer {
    builder(registry, change).build().unwrap()
}

pub(crate) fn builder(
    registry: &EmbeddedRegistry,
    change: impl FnOnce(&mut ProducerConfig),
) -> ProducerBuilder {
    let mut config = ProducerConfig::default();
    change(&mut config);
    let mut connection: ConnectionConfig = config.connection.clone();
    // As a producer limits its own connections.
    connection.max_in_flight = (config.max_in_flight / 2).max(1);
    connection.max_in_flight_bytes = (config.max_in_flight_bytes / 2).max(1);
    let transport = registry.transport_with(connection);
    let selector = RoundRobinSelector::new().starting_at(1);
    Producer::builder().discovery(registry.discovery()).transport(transport).config(config).selector(selector)
}

/// A builder whose connections have limits of their own, so that brokers can be full while the producer is
/// not.
pub(crate) fn builder_with_limits(
    registry: &EmbeddedRegistry,
    requests: usize,
    bytes: usize,
    change: impl FnOnce(&mut ProducerConfig),
) -> ProducerBuilder {
    let mut config = ProducerConfig::default();
    change(&mut config);
    let mut connection: ConnectionConfig = config.connection.clone();
    connection.max_in_flight = requests;
    connection.max_in_flight_bytes = bytes;
    let transport = registry.transport_with(connection);
    Producer::builder().discovery(registry.discovery()).transport(transport).config(config)
}

/// A broker with these topics, each with its number of partitions.
pub(crate) fn broker_with(registry: &EmbeddedRegistry, id: i32, topics: &[(&str, u32)]) -> Broker {
    let builder = Broker::builder().id(id).seed(id as u64).register_with(registry);
    let builder =
        topics.iter().fold(builder, |builder, (topic, partitions)| builder.topic(topic, *partitions));
    builder.start_without_port().unwrap()
}

/// A selector that insists on the partition that the message's key names, such as `0-1`.
pub(crate) struct Pinned;

impl PartitionSelector for Pinned {
    fn select(&self, _: &Topic, _: &[Partition], message: &Message) -> Option<Partition> {
        std::str::from_utf8(message.key()?).ok()?.parse().ok()
    }

    fn reselect(&self, _: &Topic, _: &[Partition], _: &Message, _: Partition) -> Option<Partition> {
        None
    }
}

/// A message that [`Pinned`] sends to `partition`.
pub(crate) fn pinned(partition: &str, payload: impl Into<String>) -> Message {
    message(payload).with_key(partition)
}

/// The payloads that a partition holds, in the order in which they are stored.
pub(crate) fn in_partition(broker: &Broker, topic: &str, index: i32) -> Vec<String> {
    let all = broker.messages(topic).into_iter().filter(|stored| stored.partition.index == index);
    all.map(|stored| String::from_utf8(stored.payload.to_vec()).unwrap()).collect()
}

pub(crate) fn sum(counts: MessageCounts) -> u64 {
    let MessageCounts { queued, in_flight, acknowledged, rejected, unknown, not_sent, .. } = counts;
    queued + in_flight + acknowledged + rejected + unknown + not_sent
}
