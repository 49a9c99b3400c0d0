//! Topics that are published by the first message that is sent to them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use metaq_producer::{
    Message, Outcome, Partition, PartitionSelector, Producer, ProducerConfig, SendErrorKind, Topic,
    discovery::MockDiscovery, error::PublishErrorKind,
};
use metaq_testkit::{EmbeddedRegistry, RegistryFault};
use tokio::{runtime::Builder, time::Instant};

use crate::common::{
    cluster::{broker, broker_with, builder, counts, sum},
    message, payloads, topic, topic_named, until,
};

fn producer(registry: &EmbeddedRegistry, change: impl FnOnce(&mut ProducerConfig)) -> Producer {
    watched_producer(registry, change).0
}

/// A producer, and its discovery, which counts calls and watches.
fn watched_producer(
    registry: &EmbeddedRegistry,
    change: impl FnOnce(&mut ProducerConfig),
) -> (Producer, MockDiscovery) {
    let builder = builder(registry, |config| {
        config.auto_publish = true;
        change(config);
    });
    let discovery = registry.discovery();
    (builder.discovery(discovery.clone()).build().unwrap(), discovery)
}

fn to(topic: &str, payload: impl Into<String>) -> Message {
    Message::new(topic_named(topic), payload.into())
}

/// Nothing of the topic is left: neither in the producer nor in the registry.
async fn is_let_go_of(producer: &Producer, discovery: &MockDiscovery, topic: &Topic) {
    until(async || producer.health().topics.iter().all(|known| known.topic != *topic)).await;
    until(async || discovery.active_watches(topic) == 0).await;
    assert!(!producer.unpublish_topic(topic));
}

