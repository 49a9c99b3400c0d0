//! Shutting down, and what comes without it.

use std::time::{Duration, Instant};

use metaq_testkit::EmbeddedRegistry;
use metaq_tracing::MetaqLayer;
use tracing::Dispatch;
use tracing_subscriber::prelude::*;

use crate::form::{SOON, assert_balanced, broker, log, numbers, producer, subscriber, topic, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_sends_what_is_buffered() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry);
    let (dispatch, guard) = subscriber(&registry, |builder| builder);
    log(&dispatch, 3000);
    let stats = guard.shutdown(SOON).await;
    assert_eq!((stats.offered, stats.sent, stats.buffered), (3000, 3000, 0));
    assert_eq!(numbers(&broker), (0..3000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_without_brokers_keeps_its_timeout() {
    let registry = EmbeddedRegistry::new();
    let (dispatch, guard) = subscriber(&registry, |builder| builder);
    log(&dispatch, 100);
    let stats = guard.stats_handle();
    let began = Instant::now();
    let at_end = guard.shutdown(Duration::from_millis(300)).await;
    let took = began.elapsed();
    assert!((300..5000).contains(&took.as_millis()), "{took:?}");
    assert_eq!((at_end.offered, at_end.dropped.shutdown, at_end.buffered_bytes), (100, 100, 0));
    log(&dispatch, 10);
    assert_eq!(stats.stats().dropped.closed, 10);
    assert_balanced(stats.stats());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_of_an_idle_layer_takes_no_time() {
    let (_, guard) = subscriber(&EmbeddedRegistry::new(), |builder| builder);
    let began = Instant::now();
    let stats = guard.shutdown(Duration::MAX).await;
    assert_eq!(stats, Default::default());
    assert!(began.elapsed() < SOON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_guard_sends_in_the_background() {
    let registry = EmbeddedRegistry::new();
    let (dispatch, guard) = subscriber(&registry, |builder| builder.drop_timeout(SOON));
    log(&dispatch, 100);
    let stats = guard.stats_handle();
    drop(guard);
    assert_eq!(stats.stats().buffered, 100, "it has not waited: there is no broker");
    let broker = broker(&registry);
    until(&stats, |stats| stats.sent == 100).await;
    assert_eq!(numbers(&broker).len(), 100);
    log(&dispatch, 1);
    assert_eq!(stats.stats().dropped.closed, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_whose_future_is_dropped_goes_on() {
    let registry = EmbeddedRegistry::new();
    let (dispatch, guard) = subscriber(&registry, |builder| builder);
    log(&dispatch, 10);
    let stats = guard.stats_handle();
    assert!(tokio::time::timeout(Duration::from_millis(20), guard.shutdown(SOON)).await.is_err());
    let _broker = broker(&registry);
    until(&stats, |stats| stats.sent == 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_the_program_closes_ends_the_layer() {
    let registry = EmbeddedRegistry::new();
    let _broker = broker(&registry);
    let producer = producer(&registry);
    let (layer, guard) = MetaqLayer::builder(producer.clone(), topic()).build().unwrap();
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
    log(&dispatch, 1);
    until(&guard.stats_handle(), |stats| stats.sent == 1).await;
    producer.close(SOON).await;
    log(&dispatch, 1);
    until(&guard.stats_handle(), |stats| stats.dropped.shutdown == 1).await;
    log(&dispatch, 1);
    until(&guard.stats_handle(), |stats| stats.dropped.closed == 1).await;
    assert_balanced(guard.shutdown(SOON).await);
}
