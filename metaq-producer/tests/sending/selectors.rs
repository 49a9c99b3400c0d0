//! Selectors at work in a producer: what it makes of their answers, their panics and what they learn.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use metaq_producer::{
    Message, Outcome, Partition, PartitionSelector, Producer, ProducerConfig, SendErrorKind, Topic,
    config::Jitter,
    selector::{KeyHashSelector, LatencySelector, RendezvousSelector, StickySelector, select_fn},
};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use tokio::time::{Instant, timeout};

use crate::common::{
    SOON,
    cluster::{Pinned, broker, builder, pinned},
    message, topic, until,
};

fn keyed(key: impl ToString) -> Message {
    message("x").with_key(key.to_string())
}

/// Brokers 0, 1, …, with two partitions of the topic each.
struct Cluster {
    registry: EmbeddedRegistry,
    brokers: Vec<Broker>,
}

impl Cluster {
    fn new(count: i32) -> Self {
        let registry = EmbeddedRegistry::new();
        let brokers = (0..count).map(|id| broker(&registry, id)).collect();
        Self { registry, brokers }
    }

    /// A producer with this selector that has published the topic.
    async fn producer(
        &self,
        selector: impl PartitionSelector + 'static,
        change: impl FnOnce(&mut ProducerConfig),
    ) -> Producer {
        let producer = builder(&self.registry, change).selector(selector).build().unwrap();
        producer.publish_topic(&topic()).await.unwrap();
        producer
    }

