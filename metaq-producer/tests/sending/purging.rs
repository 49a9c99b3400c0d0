//! Taking back what waits: what is returned, what the handles say, and what goes on as before.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all};
use metaq_producer::{
    Message, Outcome, Producer, SendError, SendErrorKind, SendHandle, SendReceipt, Topic, config::Jitter,
};
use metaq_testkit::{EmbeddedRegistry, Fault, Requests};
use tokio::task::JoinSet;

use crate::common::{
    cluster::{
        Cluster, Pinned, broker, broker_with, builder, builder_with_limits, counts, in_partition, pinned, sum,
    },
    message, topic, until,
};

const LONG: Duration = Duration::from_secs(3600);

fn texts(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8(message.payload().to_vec()).unwrap()).collect()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

async fn enqueue(producer: &Producer, messages: impl IntoIterator<Item = Message>) -> Vec<SendHandle> {
    let mut handles = Vec::new();
    for message in messages {
        handles.push(producer.enqueue_with_timeout(message, LONG).await.unwrap());
    }
    handles
}

/// The error of a message that was taken back.
fn purged(outcome: Option<Result<SendReceipt, SendError>>) -> SendError {
    let error = outcome.expect("it has its outcome").unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::Purged, "{error}");
    error
}

async fn nothing_is_left(producer: &Producer) {
    let stats = producer.stats().await;
    assert_eq!((stats.unacknowledged, stats.unacknowledged_bytes), (0, 0));
    let counts = stats.messages;
    assert_eq!((counts.queued, counts.in_flight, counts.offered), (0, 0, sum(counts)), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn purge_returns_one_topics_waiters_in_order() {
    let registry = EmbeddedRegistry::new();
    let lost = broker_with(&registry, 0, &[("t", 2), ("other", 1)]);
    let producer = builder(&registry, |_| {}).build().unwrap();
    let other: Topic = "other".parse().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer.publish_topic(&other).await.unwrap();
    let _builder = lost.kill().await;
    until(async || producer.partitions(&topic()).is_empty() && producer.partitions(&other).is_empty()).await;
    assert_eq!(producer.purge(&topic()), [], "nothing waits");
    let handles = enqueue(&producer, numbers(0..20).into_iter().map(message)).await;
    let others = enqueue(&producer, [Message::new(other.clone(), "stays")]).await;
    assert_eq!(texts(&producer.purge(&topic())), numbers(0..20));
    for (n, handle) in handles.into_iter().enumerate() {
        let error = purged(handle.now_or_never());
        assert_eq!(error.outcome(), Outcome::NotSent);
        assert_eq!(
            error.to_string(),
            "message to topic t was not sent: it was taken back by purge while it waited"
        );
        assert_eq!(texts(&[error.into_message().unwrap()]), [n.to_string()]);
    }
    assert_eq!(producer.purge(&topic()), [], "nothing is returned twice");
    assert_eq!(producer.stats().await.unacknowledged, 1);
    // It goes on as before.
    let back = broker_with(&registry, 0, &[("t", 2), ("other", 1)]);
    producer.send_with_timeout(message("later"), LONG).await.unwrap();
    for handle in others {
        handle.await.unwrap();
    }
    assert_eq!((back.messages("t").len(), back.messages("other").len()), (1, 1));
    assert_eq!(counts(&producer).await.not_sent, 20);
    nothing_is_left(&producer).await;
}

#[tokio::test(start_paused = true)]
async fn purge_leaves_in_flight_and_returns_waiting() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let producer = builder_with_limits(&registry, 4, 1 << 20, |config| config.connection.stall_after = LONG);
    let producer = producer.build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    broker.faults().freeze();
    let handles = enqueue(&producer, numbers(0..10).into_iter().map(message)).await;
    assert_eq!(texts(&producer.purge(&topic())), numbers(4..10));
    // The capacity that those had requested is free.
    let next = enqueue(&producer, [message("next")]).await;
    broker.faults().thaw();
    for (n, handle) in handles.into_iter().enumerate() {
        if n < 4 {
            handle.await.unwrap();
        } else {
            purged(handle.now_or_never());
        }
    }
    for handle in next {
        handle.await.unwrap();
    }
    assert_eq!(broker.messages("t").len(), 5);
    nothing_is_left(&producer).await;
}

#[tokio::test(start_paused = true)]
async fn what_may_be_stored_is_unknown_and_not_returned() {
    let cluster = Cluster::new(1, |config| {
        config.retry.at_least_once = true;
        config.retry.initial_backoff = LONG / 2;
        config.retry.max_backoff = LONG / 2;
        config.retry.jitter = Jitter::seeded(1);
        config.retry.max_attempts = 2;
    })
    .await;
    // It is stored, and the answer never comes.
    let plan = cluster.brokers[0].faults().plan(Requests::puts(), Fault::Cut(0));
    let unknown = enqueue(&cluster.producer, [message("maybe")]).await;
    until(async || counts(&cluster.producer).await.queued == 1).await;
    plan.cancel();
    assert_eq!(cluster.producer.purge(&topic()), []);
    for handle in unknown {
        let error = purged(handle.now_or_never());
        assert_eq!((error.outcome(), error.attempts().len()), (Outcome::Unknown, 1), "{error}");
        assert!(error.message().is_none());
    }
    assert_eq!(cluster.stored(), ["maybe"]);
    assert_eq!(counts(&cluster.producer).await.unknown, 1);
    nothing_is_left(&cluster.producer).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_another_attempt_after_a_refusal_is_returned() {
    let cluster = Cluster::new(1, |config| {
        config.retry.initial_backoff = LONG / 2;
        config.retry.max_backoff = LONG / 2;
        config.retry.jitter = Jitter::seeded(1);
    })
    .await;
    let plan = cluster.brokers[0].faults().plan(Requests::puts(), Fault::refuse(503, "busy"));
    let handles = enqueue(&cluster.producer, numbers(0..3).into_iter().map(message)).await;
    until(async || counts(&cluster.producer).await.queued == 3).await;
    plan.cancel();
    let mut back = texts(&cluster.producer.purge(&topic()));
    back.sort_unstable();
    assert_eq!(back, numbers(0..3));
    for handle in handles {
        let error = purged(handle.now_or_never());
        assert_eq!((error.outcome(), error.attempts().len()), (Outcome::NotSent, 1), "{error}");
    }
    assert_eq!(cluster.stored(), [""; 0]);
    nothing_is_left(&cluster.producer).await;
}

/// The next one has the turn when its broker is away, and comes to wait later than those that came after it.
#[tokio::test(start_paused = true)]
async fn purge_returns_retried_messages_by_arrival() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let producer = builder(&registry, |config| {
        config.ordered = true;
        config.connection.stall_after = LONG;
    });
    let producer = producer.selector(Pinned).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    broker.faults().freeze();
    let send = |text: String| pinned("0-1", text);
    let mut handles = Vec::new();
    for message in numbers(0..10).into_iter().map(send) {
        handles.extend(enqueue(&producer, [message]).await);
        // Each is offered at a time of its own.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    broker.faults().refuse_connections(true);
    broker.faults().close_connections();
    until(async || producer.partitions(&topic()).is_empty()).await;
    assert_eq!(texts(&producer.purge(&topic())), numbers(1..10));
    for (n, handle) in handles.into_iter().enumerate() {
        let error = handle.now_or_never().expect("it has its outcome").unwrap_err();
        assert_eq!(error.outcome(), if n == 0 { Outcome::Unknown } else { Outcome::NotSent }, "{n}: {error}");
    }
    nothing_is_left(&producer).await;
}

#[tokio::test(start_paused = true)]
async fn turns_stay_right() {
    for is_away in [false, true] {
        let registry = EmbeddedRegistry::new();
        let broker = broker(&registry, 0);
        let producer = builder(&registry, |config| {
            config.ordered = true;
            config.connection.stall_after = LONG;
        });
        let producer = producer.selector(Pinned).build().unwrap();
        producer.publish_topic(&topic()).await.unwrap();
        if is_away {
            broker.faults().refuse_connections(true);
            broker.faults().close_connections();
            until(async || producer.partitions(&topic()).is_empty()).await;
        } else {
            broker.faults().freeze();
        }
        let send = |text: String| pinned("0-1", text);
        let first = enqueue(&producer, numbers(0..10).into_iter().map(send)).await;
        // In flight, the first one keeps the turn; while it waits it has the turn as well, and gives it back.
        let in_flight = usize::from(!is_away);
        assert_eq!(texts(&producer.purge(&topic())), numbers(in_flight..10));
        let second = enqueue(&producer, numbers(10..20).into_iter().map(send)).await;
        broker.faults().heal();
        broker.faults().thaw();
        for (n, handle) in first.into_iter().enumerate() {
            assert_eq!(handle.await.is_ok(), n < in_flight, "{n}");
        }
        for handle in second {
            handle.await.unwrap();
        }
        let expected: Vec<_> = numbers(0..in_flight).into_iter().chain(numbers(10..20)).collect();
        assert_eq!(in_partition(&broker, "t", 1), expected);
        nothing_is_left(&producer).await;
    }
}

/// The first one has the turn while it waits for its next attempt; those behind it could be sent.
#[tokio::test(start_paused = true)]
async fn nothing_behind_a_purged_message_is_sent_meanwhile() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let producer = builder(&registry, |config| {
        config.ordered = true;
        (config.retry.initial_backoff, config.retry.max_backoff) = (LONG / 2, LONG / 2);
        config.retry.jitter = Jitter::seeded(1);
    });
    let producer = producer.selector(Pinned).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let plan = broker.faults().plan(Requests::puts(), Fault::refuse(503, "busy"));
    let handles = enqueue(&producer, numbers(0..5).into_iter().map(|text| pinned("0-1", text))).await;
    until(async || plan.met() == 1 && counts(&producer).await.queued == 5).await;
    // The partition is not left alone any more.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(texts(&producer.purge(&topic())), numbers(0..5));
    for handle in handles {
        purged(handle.now_or_never());
    }
    assert_eq!(plan.met(), 1);
    nothing_is_left(&producer).await;
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_for_room_are_accepted_into_what_becomes_free() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let producer = builder(&registry, |config| config.max_in_flight = 16).selector(Pinned).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    broker.faults().refuse_connections(true);
    broker.faults().close_connections();
    until(async || producer.partitions(&topic()).is_empty()).await;
    let mut sends = Vec::new();
    for n in 0..10_usize {
        let (sender, message) = (producer.clone(), pinned("0-0", n.to_string()));
        sends.push(tokio::spawn(async move { sender.send_with_timeout(message, LONG).await }));
        until(async || counts(&producer).await.queued == n as u64 + 1).await;
    }
    // A quarter was accepted each time, the others wait outside, and come in once their tasks have run.
    for first in [0, 4, 8] {
        let last = (first + 4).min(10);
        until(async || producer.stats().await.unacknowledged == last - first).await;
        assert_eq!(texts(&producer.purge(&topic())), numbers(first..last));
    }
    for send in sends {
        purged(Some(send.await.unwrap()));
    }
    nothing_is_left(&producer).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_is_in_the_account_of_closing_or_returned() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let producer = builder(&registry, |_| {}).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    broker.faults().refuse_connections(true);
    broker.faults().close_connections();
    until(async || producer.partitions(&topic()).is_empty()).await;
    let _handles = enqueue(&producer, numbers(0..5).into_iter().map(message)).await;
    let mut closing = Box::pin(producer.close(LONG));
    assert!((&mut closing).now_or_never().is_none());
    assert_eq!(texts(&producer.purge(&topic())), numbers(0..5));
    assert_eq!(closing.await.unsent, []);
    nothing_is_left(&producer).await;
}

/// Tasks on several threads send while others take back, and the broker freezes, thaws and loses its
/// connections.
#[test]
fn each_message_is_stored_or_returned_once_under_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    for ordered in [false, true] {
        runtime.block_on(sends_and_purges(ordered));
    }
}