#[tokio::test(start_paused = true)]
async fn first_message_publishes_its_topic_if_that_is_set() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let plain = builder(&registry, |_| {}).build().unwrap();
    assert_eq!(plain.send(message("x")).await.unwrap_err().kind(), SendErrorKind::NotPublished);
    for ordered in [false, true] {
        let producer = producer(&registry, |config| config.ordered = ordered);
        producer.send(message("1")).await.unwrap();
        producer.enqueue(message("2")).await.unwrap().await.unwrap();
        assert!(producer.send_all([message("3"), message("4")]).await.iter().all(Result::is_ok));
        producer.try_send(message("5")).unwrap().await.unwrap();
        producer.publish_topic(&topic()).await.unwrap();
        let counts = counts(&producer).await;
        assert_eq!((counts.offered, counts.acknowledged), (5, 5));
    }
    assert_eq!(broker.messages("t").len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn senders_at_the_same_time_share_one_attempt() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    registry.add_fault(RegistryFault::Slow(Duration::from_millis(20)));
    let (producer, discovery) = watched_producer(&registry, |_| {});
    let senders: Vec<_> = (0..200)
        .map(|n| {
            let producer = producer.clone();
            tokio::spawn(async move { producer.send(message(n.to_string())).await })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap().unwrap();
    }
    assert_eq!(discovery.watch_calls(), 1);
    assert_eq!(broker.messages("t").len(), 200);
    assert!(producer.unpublish_topic(&topic()), "it is held once");
    is_let_go_of(&producer, &discovery, &topic()).await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_no_broker_offers_ends_only_its_messages() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let (producer, discovery) = watched_producer(&registry, |_| {});
    producer.publish_topic(&topic()).await.unwrap();
    let started = Instant::now();
    let (first, second) = tokio::join!(producer.send(to("misspelt", "1")), async {
        for n in 0..100 {
            producer.send(message(n.to_string())).await.unwrap();
        }
        assert!(started.elapsed() < Duration::from_millis(100), "the other topic waits for nothing");
        producer.send(to("misspelt", "2")).await
    });
    assert_eq!(started.elapsed().as_millis(), 1500, "half of `send_timeout`");
    for (error, payload) in [(first, "1"), (second, "2")] {
        let error = error.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NotPublished, Outcome::NotSent));
        assert!(error.to_string().contains("no broker offers it (waited 1.5s)"), "{error}");
        assert_eq!(error.into_message(), Some(to("misspelt", payload)));
    }
    is_let_go_of(&producer, &discovery, &topic_named("misspelt")).await;
    broker.set_topic("misspelt", 1);
    assert!(producer.send(to("misspelt", "3")).await.is_ok(), "the next message begins anew");
    assert_eq!(sum(counts(&producer).await), counts(&producer).await.offered);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_away_is_told_from_a_wrong_name() {
    let registry = EmbeddedRegistry::new();
    let _broker = broker(&registry, 0);
    registry.add_fault(RegistryFault::Unreachable);
    let (producer, discovery) = watched_producer(&registry, |_| {});
    let error = producer.send(message("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NotConnected, Outcome::NotSent));
    assert!(error.to_string().contains("topic t can't be published: its brokers could not be"), "{error}");
    is_let_go_of(&producer, &discovery, &topic()).await;
    registry.heal();
    assert!(producer.send(message("x")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_goes_on_when_its_messages_are_gone() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    registry.add_fault(RegistryFault::Slow(Duration::from_secs(2)));
    let (producer, discovery) = watched_producer(&registry, |_| {});
    // One is dropped at its first poll, the other has less time than that takes.
    assert!(producer.send(message("dropped")).now_or_never().is_none());
    let error = producer.send_with_timeout(message("late"), Duration::from_secs(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NotConnected, Outcome::NotSent));
    assert!(error.to_string().contains("the topic is being published"), "{error}");
    let error = producer.try_send(message("at once")).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NotConnected, Outcome::NotSent));
    producer.send(message("in time")).await.unwrap();
    assert_eq!(discovery.watch_calls(), 1);
    assert_eq!(payloads(&broker, "t"), ["in time"]);
    let counts = counts(&producer).await;
    assert_eq!((counts.offered, counts.acknowledged, counts.not_sent), (4, 1, 3));
}

#[tokio::test(start_paused = true)]
async fn try_send_begins_and_succeeds_once_it_is_published() {
    let registry = EmbeddedRegistry::new();
    let _broker = broker(&registry, 0);
    let producer = producer(&registry, |_| {});
    assert_eq!(producer.try_send(message("x")).unwrap_err().kind(), SendErrorKind::NotConnected);
    until(async || !producer.partitions(&topic()).is_empty()).await;
    producer.try_send(message("x")).unwrap().await.unwrap();
    let too_large = || message("x".repeat(2 << 20));
    assert_eq!(producer.try_send(too_large()).unwrap_err().kind(), SendErrorKind::TooLarge);
    let elsewhere = Message::new(topic_named("u"), vec![0; 2 << 20]);
    assert_eq!(producer.send(elsewhere).await.unwrap_err().kind(), SendErrorKind::TooLarge);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_large_publishes_nothing() {
    let registry = EmbeddedRegistry::new();
    let _broker = broker(&registry, 0);
    let (producer, discovery) = watched_producer(&registry, |_| {});
    let too_large = || message("x".repeat(2 << 20));
    assert_eq!(producer.send(too_large()).await.unwrap_err().kind(), SendErrorKind::TooLarge);
    assert_eq!(producer.try_send(too_large()).unwrap_err().kind(), SendErrorKind::TooLarge);
    assert!(!producer.offer(too_large()));
    assert_eq!((producer.health().topics.len(), discovery.watch_calls()), (0, 0));
    let counts = counts(&producer).await;
    assert_eq!((counts.offered, counts.not_sent), (3, 3));
}

/// The registry refuses at once, so nothing but the pauses keeps messages from asking it again.
#[tokio::test(start_paused = true)]
async fn attempts_that_fail_are_followed_by_growing_pauses() {
    let registry = EmbeddedRegistry::new();
    let _broker = broker(&registry, 0);
    registry.add_fault(RegistryFault::Unreachable);
    let (producer, discovery) = watched_producer(&registry, |_| {});
    let started = Instant::now();
    let mut ended = Vec::new();
    for _ in 0..7 {
        // Messages that are sent at the same time share the attempt, as they share its pause.
        let sent = futures_util::future::join_all((0..50).map(|_| producer.send(message("x")))).await;
        assert!(sent.iter().all(|sent| sent.as_ref().unwrap_err().kind() == SendErrorKind::NotConnected));
        ended.push(started.elapsed().as_millis());
    }
    assert_eq!(ended, [0, 100, 300, 700, 1500, 2500, 3500], "each pause is twice as long, 1 s at most");
    assert_eq!(discovery.watch_calls(), 7);
    registry.heal();
    // The program does not wait for the pause.
    let name = topic();
    let (sent, published) = tokio::join!(producer.send(message("x")), producer.publish_topic(&name));
    assert!(sent.is_ok() && published.is_ok());
    assert_eq!(started.elapsed().as_millis(), 3500);
    assert!(producer.unpublish_topic(&topic()));
    producer.send(message("x")).await.unwrap();
    assert_eq!(started.elapsed().as_millis(), 3500, "a success ends the pauses");
}

#[tokio::test(start_paused = true)]
async fn topics_beyond_the_limit_are_refused() {
    let registry = EmbeddedRegistry::new();
    let _broker = broker_with(&registry, 0, &[("a", 1), ("b", 1), ("c", 1)]);
    let producer = producer(&registry, |config| config.max_auto_topics = 2);
    producer.publish_topic(&topic_named("a")).await.unwrap();
    producer.send(to("b", "x")).await.unwrap();
    let failed = producer.send(to("misspelt", "x")).await.unwrap_err();
    assert_eq!(failed.kind(), SendErrorKind::NotPublished);
    producer.send(to("c", "x")).await.unwrap();
    let error = producer.send(to("d", "x")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NotPublished, Outcome::NotSent));
    assert!(error.to_string().contains("auto_publish has published 2 topics"), "{error}");
    assert_eq!(error.into_message(), Some(to("d", "x")));
    assert!(producer.send(to("a", "x")).await.is_ok());
    assert!(producer.unpublish_topic(&topic_named("b")));
    assert_eq!(producer.send(to("d", "x")).await.unwrap_err().kind(), SendErrorKind::NotPublished);
    assert!(producer.send(to("b", "x")).await.is_ok());
    assert_eq!(sum(counts(&producer).await), counts(&producer).await.offered);
}

#[tokio::test(start_paused = true)]
async fn of_topics_with_a_default_that_one_alone_is_published() {
    let registry = EmbeddedRegistry::new();
    let broker = broker_with(&registry, 0, &[("t", 1), ("u0", 1), ("u1", 1), ("u2", 1)]);
    let producer = producer(&registry, |config| config.default_topic = Some(topic()));
    for n in 0..3 {
        producer.send(to(&format!("u{n}"), "x")).await.unwrap();
    }
    let published: Vec<_> = producer.health().topics.into_iter().map(|known| known.topic).collect();
    assert_eq!(published, [topic()]);
    assert_eq!(broker.messages("u2").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn unpublishing_takes_it_back_until_the_next_message() {
    let registry = EmbeddedRegistry::new();
    let _broker = broker(&registry, 0);
    let (producer, discovery) = watched_producer(&registry, |_| {});
    for _ in 0..3 {
        producer.send(message("x")).await.unwrap();
        assert!(producer.unpublish_topic(&topic()));
        assert!(!producer.unpublish_topic(&topic()));
        is_let_go_of(&producer, &discovery, &topic()).await;
    }
    // Together with what the program has published.
    producer.send(message("x")).await.unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    assert!(producer.unpublish_topic(&topic()));
    assert!(producer.try_send(message("x")).is_ok(), "once more it was published");
    assert!(producer.unpublish_topic(&topic()));
    is_let_go_of(&producer, &discovery, &topic()).await;
    // While it is being published.
    registry.add_fault(RegistryFault::Slow(Duration::from_secs(1)));
    let waiting = producer.enqueue(message("x")).await.unwrap();
    assert!(producer.unpublish_topic(&topic()));
    let error = waiting.await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NotPublished, Outcome::NotSent));
}

#[tokio::test(start_paused = true)]
async fn closing_ends_what_waits_for_publishing() {
    let registry = EmbeddedRegistry::new();
    let _broker = broker(&registry, 0);
    registry.add_fault(RegistryFault::Slow(Duration::from_secs(60)));
    let (producer, discovery) = watched_producer(&registry, |_| {});
    let waiting = producer.enqueue(message("x")).await.unwrap();
    let report = producer.close(Duration::from_millis(100)).await;
    assert_eq!(report.unsent, [message("x")]);
    let error = waiting.await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Closed, Outcome::NotSent));
    assert_eq!(producer.send(message("x")).await.unwrap_err().kind(), SendErrorKind::Closed);
    until(async || discovery.active_watches(&topic()) == 0).await;
}

