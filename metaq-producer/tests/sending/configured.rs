//! Configured partitions: what selectors choose from, and what waits for partitions that are not there.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use metaq_producer::{
    Message, Outcome, Partition, PartitionSelector, Producer, ProducerConfig, SendErrorKind, Topic,
    config::PartitionSet,
    selector::{KeyHashSelector, RandomSelector, RendezvousSelector, select_fn},
    transaction::TransactionOptions,
};
use metaq_testkit::{Broker, EmbeddedRegistry};
use tokio::time::{Instant, sleep};

use crate::common::{
    cluster::{Pinned, broker, broker_with, builder, in_partition, pinned},
    message, topic, topic_named, until,
};

const SESSION: Duration = Duration::from_secs(6);

fn keyed(key: impl ToString, payload: impl Into<String>) -> Message {
    message(payload).with_key(key.to_string())
}

fn listed(set: &str) -> PartitionSet {
    set.parse().unwrap()
}

/// Two brokers with two partitions of the topic each, and a registry that forgets the dead after a while.
fn two_brokers() -> (EmbeddedRegistry, Vec<Broker>) {
    let registry = EmbeddedRegistry::new();
    registry.session_timeout(SESSION);
    let brokers = (0..2).map(|id| broker(&registry, id)).collect();
    (registry, brokers)
}

/// A producer by key over these partitions, with all four partitions connected.
async fn by_key(registry: &EmbeddedRegistry, set: PartitionSet, ordered: bool) -> Producer {
    let builder = builder(registry, |config| config.ordered = ordered);
    let producer = builder.selector(KeyHashSelector::new()).partitions(topic(), set).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    until(async || producer.partitions(&topic()).len() == 4).await;
    producer
}

async fn forgotten(registry: &EmbeddedRegistry, id: i32) {
    use metaq_producer::discovery::Discovery as _;
    let watch = registry.discovery().watch(&topic()).await.unwrap();
    until(async || watch.current().brokers().iter().all(|broker| broker.id.0 != id)).await;
}

