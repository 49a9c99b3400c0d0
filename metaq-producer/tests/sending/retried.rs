//! Messages that are sent again while other threads still look after their last attempt.

use std::time::Duration;

use metaq_producer::Outcome;
use metaq_testkit::{EmbeddedRegistry, Fault, Requests};
use tokio::time::{Instant, timeout};

use crate::common::{
    cluster::{Pinned, broker_with, builder_with_limits, pinned, sum},
    topic,
};

/// Messages wait for capacity or for their turn, are refused as soon as they are sent, and wait again at
/// once.
async fn every_message_ends(is_ordered: bool, closed_every: Duration, messages: usize) {
    let registry = EmbeddedRegistry::new();
    let broker = broker_with(&registry, 0, &[("t", 4)]);
    let producer = builder_with_limits(&registry, 3, 1 << 20, |config| {
        config.ordered = is_ordered;
        config.send_timeout = Duration::from_secs(20);
        config.retry.max_attempts = 1000;
        config.retry.initial_backoff = Duration::ZERO;
        config.retry.max_backoff = Duration::ZERO;
        config.connection.initial_backoff = Duration::from_millis(1);
        config.connection.max_backoff = Duration::from_millis(1);
    });
    let producer = producer.selector(Pinned).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    broker.faults().plan(Requests::puts().with_chance(0.3), Fault::refuse(503, "busy"));
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let producer = producer.clone();
            tokio::spawn(async move {
                let mut handles = Vec::new();
                for n in 0..messages {
                    let message = pinned(&format!("0-{}", (task + n) % 4), format!("{task} {n}"));
                    handles.push((Instant::now(), producer.enqueue(message).await.unwrap()));
                }
                for (offered, handle) in handles {
                    let until = offered + Duration::from_secs(25);
                    let outcome = tokio::time::timeout_at(until, handle).await;
                    let outcome = outcome.expect("a message ends by its deadline");
                    let error = outcome.err();
                    let lost = error.filter(|error| error.outcome() != Outcome::Unknown);
                    assert!(lost.is_none(), "there was time for each: {lost:?}");
                }
            })
        })
        .collect();
    let closing = broker.faults().clone();
    let disturber = tokio::spawn(async move {
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            tokio::time::sleep(closed_every).await;
            closing.close_connections();
        }
        // Whatever does not end now has been forgotten.
        closing.heal();
    });
    for task in tasks {
        task.await.unwrap();
    }
    disturber.abort();
    let stats = timeout(Duration::from_secs(5), producer.stats()).await.unwrap();
    assert_eq!(stats.messages.offered, sum(stats.messages), "{:?}", stats.messages);
    assert_eq!((stats.messages.queued, stats.messages.in_flight, stats.unacknowledged), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn messages_that_wait_for_capacity_again_and_again_all_end() {
    every_message_ends(false, Duration::from_millis(20), 300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn messages_that_wait_for_their_turn_again_and_again_all_end() {
    every_message_ends(true, Duration::from_millis(20), 300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn messages_that_wait_for_a_broker_again_and_again_all_end() {
    every_message_ends(false, Duration::from_millis(1), 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn repeatedly_requeued_ordered_messages_all_end() {
    every_message_ends(true, Duration::from_millis(1), 100).await;
}