#[tokio::test(start_paused = true)]
async fn publishing_by_program_shares_attempt_and_failure() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let (producer, discovery) = watched_producer(&registry, |_| {});
    let misspelt = topic_named("misspelt");
    let (sent, published) =
        tokio::join!(producer.send(to("misspelt", "x")), producer.publish_topic(&misspelt));
    assert_eq!(sent.unwrap_err().kind(), SendErrorKind::NotPublished);
    assert_eq!(published.unwrap_err().kind(), PublishErrorKind::NoSuchTopic);
    is_let_go_of(&producer, &discovery, &misspelt).await;
    broker.set_topic("misspelt", 1);
    let (sent, published) =
        tokio::join!(producer.send(to("misspelt", "x")), producer.publish_topic(&misspelt));
    assert!(sent.is_ok() && published.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_panics_for_a_topic_ends_its_message() {
    struct Picky;
    impl PartitionSelector for Picky {
        fn select(&self, _: &Topic, partitions: &[Partition], _: &Message) -> Option<Partition> {
            partitions.first().copied()
        }

        fn for_topic(&self, topic: &Topic) -> Option<Box<dyn PartitionSelector>> {
            assert_eq!(topic.as_str(), "t", "not for me");
            None
        }
    }
    let registry = EmbeddedRegistry::new();
    let _broker = broker(&registry, 0);
    let builder = builder(&registry, |config| config.auto_publish = true);
    let producer = builder.selector(Picky).build().unwrap();
    let error = producer.send(to("u", "x")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NoPartition, Outcome::NotSent));
    assert!(error.to_string().contains("panicked when it was asked for the topic: "), "{error}");
    assert!(producer.send(message("x")).await.is_ok());
}

