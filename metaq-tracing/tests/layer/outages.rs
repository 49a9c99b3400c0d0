//! Brokers that are away, refuse, or do not answer.

use std::time::Duration;

use metaq_testkit::{EmbeddedRegistry, Fault, Requests};
use tokio::runtime::Builder;

use crate::form::{SOON, assert_balanced, broker, builder, log, numbers, subscriber, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_wait_for_the_first_broker() {
    let registry = EmbeddedRegistry::new();
    let (dispatch, guard) = subscriber(&registry, |builder| builder);
    log(&dispatch, 100);
    assert_eq!(guard.stats().buffered, 100);
    let broker = broker(&registry);
    until(&guard.stats_handle(), |stats| stats.sent == 100).await;
    assert_eq!(numbers(&broker), (0..100).collect::<Vec<_>>());
    let stats = guard.shutdown(SOON).await;
    assert_eq!((stats.offered, stats.sent, stats.buffered, stats.buffered_bytes), (100, 100, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_limited_while_brokers_are_away() {
    let registry = EmbeddedRegistry::new();
    let first = broker(&registry);
    let (dispatch, guard) = subscriber(&registry, |builder| builder.max_buffered(50));
    log(&dispatch, 1);
    until(&guard.stats_handle(), |stats| stats.sent == 1).await;
    let restart = first.kill().await;
    // Ones that are being sent, ones that were put back, and ones that come later count alike.
    for round in 1..=4 {
        log(&dispatch, 100);
        let stats = guard.stats();
        assert_eq!((stats.buffered, stats.dropped.full), (50, round * 100 - 50), "{stats:?}");
        assert_balanced(stats);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let second = restart.start_without_port().unwrap();
    until(&guard.stats_handle(), |stats| stats.sent == 51).await;
    assert_eq!(numbers(&second), (0..50).collect::<Vec<_>>(), "the oldest ones stay");
    log(&dispatch, 20);
    let stats = guard.shutdown(SOON).await;
    assert_eq!((stats.sent, stats.dropped.full, stats.failed.total()), (71, 350, 0), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_in_memory_are_limited() {
    let registry = EmbeddedRegistry::new();
    let (dispatch, guard) =
        subscriber(&registry, |builder| builder.max_event_bytes(4096).max_buffered_bytes(50_000));
    tracing::dispatcher::with_default(&dispatch, || {
        for n in 0..100 {
            tracing::info!(n, text = "x".repeat(1000), "an event");
        }
    });
    let stats = guard.stats();
    assert!((40_000..=50_000).contains(&stats.buffered_bytes), "{stats:?}");
    assert_eq!(stats.buffered + stats.dropped.full, 100);
    let _broker = broker(&registry);
    assert_eq!(guard.shutdown(SOON).await.sent, stats.buffered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_stored_fails_and_is_not_repeated() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry);
    broker.faults().plan(Requests::puts().first(1), Fault::Swallow);
    let (dispatch, guard) = subscriber(&registry, |builder| builder);
    log(&dispatch, 1);
    until(&guard.stats_handle(), |stats| stats.failed.unknown == 1).await;
    log(&dispatch, 1);
    let stats = guard.shutdown(SOON).await;
    assert_eq!((stats.sent, stats.failed.unknown), (1, 1));
    assert_eq!(numbers(&broker), [0, 0], "each was stored once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_that_pass_are_repeated_and_others_counted() {
    for (status, is_passing) in [(403, true), (503, true), (400, false), (500, false)] {
        let registry = EmbeddedRegistry::new();
        let broker = broker(&registry);
        broker.faults().plan(Requests::puts().first(5), Fault::refuse(status, "not now"));
        let (dispatch, guard) = subscriber(&registry, |builder| builder.key("x"));
        log(&dispatch, 5);
        until(&guard.stats_handle(), |stats| stats.buffered == 0).await;
        let stats = guard.shutdown(SOON).await;
        let expected = if is_passing { (5, 0) } else { (0, 5) };
        assert_eq!((stats.sent, stats.failed.rejected), expected, "{status}");
        assert_balanced(stats);
    }
}

#[test]
fn the_runtime_of_the_program_may_end() {
    let brokers = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let registry = EmbeddedRegistry::new();
    let broker = brokers.block_on(async { broker(&registry) });
    let program = Builder::new_current_thread().enable_all().build().unwrap();
    let (dispatch, guard) = program.block_on(async { subscriber(&registry, |builder| builder) });
    let logged = dispatch.clone();
    program.block_on(async { log(&logged, 10) });
    drop(program);
    log(&dispatch, 10);
    let stats = guard.shutdown_blocking(SOON);
    assert_eq!((stats.offered, stats.sent), (20, 20));
    assert_eq!(numbers(&broker).len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_comes_late_is_found() {
    let registry = EmbeddedRegistry::new();
    let broker = metaq_testkit::Broker::builder().topic("other", 1).register_with(&registry);
    let broker = broker.start_without_port().unwrap();
    let (dispatch, guard) = subscriber(&registry, |builder| builder);
    log(&dispatch, 3);
    // An attempt takes 50 ms.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(guard.stats().buffered, 3);
    broker.set_topic("logs", 1);
    let stats = guard.shutdown(SOON).await;
    assert_eq!((stats.sent, numbers(&broker)), (3, vec![0, 1, 2]));
    drop(builder(&registry));
}
