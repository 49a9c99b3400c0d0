//! Offered messages: what the failure handler gets of them, when, and what it may do.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use metaq_producer::{
    Message, Outcome, Producer, ProducerBuilder, ProducerConfig, SendErrorKind,
    failure::{DropCounter, FailedMessage, FailureHandler},
    interceptor::Interceptor,
    selector::select_fn,
};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use parking_lot::Mutex;

use crate::common::{
    cluster::{Cluster, broker, builder, counts, in_partition, sum},
    message, topic, topic_named, until,
};

/// Keeps what it gets: the payload, the kind and the outcome.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<(String, SendErrorKind, Outcome)>>>);

impl FailureHandler for Kept {
    fn message_failed(&self, FailedMessage { message, error, .. }: FailedMessage) {
        assert_eq!(error.message(), None, "it is not there twice");
        assert_eq!(error.topic(), message.topic());
        let payload = String::from_utf8(message.payload().to_vec()).unwrap();
        self.0.lock().push((payload, error.kind(), error.outcome()));
    }
}

impl Kept {
    fn take(&self) -> Vec<(String, SendErrorKind, Outcome)> {
        std::mem::take(&mut *self.0.lock())
    }

    fn only(&self, payload: &str) -> (SendErrorKind, Outcome) {
        match &self.take()[..] {
            [(only, kind, outcome)] if only == payload => (*kind, *outcome),
            other => panic!("{payload}: {other:?}"),
        }
    }

    /// Waits for the failure of an accepted message.
    async fn next(&self, payload: &str) -> (SendErrorKind, Outcome) {
        until(async || !self.0.lock().is_empty()).await;
        self.only(payload)
    }
}

/// A broker, and a producer with this handler that has published the topic.
async fn producer_with(
    change: impl FnOnce(&mut ProducerConfig),
    more: impl FnOnce(ProducerBuilder) -> ProducerBuilder,
) -> (Broker, Producer) {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let producer = more(builder(&registry, change)).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    (broker, producer)
}

async fn keeping(change: impl FnOnce(&mut ProducerConfig)) -> (Broker, Producer, Kept) {
    let kept = Kept::default();
    let (broker, producer) = producer_with(change, |builder| builder.failure_handler(kept.clone())).await;
    (broker, producer, kept)
}