async fn sends_and_purges(ordered: bool) {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let producer = builder_with_limits(&registry, 8, 1 << 20, |config| {
        config.ordered = ordered;
        config.max_in_flight = 64;
        config.connection.stall_after = LONG;
        config.connection.heartbeat_after = LONG;
        config.retry.max_attempts = 1_000_000;
    });
    let producer = producer.build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let (is_over, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut purgers = JoinSet::new();
    for _ in 0..2 {
        let (producer, is_over, taken) = (producer.clone(), Arc::clone(&is_over), Arc::clone(&taken));
        purgers.spawn(async move {
            let mut returned = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                returned.extend(texts(&producer.purge(&topic())));
                taken.store(returned.len() as u64, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
            returned
        });
    }
    let mut senders = JoinSet::new();
    for task in 0..4 {
        let producer = producer.clone();
        senders.spawn(async move {
            let mut outcomes = Vec::new();
            for batch in 0..20 {
                let sends = (0..25).map(|n| {
                    let text = format!("{task}: {batch}/{n}");
                    let send = producer.send_with_timeout(message(text.clone()), LONG);
                    async move { (text, send.await) }
                });
                outcomes.extend(join_all(sends).await);
            }
            outcomes
        });
    }
    let mut outcomes = HashMap::new();
    while outcomes.len() < 2000 {
        broker.faults().freeze();
        // What waits behind those that are in flight can only be taken back now.
        let seen = taken.load(Ordering::Relaxed);
        until(async || taken.load(Ordering::Relaxed) != seen || counts(&producer).await.queued == 0).await;
        broker.faults().thaw();
        while let Some(joined) = senders.try_join_next() {
            outcomes.extend(joined.unwrap());
        }
        tokio::task::yield_now().await;
    }
    is_over.store(true, Ordering::Relaxed);
    let mut returned = HashMap::new();
    for text in purgers.join_all().await.into_iter().flatten() {
        *returned.entry(text).or_insert(0) += 1;
    }
    let mut stored = HashMap::new();
    for message in broker.messages("t") {
        *stored.entry(String::from_utf8(message.payload.to_vec()).unwrap()).or_insert(0) += 1;
    }
    let mut ways = [0; 2];
    for (text, outcome) in &outcomes {
        let is = (stored.get(text).copied().unwrap_or(0), returned.get(text).copied().unwrap_or(0));
        match outcome {
            Ok(_) => assert_eq!(is, (1, 0), "{text}"),
            Err(error) => {
                assert_eq!(
                    (error.kind(), error.outcome()),
                    (SendErrorKind::Purged, Outcome::NotSent),
                    "{error}"
                );
                assert_eq!(is, (0, 1), "{text}");
            }
        }
        ways[usize::from(outcome.is_err())] += 1;
    }
    assert_eq!(ways.iter().sum::<i32>(), 2000);
    assert_eq!(stored.len() + returned.len(), 2000, "nothing else");
    assert!(ways.iter().all(|count| *count > 0), "stored, returned: {ways:?}");
    nothing_is_left(&producer).await;
}
