//! A partition that takes no events, beside one that does.

use std::time::Duration;

use metaq_producer::{Partition, Producer, ProducerConfig, selector::select_fn};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use metaq_tracing::{LayerGuard, LayerStats, MetaqLayer, MetaqLayerBuilder};
use tracing::{Dispatch, dispatcher::with_default};
use tracing_subscriber::prelude::*;

use crate::form::{SOON, assert_balanced, config, topic, until};

/// Brokers 0 and 1, with one partition each.
fn broker(registry: &EmbeddedRegistry, id: i32) -> Broker {
    Broker::builder().id(id).topic("logs", 1).register_with(registry).start_without_port().unwrap()
}

/// A layer whose events with the target `one` are for the partition of broker 1, and others for that of
/// broker 0.
fn layer(
    registry: &EmbeddedRegistry,
    change: impl FnOnce(&mut ProducerConfig),
    change_layer: impl FnOnce(MetaqLayerBuilder) -> MetaqLayerBuilder,
) -> (Dispatch, LayerGuard) {
    let mut config = config();
    config.partitions.insert(topic(), "0:1;1:1".parse().unwrap());
    change(&mut config);
    let selector = select_fn(|_, _, message| {
        let broker = i32::from(message.key() == Some(b"one"));
        Some(Partition::new(broker, 0))
    });
    let producer = Producer::builder().discovery(registry.discovery()).transport(registry.transport());
    let producer = producer.selector(selector).config(config).build().unwrap();
    let builder = change_layer(MetaqLayer::builder(producer, topic()).key_by_target());
    let (layer, guard) = builder.build().unwrap();
    (Dispatch::new(tracing_subscriber::registry().with(layer)), guard)
}

fn log_for_zero(dispatch: &Dispatch, count: u64) {
    with_default(dispatch, || (0..count).for_each(|n| tracing::info!(target: "zero", n, "an event")));
}

fn log_for_one(dispatch: &Dispatch, count: u64) {
    with_default(dispatch, || (0..count).for_each(|n| tracing::info!(target: "one", n, "an event")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn events_that_wait_for_a_broker_delay_no_others() {
    let registry = EmbeddedRegistry::new();
    let zero = broker(&registry, 0);
    // Those for broker 1 wait within the producer for longer than the test takes.
    let (dispatch, guard) = layer(&registry, |config| config.send_timeout = 10 * SOON, |builder| builder);
    log_for_one(&dispatch, 2000);
    log_for_zero(&dispatch, 1000);
    until(&guard.stats_handle(), |stats| stats.sent == 1000).await;
    assert_eq!(zero.messages("logs").len(), 1000);
    let one = broker(&registry, 1);
    let stats = guard.shutdown(SOON).await;
    assert_eq!((stats.sent, stats.dropped.total(), one.messages("logs").len()), (3000, 0, 2000));
    assert_balanced(stats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn events_that_are_refused_again_and_again_delay_no_others() {
    let registry = EmbeddedRegistry::new();
    let (_zero, one) = (broker(&registry, 0), broker(&registry, 1));
    one.faults().plan(Requests::puts(), Fault::refuse(403, "closed"));
    let (dispatch, guard) = layer(&registry, |config| config.send_timeout = SOON, |builder| builder);
    log_for_one(&dispatch, 3000);
    for n in 1..=5 {
        log_for_zero(&dispatch, 100);
        until(&guard.stats_handle(), |stats| stats.sent == n * 100).await;
    }
    one.faults().heal();
    until(&guard.stats_handle(), |stats| stats.sent == 3500).await;
    assert_balanced(guard.shutdown(SOON).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn events_that_wait_for_a_broker_leave_capacity_to_others() {
    let registry = EmbeddedRegistry::new();
    let _zero = broker(&registry, 0);
    let (dispatch, guard) = layer(
        &registry,
        |config| config.send_timeout = Duration::from_millis(300),
        |builder| builder.max_buffered(100),
    );
    let stats = guard.stats_handle();
    log_for_one(&dispatch, 1000);
    log_for_zero(&dispatch, 1);
    // Until their timeout is over they fill the buffer.
    until(&stats, |stats| {
        log_for_zero(&dispatch, 1);
        stats.sent >= 100
    })
    .await;
    // Within so short a timeout an answer may come too late.
    let ended = |stats: &LayerStats| stats.sent + stats.failed.unknown;
    for _ in 0..100 {
        let before = ended(&stats.stats());
        log_for_zero(&dispatch, 1);
        until(&stats, |stats| ended(stats) > before).await;
        assert!(stats.stats().buffered <= 100, "{:?}", stats.stats());
    }
    assert_balanced(stats.stats());
    let one = broker(&registry, 1);
    let at_end = guard.shutdown(SOON).await;
    assert_balanced(at_end);
    assert!(one.messages("logs").len() >= 20, "{at_end:?}");
}
