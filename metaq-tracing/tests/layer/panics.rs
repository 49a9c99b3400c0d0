//! Code of the program's that panics.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use metaq_producer::{Message, Partition, PartitionSelector, Producer, Topic};
use metaq_testkit::EmbeddedRegistry;
use metaq_tracing::MetaqLayer;
use tracing::{Dispatch, dispatcher::with_default, info_span};
use tracing_subscriber::prelude::*;

use crate::form::{SOON, assert_balanced, broker, config, log, stored, subscriber, topic, until};

struct Panics;

impl fmt::Debug for Panics {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("Debug of a test");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_panics_costs_its_text_alone() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry);
    let (dispatch, guard) = subscriber(&registry, |builder| builder);
    with_default(&dispatch, || {
        let _span = info_span!("request", a = ?Panics, b = 1).entered();
        tracing::info!(c = ?Panics, d = 2, "an event");
    });
    let stats = guard.shutdown(SOON).await;
    assert_eq!((stats.sent, stats.panicked_fields), (1, 2));
    let event = &stored(&broker)[0];
    let text = "(its Debug implementation panicked)";
    assert_eq!((&event["fields"]["c"], &event["fields"]["d"]), (&text.into(), &2.into()));
    assert_eq!((&event["spans"][0]["a"], &event["spans"][0]["b"]), (&text.into(), &1.into()));
}

/// Panics when it is first asked for a topic.
#[derive(Default)]
struct PanicsOnce(AtomicBool);

impl PartitionSelector for PanicsOnce {
    fn select(&self, _: &Topic, partitions: &[Partition], _: &Message) -> Option<Partition> {
        partitions.first().copied()
    }

    fn for_topic(&self, _: &Topic) -> Option<Box<dyn PartitionSelector>> {
        assert!(self.0.swap(true, Ordering::Relaxed), "for_topic of a test");
        None
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_thread_of_the_layer_survives_panics() {
    let registry = EmbeddedRegistry::new();
    let _broker = broker(&registry);
    let producer = Producer::builder().discovery(registry.discovery()).transport(registry.transport());
    let producer = producer.selector(PanicsOnce::default()).build().unwrap();
    let (layer, guard) = MetaqLayer::builder(producer, topic()).build().unwrap();
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
    log(&dispatch, 10);
    until(&guard.stats_handle(), |stats| stats.sent == 10).await;
    assert_balanced(guard.shutdown(SOON).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_during_the_shutdown_loses_nothing() {
    let registry = EmbeddedRegistry::new();
    let producer = Producer::builder().discovery(registry.discovery()).transport(registry.transport());
    let producer = producer.selector(PanicsOnce::default()).config(config()).build().unwrap();
    let (layer, guard) = MetaqLayer::builder(producer, topic()).build().unwrap();
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
    log(&dispatch, 10);
    let stats = guard.stats_handle();
    let shutdown = tokio::spawn(guard.shutdown(SOON));
    until(&stats, |stats| {
        log(&dispatch, 1);
        stats.dropped.closed > 0
    })
    .await;
    // The selector is made when a broker is there.
    let broker = broker(&registry);
    let stats = shutdown.await.unwrap();
    assert_eq!((stats.dropped.shutdown, stats.failed.total()), (0, 0), "{stats:?}");
    assert_eq!(stored(&broker).len() as u64, stats.sent);
    assert_balanced(stats);
}
