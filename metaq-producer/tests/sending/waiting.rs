//! Messages that wait for a broker which is away or silent, beside those for a broker that works.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, future::join_all};
use metaq_producer::{Message, Outcome, SendErrorKind, SendHandle};
use metaq_testkit::EmbeddedRegistry;
use tokio::{
    task::{JoinHandle, JoinSet, yield_now},
    time::{Instant, timeout},
};

use crate::common::{
    cluster::{Pinned, broker, broker_with, builder, counts, in_partition, pinned, sum},
    message, topic, until,
};
use crate::troubled::{LONG, PATIENCE, PROMPTLY, Trouble, Troubled};

#[tokio::test(start_paused = true)]
async fn a_broker_in_trouble_leaves_room_for_another() {
    for trouble in [Trouble::Frozen, Trouble::Silent, Trouble::Away] {
        for (max_in_flight, ordered) in [(16, false), (64, false), (64, true), (256, false), (256, true)] {
            let mut troubled = Troubled::new(trouble, |config| {
                config.max_in_flight = max_in_flight;
                config.ordered = ordered;
                config.connection.stall_after = LONG;
            })
            .await;
            let waiting = troubled.send_to_failing(3 * max_in_flight, |n| format!("waits {n}")).await;
            let taken = troubled.producer.stats().await.unacknowledged;
            assert!(taken <= max_in_flight * 3 / 4, "{trouble:?}: {taken} of {max_in_flight}");
            troubled.send_to_working(400, |n| format!("goes {n}")).await;
            assert_eq!(troubled.working.messages("t").len(), 400);
            troubled.recover();
            if trouble == Trouble::Silent {
                // What it has read is never answered.
                waiting.iter().for_each(JoinHandle::abort);
                continue;
            }
            for outcome in join_all(waiting).await {
                outcome.unwrap().unwrap();
            }
            let stored = in_partition(troubled.failing.as_ref().unwrap(), "t", 0);
            assert_eq!(stored.len(), 3 * max_in_flight, "{trouble:?}");
            if ordered {
                let offered: Vec<_> = (0..3 * max_in_flight).map(|n| format!("waits {n}")).collect();
                assert!(stored == offered, "{trouble:?}: {stored:?}");
            }
            assert_eq!(troubled.producer.stats().await.unacknowledged, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_not_let_in_keeps_no_turn() {
    let mut troubled = Troubled::new(Trouble::Away, |config| {
        config.max_in_flight = 16;
        config.ordered = true;
    })
    .await;
    let mut waiting = troubled.send_to_failing(10, |n| format!("waits {n}")).await;
    // They would have the turn in their partition at once, and find that too much waits for the broker.
    for n in 0..3 {
        let producer = troubled.producer.clone();
        let message = pinned("0-1", format!("other {n}"));
        waiting.push(tokio::spawn(async move { producer.send_with_timeout(message, LONG).await }));
        yield_now().await;
    }
    until(async || counts(&troubled.producer).await.queued == 13).await;
    troubled.recover();
    for outcome in join_all(waiting).await {
        outcome.unwrap().unwrap();
    }
    let stored = in_partition(troubled.failing.as_ref().unwrap(), "t", 1);
    assert_eq!(stored, ["other 0", "other 1", "other 2"]);
}

#[tokio::test(start_paused = true)]
async fn bytes_leave_room_as_well_as_messages() {
    for trouble in [Trouble::Frozen, Trouble::Away] {
        let mut troubled = Troubled::new(trouble, |config| {
            config.max_in_flight_bytes = 400_000;
            config.connection.stall_after = LONG;
        })
        .await;
        let waiting = troubled.send_to_failing(60, |_| "x".repeat(20_000)).await;
        let taken = troubled.producer.stats().await.unacknowledged_bytes;
        assert!(taken <= 300_000, "{trouble:?}: {taken}");
        troubled.send_to_working(100, |_| "y".repeat(20_000)).await;
        // One that is larger than the quarter waits alone.
        let large = troubled.send_to_failing(2, |_| "z".repeat(150_000)).await;
        troubled.recover();
        for outcome in join_all(waiting.into_iter().chain(large)).await {
            outcome.unwrap().unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_outside_end_by_their_timeout_and_say_why() {
    for (trouble, kind) in
        [(Trouble::Away, SendErrorKind::NotConnected), (Trouble::Silent, SendErrorKind::Full)]
    {
        let troubled = Troubled::new(trouble, |config| {
            config.max_in_flight = 8;
            config.connection.stall_after = LONG;
        })
        .await;
        let _waiting = troubled.send_to_failing(20, |n| format!("waits {n}")).await;
        let started = Instant::now();
        let error = troubled.producer.enqueue(pinned("0-1", "late")).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (kind, Outcome::NotSent), "{error}");
        assert_eq!(error.into_message().unwrap().payload(), "late");
        let took = started.elapsed();
        assert!(took >= Duration::from_secs(3) && took <= Duration::from_secs(3) + PROMPTLY, "{took:?}");
        let counts = counts(&troubled.producer).await;
        assert_eq!((counts.not_sent, counts.offered), (1, sum(counts)), "{counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_outside_may_give_up_at_any_time() {
    let mut troubled = Troubled::new(Trouble::Away, |config| config.max_in_flight = 16).await;
    let producer = troubled.producer.clone();
    // Their handles: what is accepted stays.
    let mut enqueued = Vec::new();
    for n in 0..40 {
        let mut enqueue = Box::pin(producer.enqueue_with_timeout(pinned("0-0", format!("{n}")), LONG));
        match (&mut enqueue).now_or_never() {
            Some(handle) => enqueued.push((n, Ok(handle.unwrap()))),
            None => enqueued.push((n, Err(enqueue))),
        }
    }
    let accepted = enqueued.iter().filter(|(_, enqueue)| enqueue.is_ok()).count();
    assert_eq!(accepted, 4, "a quarter");
    // Every third gives up; some of those do that when they have been let in and not noticed.
    troubled.recover();
    until(async || producer.partitions(&topic()).len() == 4).await;
    let mut handles: Vec<SendHandle> = Vec::new();
    for (n, enqueue) in enqueued {
        match enqueue {
            Ok(handle) => handles.push(handle),
            Err(_) if n % 3 == 0 => {}
            Err(enqueue) => handles.push(enqueue.await.unwrap()),
        }
    }
    let count = handles.len();
    for outcome in join_all(handles).await {
        outcome.unwrap();
    }
    let counts = counts(&producer).await;
    assert_eq!(counts.acknowledged, count as u64);
    assert_eq!((counts.not_sent, counts.queued), (40 - count as u64, 0), "{counts:?}");
    assert_eq!(in_partition(troubled.failing.as_ref().unwrap(), "t", 0).len(), count);
}

#[tokio::test(start_paused = true)]
async fn closing_and_unpublishing_end_those_that_wait_outside() {
    for closes in [true, false] {
        let troubled = Troubled::new(Trouble::Away, |config| config.max_in_flight = 8).await;
        let waiting = troubled.send_to_failing(20, |n| format!("waits {n}")).await;
        let started = Instant::now();
        let kind = if closes {
            let report = troubled.producer.close(Duration::ZERO).await;
            assert_eq!(report.unsent.len(), 2, "those that were accepted");
            SendErrorKind::Closed
        } else {
            assert!(troubled.producer.unpublish_topic(&topic()));
            SendErrorKind::NotPublished
        };
        for outcome in join_all(waiting).await {
            let error = outcome.unwrap().unwrap_err();
            assert_eq!((error.kind(), error.outcome()), (kind, Outcome::NotSent), "{error}");
            assert!(error.into_message().is_some());
        }
        assert!(started.elapsed() <= Duration::from_millis(100), "{:?}", started.elapsed());
        let counts = counts(&troubled.producer).await;
        assert_eq!((counts.offered, counts.not_sent), (20, 20), "{counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_waits_leaves_room_for_another_topic() {
    let registry = EmbeddedRegistry::new();
    let (lost, _working) = (broker(&registry, 0), broker_with(&registry, 1, &[("other", 1)]));
    let producer = builder(&registry, |config| config.max_in_flight = 64).build().unwrap();
    let other = "other".parse().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer.publish_topic(&other).await.unwrap();
    drop(lost);
    until(async || producer.partitions(&topic()).is_empty()).await;
    let mut waiting = JoinSet::new();
    for n in 0..200 {
        let producer = producer.clone();
        waiting.spawn(async move { producer.send_with_timeout(message(format!("{n}")), LONG).await });
    }
    until(async || counts(&producer).await.queued == 200).await;
    assert_eq!(producer.stats().await.unacknowledged, 16, "a quarter");
    let started = Instant::now();
    for n in 0..100 {
        producer.send(Message::new(other.clone(), format!("{n}"))).await.unwrap();
    }
    assert!(started.elapsed() <= PROMPTLY, "{:?}", started.elapsed());
    let _back = broker(&registry, 0);
    while let Some(outcome) = waiting.join_next().await {
        outcome.unwrap().unwrap();
    }
}

/// Tasks on several threads send to both brokers while one of them freezes, thaws and loses its connections
/// over and over.
#[test]
fn several_threads_share_the_room_with_a_broker_in_trouble() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        for ordered in [false, true] {
            let registry = EmbeddedRegistry::new();
            let (failing, working) = (broker(&registry, 0), broker(&registry, 1));
            let builder = builder(&registry, |config| {
                config.max_in_flight = 32;
                config.ordered = ordered;
                config.connection.stall_after = LONG;
            });
            let producer = builder.selector(Pinned).build().unwrap();
            producer.publish_topic(&topic()).await.unwrap();
            failing.faults().freeze();
            let mut waiting = JoinSet::new();
            for n in 0..400 {
                let producer = producer.clone();
                let message = pinned(&format!("0-{}", n % 2), format!("waits {n}"));
                waiting.spawn(async move { producer.send_with_timeout(message, LONG).await });
            }
            // All of these end while the other broker is frozen.
            let mut going = JoinSet::new();
            for task in 0..8 {
                let producer = producer.clone();
                going.spawn(async move {
                    for n in 0..200 {
                        let message = pinned(&format!("1-{}", task % 2), format!("{task}: {n}"));
                        producer.send_with_timeout(message, LONG).await.unwrap();
                    }
                });
            }
            let all_ended = async {
                while let Some(ended) = going.join_next().await {
                    ended.unwrap();
                }
            };
            timeout(PATIENCE, all_ended).await.expect("they find capacity");
            assert_eq!(working.messages("t").len(), 1600);
            assert_eq!(failing.messages("t").len(), 0);
            // Frozen and thawed on and on until all is stored.
            let done = Arc::new(tokio::sync::Notify::new());
            let faults = tokio::spawn({
                let done = Arc::clone(&done);
                async move {
                    let ended = done.notified();
                    tokio::pin!(ended);
                    loop {
                        failing.faults().thaw();
                        if (&mut ended).now_or_never().is_some() {
                            return failing;
                        }
                        yield_now().await;
                        failing.faults().freeze();
                        yield_now().await;
                    }
                }
            });
            let all_stored = async {
                while let Some(outcome) = waiting.join_next().await {
                    outcome.unwrap().unwrap();
                }
            };
            timeout(PATIENCE, all_stored).await.expect("all are let in");
            done.notify_one();
            assert_eq!(faults.await.unwrap().messages("t").len(), 400);
            let counts = counts(&producer).await;
            assert_eq!((counts.acknowledged, counts.offered), (2000, 2000), "{counts:?}");
            assert_eq!(producer.stats().await.unacknowledged, 0);
        }
    });
}
