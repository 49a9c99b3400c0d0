//! What the tests of this binary share.

use std::time::{Duration, Instant};

use metaq_producer::{Producer, ProducerConfig, Topic, selector::KeyHashSelector};
use metaq_testkit::{Broker, BrokerBuilder, EmbeddedRegistry};
use metaq_tracing::{LayerGuard, LayerStats, MetaqLayer, MetaqLayerBuilder, StatsHandle};
use serde_json::Value;
use tracing::Dispatch;
use tracing_subscriber::prelude::*;

/// The time within which an event of a test is expected.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) fn topic() -> Topic {
    "logs".parse().unwrap()
}

pub(crate) fn builder(registry: &EmbeddedRegistry) -> BrokerBuilder {
    Broker::builder().topic("logs", 4).register_with(registry)
}

/// A registry with one broker that has the topic.
pub(crate) fn broker(registry: &EmbeddedRegistry) -> Broker {
    builder(registry).start_without_port().unwrap()
}

/// Settings with which a producer gives up soon.
pub(crate) fn config() -> ProducerConfig {
    let mut config = ProducerConfig::default();
    config.topic_timeout = Duration::from_millis(50);
    config.publish_timeout = Duration::from_millis(200);
    config.send_timeout = Duration::from_millis(500);
    config
}

/// A producer that gives up soon.
pub(crate) fn producer(registry: &EmbeddedRegistry) -> Producer {
    let builder = Producer::builder().discovery(registry.discovery()).transport(registry.transport());
    builder.selector(KeyHashSelector::new()).config(config()).build().unwrap()
}

/// A subscriber with a layer.
pub(crate) fn subscriber(
    registry: &EmbeddedRegistry,
    change: impl FnOnce(MetaqLayerBuilder) -> MetaqLayerBuilder,
) -> (Dispatch, LayerGuard) {
    let builder = change(MetaqLayer::builder(producer(registry), topic()));
    let (layer, guard) = builder.build().unwrap();
    (Dispatch::new(tracing_subscriber::registry().with(layer)), guard)
}

/// Logs `count` events with their number as the field `n`.
pub(crate) fn log(dispatch: &Dispatch, count: u64) {
    tracing::dispatcher::with_default(dispatch, || (0..count).for_each(|n| tracing::info!(n, "an event")));
}

/// The events that a broker has stored, in the order of partitions.
pub(crate) fn stored(broker: &Broker) -> Vec<Value> {
    broker.messages("logs").iter().map(|stored| serde_json::from_slice(&stored.payload).unwrap()).collect()
}

/// The numbers of the events that a broker has stored, sorted.
pub(crate) fn numbers(broker: &Broker) -> Vec<u64> {
    let mut numbers: Vec<_> =
        stored(broker).iter().map(|event| event["fields"]["n"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

/// Waits until the counts are as said.
pub(crate) async fn until(stats: &StatsHandle, is_so: impl Fn(&LayerStats) -> bool) {
    let began = Instant::now();
    while !is_so(&stats.stats()) {
        assert!(began.elapsed() < SOON, "{:?}", stats.stats());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Checks that every event was counted once. No event may be logged meanwhile.
#[track_caller]
pub(crate) fn assert_balanced(stats: LayerStats) {
    let sum = stats.sent + stats.dropped.total() + stats.failed.total() + stats.buffered;
    assert_eq!(stats.offered, sum, "{stats:?}");
}
