//! Shutting down, and what comes without it.

use std::{
    env,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use metaq_producer::{Message, Producer, interceptor::Interceptor};
use metaq_testkit::EmbeddedRegistry;
use metaq_tracing::{LayerGuard, MetaqLayer};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_taken_once_the_guard_is_gone() {
    for _ in 0..50 {
        let (dispatch, guard) = subscriber(&EmbeddedRegistry::new(), |builder| builder);
        log(&dispatch, 10);
        let stats = guard.stats_handle();
        drop(guard);
        log(&dispatch, 10);
        assert_eq!(stats.stats().dropped.closed, 10, "{:?}", stats.stats());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_event_is_counted_while_the_guard_is_dropped() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry);
    for round in 0..10 {
        let (dispatch, guard) = subscriber(&registry, |builder| builder.drop_timeout(SOON));
        let stats = guard.stats_handle();
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (dispatch, stats) = (dispatch.clone(), stats.clone());
                std::thread::spawn(move || {
                    while stats.stats().dropped.closed == 0 {
                        log(&dispatch, 10);
                    }
                })
            })
            .collect();
        until(&stats, |stats| stats.sent > 50).await;
        if round % 2 == 0 {
            drop(guard);
        } else {
            // A thread that panics drops it, too.
            let panics = std::thread::spawn(move || {
                let _guard = guard;
                std::panic::resume_unwind(Box::new("a thread of a test"));
            });
            assert!(panics.join().is_err());
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        until(&stats, |stats| stats.buffered == 0).await;
        assert_balanced(stats.stats());
    }
    assert!(!numbers(&broker).is_empty());
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

/// Ends the layer from within its producer.
#[derive(Default)]
struct Ends(Arc<Mutex<Option<LayerGuard>>>);

impl Interceptor for Ends {
    fn before_send(&self, _: &mut Message) {
        if let Some(guard) = self.0.lock().unwrap().take() {
            guard.shutdown_blocking(SOON);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_on_the_thread_of_the_layer_waits_for_nothing() {
    let registry = EmbeddedRegistry::new();
    let _broker = broker(&registry);
    let ends = Arc::default();
    let producer = Producer::builder().discovery(registry.discovery()).transport(registry.transport());
    let producer = producer.interceptor(Ends(Arc::clone(&ends))).build().unwrap();
    let (layer, guard) = MetaqLayer::builder(producer, topic()).build().unwrap();
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
    let stats = guard.stats_handle();
    *ends.lock().unwrap() = Some(guard);
    log(&dispatch, 10);
    until(&stats, |stats| stats.buffered == 0 && stats.sent > 0).await;
    assert_balanced(stats.stats());
}

/// Runs itself in a process that can't start threads, as their stacks would be too large.
#[test]
fn a_thread_that_cannot_be_started_is_an_error() {
    const STACK: &str = "RUST_MIN_STACK";
    if env::var_os(STACK).is_none() {
        let test = "ends::a_thread_that_cannot_be_started_is_an_error";
        let mut child = Command::new(env::current_exe().unwrap());
        let child = child.args(["--exact", test, "--test-threads=1", "--nocapture"]);
        let output = child.env(STACK, (1_u64 << 60).to_string()).output().unwrap();
        return assert!(output.status.success(), "{output:?}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let error = MetaqLayer::builder(producer(&EmbeddedRegistry::new()), topic()).build().unwrap_err();
        assert!(error.to_string().contains("the thread of a MetaqLayer"), "{error}");
    });
}
