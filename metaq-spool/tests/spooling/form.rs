//! What the tests of this binary share.

use std::{collections::BTreeMap, path::Path, time::Duration};

use metaq_producer::{Message, Partition, Producer, ProducerConfig, Topic, selector::KeyHashSelector};
use metaq_spool::{Sent, SpoolId, SpoolOptions, SpoolStats, SpoolingProducer};
use metaq_testkit::{Broker, BrokerBuilder, EmbeddedRegistry};

/// Far more time than what a test waits for takes, also on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(120);

pub(crate) fn topic() -> Topic {
    "t".parse().unwrap()
}

pub(crate) fn message(payload: impl Into<String>) -> Message {
    Message::new(topic(), payload.into())
}

pub(crate) fn pinned(payload: impl Into<String>, index: i32) -> Message {
    message(payload).with_partition(Partition::new(0, index))
}

/// A registry with one broker that has 4 partitions of the topic `t`.
pub(crate) fn broker(registry: &EmbeddedRegistry) -> Broker {
    builder(registry).start_without_port().unwrap()
}

pub(crate) fn builder(registry: &EmbeddedRegistry) -> BrokerBuilder {
    Broker::builder().topic("t", 4).register_with(registry)
}

pub(crate) fn producer(registry: &EmbeddedRegistry) -> Producer {
    producer_with(registry, |_| ())
}

pub(crate) fn producer_with(
    registry: &EmbeddedRegistry,
    change: impl FnOnce(&mut ProducerConfig),
) -> Producer {
    let mut config = ProducerConfig::default();
    config.topic_timeout = Duration::from_millis(50);
    config.publish_timeout = Duration::from_millis(200);
    config.send_timeout = Duration::from_millis(500);
    config.retry.max_attempts = 2;
    change(&mut config);
    let builder = Producer::builder().discovery(registry.discovery()).transport(registry.transport());
    let builder = builder.selector(KeyHashSelector::new());
    builder.config(config).build().unwrap()
}

pub(crate) async fn open(registry: &EmbeddedRegistry, options: SpoolOptions) -> SpoolingProducer {
    let spool = SpoolingProducer::open(producer(registry), options).await.unwrap();
    // Without a broker it is published in the background.
    let _ = spool.publish_topic(&topic()).await;
    spool
}

pub(crate) fn options(folder: &Path) -> SpoolOptions {
    let mut options = SpoolOptions::new(folder);
    options.fsync = metaq_spool::Fsync::Never;
    options
}

pub(crate) fn id(sent: &Sent) -> SpoolId {
    match sent {
        Sent::Spooled(id) => *id,
        other => panic!("it is not spooled: {other:?}"),
    }
}

/// Waits until the condition holds.
pub(crate) async fn until(spool: &SpoolingProducer, mut condition: impl FnMut(&SpoolStats) -> bool) {
    let reached = async {
        while !condition(&spool.stats()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    if tokio::time::timeout(SOON, reached).await.is_err() {
        panic!("it did not come to that: {:#?}", spool.stats());
    }
}

/// Fails unless both sides of the account are equal.
pub(crate) fn assert_balanced(stats: &SpoolStats) {
    assert_eq!(stats.offered, stats.stored + stats.spooled + stats.failed + stats.in_flight, "{stats:#?}");
    let gone = stats.replayed + stats.set_aside + stats.dropped + stats.damaged;
    assert_eq!(stats.recovered + stats.spooled, gone + stats.waiting, "{stats:#?}");
}

/// How often each payload is stored.
pub(crate) fn stored(broker: &Broker) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for message in broker.messages("t") {
        *counts.entry(String::from_utf8(message.payload.to_vec()).unwrap()).or_default() += 1;
    }
    counts
}

/// The payloads in a partition, in their order.
pub(crate) fn in_partition(broker: &Broker, index: i32) -> Vec<String> {
    let messages = broker.messages("t").into_iter().filter(|message| message.partition.index == index);
    messages.map(|message| String::from_utf8(message.payload.to_vec()).unwrap()).collect()
}