#[tokio::test(start_paused = true)]
async fn keys_stay_while_their_broker_is_gone() {
    for set in [listed("0:2;1:2"), PartitionSet::ever_named()] {
        for ordered in [false, true] {
            let (registry, mut brokers) = two_brokers();
            let producer = by_key(&registry, set.clone(), ordered).await;
            let mut before = BTreeMap::new();
            for key in 0..40 {
                before.insert(key, producer.send(keyed(key, "before")).await.unwrap().partition);
            }
            let of_1 = *before.iter().find(|(_, partition)| partition.broker.0 == 1).unwrap().0;
            drop(brokers.pop());
            forgotten(&registry, 1).await;
            let waiting =
                producer.enqueue_with_timeout(keyed(of_1, "waits"), Duration::from_secs(60)).await.unwrap();
            let error = producer.send(keyed(of_1, "x")).await.unwrap_err();
            assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NotConnected, Outcome::NotSent));
            assert!(
                error.to_string().contains("the registry doesn't name broker 1 for the topic"),
                "{error}"
            );
            for (key, partition) in &before {
                let now = producer.partition_for(&keyed(key, "")).unwrap();
                assert_eq!(now, *partition, "key {key} has moved");
                if partition.broker.0 == 0 {
                    assert_eq!(producer.send(keyed(key, "x")).await.unwrap().partition, now);
                }
            }
            brokers.push(broker(&registry, 1));
            assert_eq!(waiting.await.unwrap().partition, before[&of_1]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_its_broker_lacks_is_waited_for() {
    for ordered in [false, true] {
        let (registry, brokers) = two_brokers();
        let builder = builder(&registry, |config| config.ordered = ordered).selector(Pinned);
        let producer = builder.partitions(topic(), listed("0:3;1:2")).build().unwrap();
        producer.publish_topic(&topic()).await.unwrap();
        let long = Duration::from_secs(60);
        let waiting = producer.enqueue_with_timeout(pinned("0-2", "waits"), long).await.unwrap();
        let error = producer.send(pinned("0-2", "x")).await.unwrap_err();
        let refused = (SendErrorKind::NotConnected, Outcome::NotSent);
        assert_eq!((error.kind(), error.outcome()), refused, "C-23");
        assert!(error.to_string().contains("the registry doesn't name partition 0-2"), "{error}");
        let error = producer.send(pinned("0-3", "x")).await.unwrap_err();
        assert_eq!(error.kind(), SendErrorKind::NoPartition, "nor is it configured");
        for _ in 0..10 {
            producer.send(pinned("0-1", "at once")).await.unwrap();
        }
        let started = Instant::now();
        brokers[0].set_topic("t", 3);
        assert_eq!(waiting.await.unwrap().partition, Partition::new(0, 2));
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn messages_behind_an_absent_one_have_its_reason() {
    let (registry, brokers) = two_brokers();
    let builder = builder(&registry, |config| config.ordered = true).selector(Pinned);
    let producer = builder.partitions(topic(), listed("0:2;7:1")).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let started = Instant::now();
    let long = Duration::from_secs(60);
    let first = producer.enqueue_with_timeout(pinned("7-0", "first"), long).await.unwrap();
    let second = producer.send(pinned("7-0", "second")).await.unwrap_err();
    assert_eq!((second.kind(), second.outcome()), (SendErrorKind::NotConnected, Outcome::NotSent));
    assert_eq!(started.elapsed(), Duration::from_secs(3), "by its own deadline");
    let broker = broker_with(&registry, 7, &[("t", 1)]);
    assert_eq!(first.await.unwrap().partition, Partition::new(7, 0));
    assert_eq!(in_partition(&broker, "t", 0), ["first"]);
    drop(brokers);
}

#[tokio::test(start_paused = true)]
async fn order_is_that_of_acceptance_with_no_broker_at_all() {
    let registry = EmbeddedRegistry::new();
    let brokers: Vec<_> = (0..2).map(|id| broker(&registry, id)).collect();
    let producer = by_key(&registry, listed("0:2;1:2"), true).await;
    for broker in &brokers {
        broker.faults().refuse_connections(true);
        broker.faults().close_connections();
    }
    until(async || producer.partitions(&topic()).is_empty()).await;
    let mut handles = Vec::new();
    for n in 0..40 {
        let long = Duration::from_secs(60);
        handles.push(producer.enqueue_with_timeout(keyed(n % 5, n.to_string()), long).await.unwrap());
    }
    brokers.iter().for_each(|broker| broker.faults().heal());
    let mut last = BTreeMap::new();
    for (n, handle) in handles.into_iter().enumerate() {
        let receipt = handle.await.unwrap();
        let before = last.insert(n % 5, (receipt.partition, receipt.offset));
        let is_behind = |(partition, offset)| partition == receipt.partition && offset < receipt.offset;
        assert!(before.is_none_or(is_behind), "message {n}: {before:?}, then {receipt:?}");
    }
}

/// However the selector would choose anew.
#[tokio::test(start_paused = true)]
async fn a_message_waits_for_the_absent_partition_chosen_first() {
    for ordered in [false, true] {
        let (registry, _brokers) = two_brokers();
        let builder = builder(&registry, |config| config.ordered = ordered).selector(RandomSelector::new());
        let producer = builder.partitions(topic(), listed("7:1;8:1")).build().unwrap();
        producer.publish_topic(&topic()).await.unwrap();
        let long = Duration::from_secs(60);
        let mut waiting = Vec::new();
        for n in 0..20 {
            waiting.push(producer.enqueue_with_timeout(message(n.to_string()), long).await.unwrap());
        }
        assert_eq!(producer.send(message("x")).await.unwrap_err().kind(), SendErrorKind::NotConnected);
        let late: Vec<_> = [7, 8].map(|id| broker_with(&registry, id, &[("t", 1)])).into();
        for handle in waiting {
            handle.await.unwrap();
        }
        let stored: Vec<_> = late.iter().map(|broker| broker.messages("t").len()).collect();
        assert!(stored.iter().all(|stored| *stored > 0) && stored.iter().sum::<usize>() == 20, "{stored:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_choice_is_one_that_is_there() {
    /// Chooses the second partition, and after each the next one.
    struct SecondThenNext;
    impl PartitionSelector for SecondThenNext {
        fn select(&self, _: &Topic, partitions: &[Partition], _: &Message) -> Option<Partition> {
            partitions.get(1).copied()
        }

        fn reselect(
            &self,
            _: &Topic,
            partitions: &[Partition],
            _: &Message,
            unfit: Partition,
        ) -> Option<Partition> {
            let at = partitions.binary_search(&unfit).unwrap();
            Some(partitions[(at + 1) % partitions.len()])
        }
    }
    for ordered in [false, true] {
        let (registry, mut brokers) = two_brokers();
        let builder = builder(&registry, |config| config.ordered = ordered).selector(SecondThenNext);
        let producer = builder.partitions(topic(), listed("0:2;1:2")).build().unwrap();
        producer.publish_topic(&topic()).await.unwrap();
        drop(brokers.pop());
        until(async || producer.partitions(&topic()).len() == 2).await;
        brokers[0].close_partition("t", 1);
        // Behind 0-1, which refuses, come those of broker 1, which are passed over.
        let receipt = producer.send(message("x")).await.unwrap();
        assert_eq!((receipt.partition, receipt.attempts), (Partition::new(0, 0), 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_chooses_among_partitions_of_its_broker() {
    let (registry, _brokers) = two_brokers();
    let seen = select_fn(|_, partitions, _| {
        assert!(partitions.iter().all(|partition| partition.broker.0 < 2), "{partitions:?}");
        partitions.first().copied()
    });
    let builder = builder(&registry, |_| {}).selector(seen);
    let producer = builder.partitions(topic(), listed("0:2;7:2")).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let mut transaction = producer.begin(TransactionOptions::default());
    transaction.send(message("x")).await.unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn partition_for_says_where_a_message_would_go() {
    let (registry, mut brokers) = two_brokers();
    let selector = select_fn(|_, partitions, message| match message.attribute() {
        Some("nowhere") => None,
        Some("elsewhere") => Some(Partition::new(9, 9)),
        Some("panic") => panic!("not me"),
        _ => partitions.last().copied(),
    });
    let default = |config: &mut ProducerConfig| config.default_topic = Some(topic());
    let producer = builder(&registry, default).selector(selector).build().unwrap();
    let kind = |message: &Message| producer.partition_for(message).unwrap_err().kind();
    assert_eq!(kind(&message("x")), SendErrorKind::NotPublished);
    producer.publish_topic(&topic()).await.unwrap();
    until(async || producer.partitions(&topic()).len() == 4).await;
    assert_eq!(producer.partition_for(&message("x")).unwrap(), Partition::new(1, 1));
    let other = Message::new(topic_named("other"), "x");
    assert_eq!(producer.partition_for(&other).unwrap(), Partition::new(1, 1));
    for (attribute, text) in [
        ("nowhere", "the partition selector refused it"),
        ("elsewhere", "the partition selector chose 9-9, which the topic doesn't have"),
        ("panic", "the partition selector panicked: not me"),
    ] {
        let error = producer.partition_for(&message("x").with_attribute(attribute)).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NoPartition, Outcome::NotSent));
        assert!(error.to_string().contains(text), "{error}");
    }
    let own = message("x").with_partition(Partition::new(0, 1)).with_attribute("panic");
    assert_eq!(producer.partition_for(&own).unwrap(), Partition::new(0, 1));
    assert_eq!(kind(&message("x").with_partition(Partition::new(0, 2))), SendErrorKind::NoPartition);
    // Of a broker that is away; then of none.
    drop(brokers.pop());
    until(async || producer.partitions(&topic()).len() == 2).await;
    let of_1 = message("x").with_partition(Partition::new(1, 0));
    assert_eq!(producer.partition_for(&of_1).unwrap(), Partition::new(1, 0));
    drop(brokers.pop());
    until(async || producer.partitions(&topic()).is_empty()).await;
    assert_eq!(kind(&message("x")), SendErrorKind::NotConnected);
    assert_eq!(producer.partition_for(&own).unwrap(), Partition::new(0, 1));
    assert_eq!(producer.stats().await.messages.offered, 0, "nothing is counted");
    producer.close(Duration::ZERO).await;
    assert_eq!(kind(&message("x")), SendErrorKind::Closed);
}

/// Six threads send by key while a broker dies, is forgotten, and comes back, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn order_by_key_holds_while_brokers_are_forgotten() {
    const KEYS: u32 = 12;
    let registry = EmbeddedRegistry::new();
    registry.session_timeout(Duration::from_millis(20));
    let mut brokers: Vec<_> = (0..2).map(|id| broker(&registry, id)).collect();
    let builder = builder(&registry, |config| config.ordered = true).selector(RendezvousSelector::new());
    let producer = builder.partitions(topic(), listed("0:2;1:2")).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..KEYS)
        .map(|key| {
            let (producer, is_over) = (producer.clone(), Arc::clone(&is_over));
            tokio::spawn(async move {
                let (mut partition, mut stored) = (None, Vec::new());
                for n in 0.. {
                    if is_over.load(SeqCst) {
                        break;
                    }
                    let long = Duration::from_secs(60);
                    match producer.send_with_timeout(keyed(key, format!("{key} {n}")), long).await {
                        Ok(receipt) => {
                            let before = *partition.get_or_insert(receipt.partition);
                            assert_eq!(receipt.partition, before, "key {key} has moved");
                            stored.push(format!("{key} {n}"));
                        }
                        // Its broker was killed while it was in flight.
                        Err(error) => assert_eq!(error.outcome(), Outcome::Unknown, "{error}"),
                    }
                }
                stored
            })
        })
        .collect();
    let mut logs: BTreeMap<Partition, Vec<String>> = BTreeMap::new();
    let mut collect = |broker: &Broker| {
        for stored in broker.messages("t") {
            let payload = String::from_utf8(stored.payload.to_vec()).unwrap();
            let partition = Partition { broker: broker.id(), index: stored.partition.index };
            logs.entry(partition).or_default().push(payload);
        }
    };
    for round in 0..6 {
        let enough = brokers[1].messages("t").len() + 50;
        until(async || brokers[1].messages("t").len() >= enough).await;
        let down = brokers.pop().unwrap();
        collect(&down);
        drop(down.kill().await);
        if round % 2 == 0 {
            forgotten(&registry, 1).await;
        }
        brokers.push(broker(&registry, 1));
        sleep(Duration::from_millis(1)).await;
    }
    is_over.store(true, SeqCst);
    let mut stored = Vec::new();
    for sender in senders {
        stored.extend(sender.await.unwrap());
    }
    assert!(stored.len() > 300, "{}", stored.len());
    brokers.iter().for_each(&mut collect);
    for (partition, log) in &logs {
        let mut last = BTreeMap::new();
        for payload in log {
            let (key, n) = payload.split_once(' ').unwrap();
            let n: u64 = n.parse().unwrap();
            assert!(last.insert(key, n).is_none_or(|before| before < n), "{partition}: {payload} comes late");
        }
    }
}