    fn stored(&self, broker: usize) -> usize {
        self.brokers[broker].messages("t").len()
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_with_a_partition_goes_there_and_nowhere_else() {
    for ordered in [false, true] {
        let cluster = Cluster::new(2);
        let never = select_fn(|_, _, _| panic!("it is not asked"));
        let producer = cluster.producer(never, |config| config.ordered = ordered).await;
        let to = |partition| message("x").with_key("k").with_partition(partition);
        for _ in 0..3 {
            let receipt = producer.send(to(Partition::new(1, 1))).await.unwrap();
            assert_eq!(receipt.partition, Partition::new(1, 1));
        }
        for absent in [Partition::new(1, 2), Partition::new(7, 0)] {
            let error = producer.send(to(absent)).await.unwrap_err();
            assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NoPartition, Outcome::NotSent));
            let names = format!("it is for partition {absent}, which the topic doesn't have");
            assert!(error.to_string().contains(&names), "{error}");
            assert_eq!(error.into_message(), Some(to(absent)));
        }
        assert_eq!((cluster.stored(0), cluster.stored(1)), (0, 3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_with_a_partition_waits_for_its_broker() {
    for ordered in [false, true] {
        let mut cluster = Cluster::new(2);
        let producer = cluster.producer(KeyHashSelector::default(), |config| config.ordered = ordered).await;
        let down = cluster.brokers.remove(1).kill().await;
        until(async || producer.partitions(&topic()).len() == 2).await;
        let waiting = producer.enqueue(message("x").with_partition(Partition::new(1, 0))).await.unwrap();
        producer.send(message("other").with_partition(Partition::new(0, 0))).await.unwrap();
        assert_eq!(producer.stats().await.messages.queued, 1);
        cluster.brokers.push(down.start_without_port().unwrap());
        assert_eq!(waiting.await.unwrap().partition, Partition::new(1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_panics_harms_only_the_message() {
    let cluster = Cluster::new(1);
    let selector = select_fn(|_, partitions, message| match message.attribute() {
        Some("at once") => panic!("no idea where {:?} goes", message.payload()),
        Some("later") => std::panic::panic_any(7),
        _ => partitions.first().copied(),
    });
    let producer = cluster.producer(selector, |_| {}).await;
    for (attribute, said) in
        [("at once", "panicked: no idea where b\"x\" goes"), ("later", "panicked: (no text)")]
    {
        let error = producer.send(message("x").with_attribute(attribute)).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NoPartition, Outcome::NotSent), "L-6");
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(error.into_message(), Some(message("x").with_attribute(attribute)));
        assert!(producer.send(message("x")).await.is_ok());
    }
    assert_eq!(producer.stats().await.messages.not_sent, 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_at_the_second_attempt_stops_nothing_either() {
    let cluster = Cluster::new(1);
    let asked = Arc::new(AtomicUsize::new(0));
    let selector = select_fn({
        let asked = Arc::clone(&asked);
        move |_, partitions, _| {
            assert_ne!(asked.fetch_add(1, SeqCst), 1, "the second time is too much");
            partitions.first().copied()
        }
    });
    let producer = cluster.producer(selector, |_| {}).await;
    let refusals = cluster.brokers[0].faults().plan(Requests::puts().first(1), Fault::refuse(403, "closed"));
    let sent = timeout(SOON, producer.send(message("x"))).await.expect("the message has its outcome");
    let error = sent.unwrap_err();
    assert_eq!((error.kind(), error.attempts().len()), (SendErrorKind::NoPartition, 1));
    assert!(error.to_string().contains("the second time is too much"), "{error}");
    // What sends messages again is alive.
    refusals.cancel();
    cluster.brokers[0].faults().plan(Requests::puts().first(1), Fault::refuse(403, "closed"));
    let sent = timeout(SOON, producer.send(message("x"))).await.expect("the message has its outcome");
    assert_eq!(sent.unwrap().attempts, 2);
    assert_eq!(producer.close(Duration::from_secs(1)).await.unsent, []);
}

#[tokio::test(start_paused = true)]
async fn a_panic_for_a_topic_reaches_whoever_publishes_it() {
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
    let cluster = Cluster::new(1);
    let producer = cluster.producer(Picky, |_| {}).await;
    let publishing = tokio::spawn({
        let producer = producer.clone();
        async move { producer.publish_topic(&Topic::new("other").unwrap()).await }
    });
    assert!(publishing.await.unwrap_err().is_panic());
    assert!(producer.send(message("x")).await.is_ok());
    assert!(!producer.unpublish_topic(&Topic::new("other").unwrap()));
}

/// The arguments of an `observe`.
type Told = (Partition, Duration, Result<(), Outcome>);

/// Counts its calls, and records what it observes.
#[derive(Default)]
struct Witness {
    asked: AtomicUsize,
    asked_again: AtomicUsize,
    observed: Mutex<Vec<Told>>,
    insists: bool,
    panics: bool,
}

struct Shared(Arc<Witness>);

impl PartitionSelector for Shared {
    fn select(&self, _: &Topic, partitions: &[Partition], _: &Message) -> Option<Partition> {
        self.0.asked.fetch_add(1, SeqCst);
        partitions.first().copied()
    }

    fn reselect(
        &self,
        _: &Topic,
        partitions: &[Partition],
        _: &Message,
        unfit: Partition,
    ) -> Option<Partition> {
        self.0.asked_again.fetch_add(1, SeqCst);
        partitions.iter().copied().find(|partition| *partition != unfit).filter(|_| !self.0.insists)
    }

    fn wants_outcomes(&self) -> bool {
        true
    }

    fn observe(&self, partition: Partition, latency: Duration, outcome: Result<(), Outcome>) {
        self.0.observed.lock().unwrap().push((partition, latency, outcome));
        assert!(!self.0.panics, "too much to know");
    }
}

#[tokio::test(start_paused = true)]
async fn every_end_of_an_attempt_is_told_with_what_that_attempt_took() {
    let cluster = Cluster::new(1);
    let witness = Arc::new(Witness { panics: true, ..Witness::default() });
    let one = |config: &mut ProducerConfig| {
        // One at a time, so that the second message waits for capacity.
        config.max_in_flight = 1;
        config.retry.initial_backoff = Duration::from_secs(1);
        config.retry.jitter = Jitter::seeded(1);
    };
    let producer = cluster.producer(Shared(Arc::clone(&witness)), one).await;
    let faults = cluster.brokers[0].faults();
    faults.plan(Requests::puts(), Fault::Late(Duration::from_millis(100)));
    let (first, second) = tokio::join!(producer.send(message("x")), producer.send(message("x")));
    assert!(first.is_ok() && second.is_ok(), "a panic in `observe` changes nothing");
    faults.heal();
    faults.plan(Requests::puts().first(1), Fault::refuse(500, "no"));
    assert_eq!(producer.send(message("x")).await.unwrap_err().outcome(), Outcome::Rejected);
    faults.plan(Requests::puts().first(1), Fault::refuse(503, "busy"));
    let started = Instant::now();
    assert_eq!(producer.send(message("x")).await.unwrap().attempts, 2);
    assert!(started.elapsed() > Duration::from_millis(100), "there was a pause: {:?}", started.elapsed());
    let observed = std::mem::take(&mut *witness.observed.lock().unwrap());
    let outcomes: Vec<_> = observed.iter().map(|(_, _, outcome)| *outcome).collect();
    let rejected = Err(Outcome::Rejected);
    assert_eq!(outcomes, [Ok(()), Ok(()), rejected, rejected, Ok(())]);
    for (partition, latency, _) in &observed[..2] {
        assert_eq!(*partition, Partition::new(0, 0));
        assert!((100..150).contains(&latency.as_millis()), "{latency:?} without the wait for capacity");
    }
    assert!(observed[4].1 < Duration::from_millis(50), "without the attempt before: {:?}", observed[4]);
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_insists_is_asked_twice_and_its_message_waits() {
    let cluster = Cluster::new(2);
    let four = |config: &mut ProducerConfig| config.max_in_flight = 4;
    let witness = Arc::new(Witness { insists: true, ..Witness::default() });
    let producer = cluster.producer(Shared(Arc::clone(&witness)), four).await;
    cluster.brokers[0].faults().freeze();
    let waiting: Vec<_> =
        [producer.try_send(message("x")), producer.try_send(message("x"))].into_iter().collect();
    assert_eq!(producer.try_send(message("x")).unwrap_err().kind(), SendErrorKind::Full);
    assert_eq!((witness.asked.load(SeqCst), witness.asked_again.load(SeqCst)), (3, 1));
    drop(waiting);

    cluster.brokers[0].faults().thaw();
    let witness = Arc::new(Witness::default());
    let producer = cluster.producer(Shared(Arc::clone(&witness)), four).await;
    until(async || producer.partitions(&topic()).len() == 4).await;
    let _two = [producer.try_send(message("x")), producer.try_send(message("x"))];
    // It takes another one: first of the same broker, then of the other.
    let third = producer.enqueue(message("x")).await.unwrap();
    assert!(witness.asked_again.load(SeqCst) > 0);
    drop(third);
}

#[tokio::test(start_paused = true)]
async fn keys_move_only_to_the_broker_that_came() {
    let mut cluster = Cluster::new(2);
    let producer = cluster.producer(RendezvousSelector::new(), |_| {}).await;
    let mut before = BTreeMap::new();
    for key in 0..300 {
        before.insert(key, producer.send(keyed(key)).await.unwrap().partition);
    }
    cluster.brokers.push(broker(&cluster.registry, 2));
    until(async || producer.partitions(&topic()).len() == 6).await;
    let mut moved = 0;
    for (key, old) in &before {
        let new = producer.send(keyed(key)).await.unwrap().partition;
        assert!(new == *old || new.broker.0 == 2, "{key} moved from {old} to {new}");
        moved += usize::from(new != *old);
    }
    assert!((60..140).contains(&moved), "{moved} of 300 moved, about a third should");
}

#[tokio::test(start_paused = true)]
async fn key_stays_with_its_partition_after_failures() {
    let cluster = Cluster::new(2);
    let producer = cluster.producer(KeyHashSelector::new(), |_| {}).await;
    let usual = producer.send(keyed("a")).await.unwrap().partition;
    let faults = cluster.brokers[usual.broker.0 as usize].faults();
    faults.plan(Requests::puts().first(2), Fault::refuse(503, "busy"));
    let receipt = producer.send(keyed("a")).await.unwrap();
    assert_eq!((receipt.partition, receipt.attempts), (usual, 3));
}

#[tokio::test(start_paused = true)]
async fn the_sticky_one_leaves_a_broker_that_fails() {
    let cluster = Cluster::new(2);
    let selector = StickySelector::new().messages(1_000_000).time(Duration::from_secs(1_000_000));
    let producer = cluster.producer(selector, |_| {}).await;
    let first = producer.send(message("x")).await.unwrap().partition;
    assert_eq!(producer.send(message("x")).await.unwrap().partition, first);
    cluster.brokers[first.broker.0 as usize].faults().plan(Requests::puts(), Fault::refuse(503, "busy"));
    let receipt = producer.send(message("x")).await.unwrap();
    assert_ne!(receipt.partition.broker, first.broker);
    assert_eq!(
        producer.send(message("x")).await.unwrap().partition,
        receipt.partition,
        "and stays with the other"
    );
}

#[tokio::test(start_paused = true)]
async fn the_faster_broker_gets_more_until_the_other_is_as_fast() {
    let cluster = Cluster::new(2);
    let producer = cluster.producer(LatencySelector::new(), |_| {}).await;
    let late = |broker: usize, millis| {
        let faults = cluster.brokers[broker].faults();
        faults.heal();
        faults.plan(Requests::puts(), Fault::Late(Duration::from_millis(millis)));
    };
    let share = async || {
        let before = cluster.stored(1);
        for _ in 0..20 {
            let sent = producer.send_all((0..50).map(|_| message("x"))).await;
            assert!(sent.iter().all(Result::is_ok));
        }
        (cluster.stored(1) - before) as f64 / 1000.0
    };
    late(0, 10);
    late(1, 200);
    share().await;
    let slow = share().await;
    assert!((0.01..0.15).contains(&slow), "{slow} of the messages while it takes twenty times as long");
    late(1, 10);
    tokio::time::sleep(Duration::from_secs(5)).await;
    share().await;
    let healed = share().await;
    assert!((0.40..0.60).contains(&healed), "{healed} when both take as long");
}

#[tokio::test(start_paused = true)]
async fn a_fixed_partition_is_waited_for_while_its_broker_is_listed() {
    for ordered in [false, true] {
        let mut cluster = Cluster::new(2);
        cluster.registry.session_timeout(Duration::from_secs(6));
        let producer = cluster.producer(Pinned, |config| config.ordered = ordered).await;
        until(async || producer.partitions(&topic()).len() == 4).await;
        drop(cluster.brokers.pop());
        until(async || producer.partitions(&topic()).len() == 2).await;
        let message = || pinned("1-0", "x");
        assert_eq!(producer.try_send(message()).unwrap_err().kind(), SendErrorKind::NotConnected);
        let error = producer.send_with_timeout(message(), Duration::from_secs(1)).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NotConnected, Outcome::NotSent));

        // The session of its broker ends meanwhile.
        let started = Instant::now();
        let error = producer.send_with_timeout(message(), Duration::from_secs(60)).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NoPartition, Outcome::NotSent));
        assert!((3..7).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
        assert_eq!(error.into_message(), Some(message()));

        cluster.brokers.push(broker(&cluster.registry, 1));
        until(async || producer.partitions(&topic()).len() == 4).await;
        assert_eq!(producer.send(message()).await.unwrap().partition, Partition::new(1, 0));
    }
}