#[test]
fn a_runtime_that_ends_leaves_it_to_the_next_one() {
    let registry = EmbeddedRegistry::new();
    let brokers = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _broker = brokers.block_on(async { broker(&registry, 0) });
    let producer = producer(&registry, |_| {});
    let one = || Builder::new_current_thread().enable_all().build().unwrap();
    let error = producer.send(message("x")).now_or_never().unwrap().unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::NoRuntime, "there is none");
    assert_eq!(producer.health().topics.len(), 0);
    registry.add_fault(RegistryFault::Slow(Duration::from_secs(60)));
    let waiting = one().block_on(producer.enqueue(message("x"))).unwrap();
    let error = one().block_on(waiting).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NoRuntime, Outcome::NotSent));
    registry.heal();
    for _ in 0..2 {
        assert!(one().block_on(producer.send(message("x"))).is_ok());
    }
}

#[test]
fn a_runtime_that_stands_still_leaves_it_to_another_one() {
    let registry = EmbeddedRegistry::new();
    let new = |threads: usize| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(threads).enable_all().build().unwrap()
    };
    let brokers = new(1);
    let broker = brokers.block_on(async { broker(&registry, 0) });
    let producer = producer(&registry, |config| config.publish_timeout = Duration::from_millis(100));
    let idle = Builder::new_current_thread().enable_all().build().unwrap();
    let error = idle.block_on(async { producer.try_send(message("idle")) }).unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::NotConnected);
    new(1).block_on(async {
        let sent = async || match producer.try_send(message("sent")) {
            Ok(handle) => handle.await.is_ok(),
            Err(_) => false,
        };
        until(sent).await;
        // What was left of the first attempt does no harm.
        let _ = idle;
        producer.send(message("sent")).await.unwrap();
    });
    assert_eq!(payloads(&broker, "t"), ["sent", "sent"]);
}

/// Five threads send to four topics, one of which no broker offers, while others unpublish them.
#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn every_message_has_its_outcome_while_topics_come_and_go() {
    let registry = EmbeddedRegistry::new();
    let broker = broker_with(&registry, 0, &[("a", 1), ("b", 2), ("c", 1)]);
    let (producer, discovery) = watched_producer(&registry, |config| {
        config.max_auto_topics = 3;
        config.topic_timeout = Duration::from_millis(5);
        // A third of it is the longest pause before the misspelt topic is looked for again.
        config.send_timeout = Duration::from_millis(450);
    });
    let stored = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..5_u64)
        .map(|seed| {
            let (producer, stored) = (producer.clone(), Arc::clone(&stored));
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed);
                for n in 0..400 {
                    let topic = *random.choice(&["a", "b", "c"]).unwrap();
                    let topic = if random.u8(..) < 20 { "misspelt" } else { topic };
                    if random.u8(..) < 40 {
                        producer.unpublish_topic(&topic_named(topic));
                    }
                    let sent = match random.u8(..) {
                        0..60 => match producer.try_send(to(topic, format!("{seed} {n}"))) {
                            Ok(handle) => handle.await,
                            Err(error) => Err(error),
                        },
                        _ => producer.send(to(topic, format!("{seed} {n}"))).await,
                    };
                    match sent {
                        Ok(_) => drop(stored.fetch_add(1, SeqCst)),
                        // One whose connection was closed with its topic may be stored all the same.
                        Err(error) => assert_ne!(error.outcome(), Outcome::Rejected, "{error}"),
                    }
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    let counts = counts(&producer).await;
    assert_eq!((counts.offered, sum(counts)), (2000, 2000), "{counts:?}");
    assert_eq!((counts.queued, counts.in_flight), (0, 0));
    assert_eq!(counts.acknowledged, stored.load(SeqCst) as u64);
    let at_broker: usize = ["a", "b", "c"].iter().map(|topic| broker.messages(topic).len()).sum();
    let most = stored.load(SeqCst) + counts.unknown as usize;
    assert!((stored.load(SeqCst)..=most).contains(&at_broker), "{at_broker} at the broker: {counts:?}");
    is_let_go_of(&producer, &discovery, &topic_named("misspelt")).await;
    assert!(counts.acknowledged > 500, "{counts:?}");
}