#[tokio::test(start_paused = true)]
async fn what_is_not_taken_reaches_the_handler_at_once() {
    struct Picky;
    impl Interceptor for Picky {
        fn before_send(&self, message: &mut Message) {
            assert_ne!(message.attribute(), Some("panic"));
        }
    }
    let kept = Kept::default();
    let no_key = select_fn(|_, partitions, message| {
        message.key()?;
        partitions.first().copied()
    });
    let small = |config: &mut ProducerConfig| config.max_in_flight = 4;
    let (broker, producer) = producer_with(small, |builder| {
        builder.failure_handler(kept.clone()).interceptor(Picky).selector(no_key)
    })
    .await;
    let not_sent = |kind| (kind, Outcome::NotSent);
    assert!(!producer.offer(Message::new(topic_named("other"), "1")));
    assert_eq!(kept.only("1"), not_sent(SendErrorKind::NotPublished));
    let large = "x".repeat(2 << 20);
    assert!(!producer.offer(message(large.clone())));
    assert_eq!(kept.only(&large), not_sent(SendErrorKind::TooLarge));
    assert!(!producer.offer(message("2").with_attribute("panic")));
    assert_eq!(kept.only("2"), not_sent(SendErrorKind::Interceptor));
    assert!(!producer.offer(message("3")));
    assert_eq!(kept.only("3"), not_sent(SendErrorKind::NoPartition));
    // Half of four go to the one broker, one more waits.
    broker.faults().freeze();
    let accepted = (0..10).filter(|n| producer.offer(message(n.to_string()).with_key("k"))).count();
    let refused = kept.take();
    assert_eq!((accepted, refused.len()), (3, 7));
    assert!(refused.iter().all(|(_, kind, _)| *kind == SendErrorKind::Full), "{refused:?}");
    broker.faults().thaw();
    producer.flush().await;
    assert_eq!(kept.take(), []);
    producer.close(Duration::ZERO).await;
    assert!(!producer.offer(message("4").with_key("k")));
    assert_eq!(kept.only("4"), not_sent(SendErrorKind::Closed));
    let counts = counts(&producer).await;
    assert_eq!((counts.offered, counts.acknowledged, sum(counts)), (15, 3, 15), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_and_fails_reaches_the_handler_later() {
    let (broker, producer, kept) = keeping(|config| config.retry.max_attempts = 1).await;
    let faults = broker.faults();
    assert!(producer.offer(message("stored")));
    producer.flush().await;
    assert_eq!(kept.take(), []);
    faults.plan(Requests::puts().first(1), Fault::refuse(500, "no"));
    assert!(producer.offer(message("refused")));
    assert_eq!(kept.next("refused").await, (SendErrorKind::Rejected, Outcome::Rejected));
    faults.plan(Requests::puts().first(1), Fault::Swallow);
    assert!(producer.offer(message("swallowed")));
    assert_eq!(kept.next("swallowed").await, (SendErrorKind::TimedOut, Outcome::Unknown));
    faults.refuse_connections(true);
    faults.close_connections();
    until(async || producer.partitions(&topic()).is_empty()).await;
    assert!(producer.offer(message("away")));
    assert_eq!(kept.next("away").await, (SendErrorKind::NotConnected, Outcome::NotSent));
    let counts = counts(&producer).await;
    assert_eq!((counts.offered, counts.acknowledged, sum(counts)), (4, 1, 4), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn other_ways_of_sending_tell_the_handler_nothing() {
    let (broker, producer, kept) = keeping(|config| config.retry.max_attempts = 1).await;
    broker.faults().plan(Requests::puts(), Fault::refuse(500, "no"));
    assert!(producer.send(message("1")).await.is_err());
    drop(producer.enqueue(message("2")).await.unwrap());
    drop(producer.try_send(message("3")).unwrap());
    assert!(producer.send_all([message("4")]).await[0].is_err());
    assert!(producer.try_send(Message::new(topic_named("other"), "5")).is_err());
    producer.flush().await;
    assert_eq!(kept.take(), []);
}

#[tokio::test(start_paused = true)]
async fn closing_dropping_and_purging_account_for_each_once() {
    let away = async |config: fn(&mut ProducerConfig)| {
        let (broker, producer, kept) = keeping(config).await;
        broker.faults().refuse_connections(true);
        broker.faults().close_connections();
        until(async || producer.partitions(&topic()).is_empty()).await;
        assert!(producer.offer(message("waits")));
        (broker, producer, kept)
    };
    let (_broker, producer, kept) = away(|_| {}).await;
    let report = producer.close(Duration::ZERO).await;
    assert_eq!(report.unsent, [message("waits")]);
    assert_eq!(kept.only("waits"), (SendErrorKind::Closed, Outcome::NotSent));
    let (_broker, producer, kept) = away(|_| {}).await;
    drop(producer);
    assert_eq!(kept.next("waits").await, (SendErrorKind::Closed, Outcome::NotSent));
    for ordered in [|_: &mut _| {}, |config: &mut ProducerConfig| config.ordered = true] {
        let (_broker, producer, kept) = away(ordered).await;
        assert_eq!(producer.purge(&topic()), [message("waits")]);
        assert_eq!(kept.take(), [], "it is in the hands of who has taken it back");
        producer.offer(message("waits"));
        producer.unpublish_topic(&topic());
        assert_eq!(kept.next("waits").await, (SendErrorKind::NotPublished, Outcome::NotSent));
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_keeps_nothing_from_others() {
    let told = Arc::new(AtomicU64::new(0));
    let panics = {
        let told = Arc::clone(&told);
        move |failed: FailedMessage| {
            told.fetch_add(1, SeqCst);
            panic!("no place for {:?}", failed.message.payload());
        }
    };
    let (broker, producer) =
        producer_with(|config| config.retry.max_attempts = 1, |builder| builder.failure_handler(panics))
            .await;
    broker.faults().plan(Requests::puts().first(3), Fault::refuse(500, "no"));
    for n in 0..3 {
        assert!(producer.offer(message(n.to_string())));
    }
    assert!(!producer.offer(Message::new(topic_named("other"), "x")));
    producer.flush().await;
    until(async || told.load(SeqCst) == 4).await;
    assert!(producer.send(message("x")).await.is_ok());
}

/// The handler sends what it gets to another topic, and looks at everything that there is to look at.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_may_call_the_producer() {
    static PRODUCER: OnceLock<Producer> = OnceLock::new();
    static TOLD: AtomicU64 = AtomicU64::new(0);
    let registry = EmbeddedRegistry::new();
    let broker = Broker::builder().topic("t", 1).topic("failed", 1).register_with(&registry);
    let broker = broker.start_without_port().unwrap();
    let handler = |FailedMessage { message, .. }: FailedMessage| {
        let producer = PRODUCER.get().unwrap();
        assert_eq!(producer.health().topics.len(), 2);
        assert_eq!(producer.purge(&topic_named("failed")), []);
        producer.partition_for(&message).unwrap();
        let moved = Message::new(topic_named("failed"), message.payload().clone());
        // One that is too large reaches no handler.
        let is_taken = producer.offer(moved);
        assert_eq!(is_taken, message.payload().len() < 100);
        TOLD.fetch_add(1, SeqCst);
    };
    let builder = builder(&registry, |config| {
        config.max_message_size = 100;
        config.send_timeout = Duration::from_secs(60);
    });
    let builder = builder.failure_handler(handler);
    let producer = PRODUCER.get_or_init(|| builder.build().unwrap());
    for topic in ["t", "failed"] {
        producer.publish_topic(&topic_named(topic)).await.unwrap();
    }
    let topic_t = Requests::puts().of_topic("t");
    broker.faults().plan(topic_t, Fault::refuse(500, "no"));
    let offers: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async {
                for n in 0..50 {
                    assert!(producer.offer(message(n.to_string())));
                    assert!(!producer.offer(message("x".repeat(101))));
                }
            })
        })
        .collect();
    for offer in offers {
        offer.await.unwrap();
    }
    until(async || TOLD.load(SeqCst) == 400).await;
    until(async || counts(producer).await.acknowledged == 200).await;
    let counts = counts(producer).await;
    assert_eq!((counts.rejected, counts.not_sent, counts.offered), (200, 400, 800));
    assert_eq!(broker.messages("failed").len(), 200);
}

#[tokio::test(start_paused = true)]
async fn offers_keep_their_order() {
    let cluster = Cluster::new(1, |config| config.ordered = true).await;
    for n in 0..100 {
        assert!(cluster.producer.offer(message(n.to_string()).with_partition("0-1".parse().unwrap())));
    }
    cluster.producer.flush().await;
    let expected: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(in_partition(&cluster.brokers[0], "t", 1), expected);
}

#[test]
fn outside_of_a_runtime_only_what_has_to_wait_fails() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let brokers = runtime();
    let registry = EmbeddedRegistry::new();
    let _broker = brokers.block_on(async { broker(&registry, 0) });
    let kept = Kept::default();
    let producer = builder(&registry, |_| {}).failure_handler(kept.clone()).build().unwrap();
    let own = runtime();
    own.block_on(producer.publish_topic(&topic())).unwrap();
    assert!(producer.offer(message("1")));
    own.block_on(producer.flush());
    assert_eq!(kept.take(), []);
    drop(own);
    assert!(!producer.offer(message("2")));
    assert_eq!(kept.only("2"), (SendErrorKind::NoRuntime, Outcome::NotSent));
}

/// Six threads offer while connections break, puts are refused or lost, and the broker stands still.
#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn each_offered_message_is_stored_or_handled_once() {
    const EACH: u64 = 2000;
    let registry = EmbeddedRegistry::new();
    let brokers: Vec<_> = (0..2).map(|id| broker(&registry, id)).collect();
    let (handled, dropped) = (Arc::new(Mutex::new(BTreeMap::new())), DropCounter::new());
    let handler = {
        let (handled, dropped) = (Arc::clone(&handled), dropped.clone());
        move |failed: FailedMessage| {
            let payload = String::from_utf8(failed.message.payload().to_vec()).unwrap();
            let before = handled.lock().insert(payload, failed.error.outcome());
            assert_eq!(before, None, "it was told twice");
            dropped.message_failed(failed);
        }
    };
    let builder = builder(&registry, |config| {
        config.max_in_flight = 256;
        config.send_timeout = Duration::from_millis(300);
    });
    let producer = builder.failure_handler(handler).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let offers: Vec<_> = (0..6)
        .map(|thread| {
            let producer = producer.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    producer.offer(message(format!("{thread} {n}")));
                    if n % 16 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    let mut random = fastrand::Rng::with_seed(7);
    while !offers.iter().all(tokio::task::JoinHandle::is_finished) {
        let faults = brokers[random.usize(..2)].faults();
        match random.u8(..5) {
            0 => faults.close_connections(),
            1 => drop(faults.plan(Requests::puts().first(5), Fault::refuse(500, "no"))),
            2 => drop(faults.plan(Requests::puts().first(2), Fault::Swallow)),
            3 => faults.freeze(),
            _ => faults.thaw(),
        }
        tokio::task::yield_now().await;
    }
    for offer in offers {
        offer.await.unwrap();
    }
    brokers.iter().for_each(|broker| broker.faults().heal());
    brokers.iter().for_each(|broker| broker.faults().thaw());
    producer.flush().await;
    let counts = counts(&producer).await;
    let counted = |outcome| dropped.count(outcome);
    until(async || dropped.total() + counts.acknowledged == 6 * EACH).await;
    assert_eq!(counts.not_sent, counted(Outcome::NotSent));
    assert_eq!(counts.rejected, counted(Outcome::Rejected));
    assert_eq!(counts.unknown, counted(Outcome::Unknown));
    let stored: Vec<_> = brokers.iter().flat_map(|broker| broker.messages("t")).collect();
    let handled = handled.lock();
    let doubtful = stored.iter().filter(|stored| {
        let payload = String::from_utf8(stored.payload.to_vec()).unwrap();
        handled.get(&payload).is_some_and(|outcome| *outcome != Outcome::Unknown)
    });
    assert_eq!(doubtful.count(), 0, "what is stored was told as not stored");
    assert!(stored.len() as u64 >= counts.acknowledged);
}

/// Says when it is dropped.
struct Payload(Arc<AtomicU64>);

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        b"large"
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_in_hand_holds_no_payload_that_may_be_stored() {
    let (broker, producer, kept) = keeping(|_| {}).await;
    broker.faults().plan(Requests::puts(), Fault::Ignore);
    let dropped = Arc::new(AtomicU64::new(0));
    let payload = bytes::Bytes::from_owner(Payload(Arc::clone(&dropped)));
    let handle = producer.enqueue(Message::new(topic(), payload)).await.unwrap();
    let error = handle.await.unwrap_err();
    assert_eq!((error.outcome(), error.message()), (Outcome::Unknown, None));
    assert_eq!(dropped.load(SeqCst), 1, "the error is still there");
    assert_eq!(kept.take(), [], "it is the caller's");
    drop(error);
}
