//! Waiting for capacity at brokers: whichever request returns it, the next in turn goes immediately.

use std::time::Duration;

use futures_util::{FutureExt as _, future::join_all};
use metaq_producer::{
    Message, Outcome, Partition, PartitionSelector, Producer, ProducerConfig, SendErrorKind, Topic,
    transaction::TransactionOptions,
    xa::{UniqueQualifier, XaEnd, XaProducer, XaStart},
};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use tokio::time::{Instant, sleep};

use crate::common::{
    cluster::{Cluster, Pinned, broker, broker_with, builder_with_limits, in_partition, pinned},
    message, topic, until,
};

const PROMPTLY: Duration = Duration::from_millis(10);
const HALF_A_SECOND: Duration = Duration::from_millis(500);

/// One broker whose connection has these limits of requests and bytes, and a producer that has
/// published `t`.
async fn limited(requests: usize, bytes: usize) -> (EmbeddedRegistry, Broker, Producer) {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let producer = builder_with_limits(&registry, requests, bytes, |config| {
        config.connection.stall_after = Duration::from_secs(60);
    });
    let producer = producer.build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    (registry, broker, producer)
}

fn is_between(took: Duration, least: Duration) {
    assert!(took >= least && took <= least + PROMPTLY, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn plain_messages_go_once_an_80_mb_transaction_ends() {
    let cluster = Cluster::new(1, |_| {}).await;
    let producer = cluster.producer.clone();
    let mut transaction = producer.begin(TransactionOptions::new());
    let large = tokio::spawn(async move {
        let messages = (0..80).map(|_| Message::new(topic(), vec![b'x'; 1_000_000]));
        transaction.send_all(messages).await.unwrap();
        sleep(Duration::from_millis(1150)).await;
        transaction.commit().await.unwrap()
    });
    let mut handles = Vec::new();
    while !large.is_finished() {
        handles.push(producer.enqueue(message("meanwhile")).await.unwrap());
        if handles.len() < 500 { tokio::task::yield_now().await } else { sleep(PROMPTLY).await }
    }
    large.await.unwrap();
    for _ in 0..100 {
        handles.push(producer.enqueue(message("afterwards")).await.unwrap());
    }
    let count = handles.len();
    let failed: Vec<_> = join_all(handles).await.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} of {count} plain messages failed: {}", failed.len(), failed[0]);
    assert_eq!(cluster.brokers[0].messages("t").len(), count + 80);
}

#[tokio::test(start_paused = true)]
async fn capacity_of_a_transaction_goes_to_the_next_message() {
    let (_registry, broker, producer) = limited(8, 1 << 20).await;
    let late = broker.faults().plan(Requests::puts().first(8), Fault::Late(HALF_A_SECOND));
    let mut transaction = producer.begin(TransactionOptions::new());
    let transacting = tokio::spawn(async move {
        transaction.send_all((0..8).map(|n| message(format!("part {n}")))).await.unwrap();
        transaction.commit().await.unwrap();
    });
    until(async || late.met() == 8).await;
    let started = Instant::now();
    let outcomes = producer.send_all((0..20).map(|n| message(format!("plain {n}")))).await;
    assert!(started.elapsed() <= HALF_A_SECOND + PROMPTLY, "{:?}", started.elapsed());
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    transacting.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn capacity_of_an_xa_transaction_goes_to_the_next_message() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let producer = builder_with_limits(&registry, 1, 1 << 20, |config| {
        config.connection.stall_after = Duration::from_secs(60);
    });
    let producer = producer.build().unwrap();
    let xa = XaProducer::new(&producer, UniqueQualifier::new("q").unwrap());
    xa.publish_topic(&topic()).await.unwrap();
    let mut resource = xa.resource().unwrap();
    let xid = xa.xid(1, b"one", b"").unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    let late = broker.faults().plan(Requests::puts().first(1), Fault::Late(HALF_A_SECOND));
    let transacting = tokio::spawn(async move {
        resource.send(message("part")).await.unwrap();
        resource.end(&xid, XaEnd::Success).await.unwrap();
        resource.commit(&xid, true).await.unwrap();
    });
    until(async || late.met() == 1).await;
    let started = Instant::now();
    let outcomes = producer.send_all((0..5).map(|n| message(format!("plain {n}")))).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(started.elapsed() <= HALF_A_SECOND + PROMPTLY, "{:?}", started.elapsed());
    transacting.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn capacity_of_a_stats_request_goes_to_the_next_message() {
    let (_registry, broker, producer) = limited(1, 1 << 20).await;
    let late = broker.faults().plan(Requests::stats().first(1), Fault::Late(HALF_A_SECOND));
    let asking = {
        let producer = producer.clone();
        tokio::spawn(async move { producer.broker_stats(None, Duration::from_secs(5)).await })
    };
    until(async || late.met() == 1).await;
    let started = Instant::now();
    let outcomes = producer.send_all((0..5).map(|n| message(format!("plain {n}")))).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(started.elapsed() <= HALF_A_SECOND + PROMPTLY, "{:?}", started.elapsed());
    assert!(asking.await.unwrap()[0].1.is_ok());
}

/// About 850 of 1000 bytes are taken for five seconds; a message of 500 bytes waits at the head, one of 10
/// bytes behind it.
async fn head_that_does_not_fit() -> (EmbeddedRegistry, Broker, Producer) {
    let (registry, broker, producer) = limited(100, 1000).await;
    let late = broker.faults().plan(Requests::puts().first(1), Fault::Late(Duration::from_secs(2)));
    drop(producer.enqueue(message("x".repeat(800))).await.unwrap());
    until(async || late.met() == 1).await;
    (registry, broker, producer)
}

#[tokio::test(start_paused = true)]
async fn a_head_that_expires_lets_the_next_go_at_once() {
    let (_registry, _broker, producer) = head_that_does_not_fit().await;
    let started = Instant::now();
    let head = message("h".repeat(500));
    let head = producer.enqueue_with_timeout(head, Duration::from_millis(300)).await.unwrap();
    let next = producer.enqueue(message("next")).await.unwrap();
    let error = head.await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Full, Outcome::NotSent), "{error}");
    next.await.unwrap();
    is_between(started.elapsed(), Duration::from_millis(300));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_cancelled_lets_the_next_go_at_once() {
    let (_registry, _broker, producer) = head_that_does_not_fit().await;
    let started = Instant::now();
    let mut head = Box::pin(producer.send(message("h".repeat(500))));
    assert!(head.as_mut().now_or_never().is_none());
    let mut next = producer.enqueue(message("next")).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    assert!((&mut next).now_or_never().is_none(), "nobody passes the head");
    drop(head);
    next.await.unwrap();
    is_between(started.elapsed(), Duration::from_millis(200));
}

#[tokio::test(start_paused = true)]
async fn head_withdrawn_with_its_topic_lets_the_next_go() {
    let registry = EmbeddedRegistry::new();
    let broker = broker_with(&registry, 0, &[("t", 1), ("other", 1)]);
    let producer = builder_with_limits(&registry, 100, 1000, |config| {
        config.connection.stall_after = Duration::from_secs(60);
    });
    let producer = producer.build().unwrap();
    let other: Topic = "other".parse().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer.publish_topic(&other).await.unwrap();
    let late = broker.faults().plan(Requests::puts().first(1), Fault::Late(Duration::from_secs(2)));
    drop(producer.enqueue(message("x".repeat(800))).await.unwrap());
    until(async || late.met() == 1).await;
    let head = producer.enqueue(Message::new(other.clone(), "h".repeat(500))).await.unwrap();
    let next = producer.enqueue(message("next")).await.unwrap();
    let started = Instant::now();
    producer.unpublish_topic(&other);
    assert_eq!(head.await.unwrap_err().outcome(), Outcome::NotSent);
    next.await.unwrap();
    assert!(started.elapsed() <= PROMPTLY, "{:?}", started.elapsed());
}

/// Two brokers that take one message at a time: the one with the index `slow` answers after a second, the
/// other after 300 ms.
async fn two_full_brokers(
    slow: usize,
    config: impl FnOnce(&mut ProducerConfig),
) -> (EmbeddedRegistry, Vec<Broker>, Producer) {
    let registry = EmbeddedRegistry::new();
    let brokers: Vec<_> = (0..2).map(|id| broker(&registry, id)).collect();
    let producer = builder_with_limits(&registry, 1, 1 << 20, |all| {
        all.connection.stall_after = Duration::from_secs(60);
        config(all);
    });
    let producer = producer.selector(PinnedOrAny).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let times = [Duration::from_millis(300), Duration::from_secs(1)];
    let late = [0, 1].map(|id| {
        let time = times[usize::from(id == slow)];
        brokers[id].faults().plan(Requests::puts().first(1), Fault::Late(time))
    });
    for id in 0..2 {
        drop(producer.enqueue(pinned(&format!("{id}-0"), "fills")).await.unwrap());
    }
    until(async || late.iter().all(|late| late.met() == 1)).await;
    (registry, brokers, producer)
}

/// Insists where there is a key, and takes any partition where there is none.
struct PinnedOrAny;

impl PartitionSelector for PinnedOrAny {
    fn select(&self, topic: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        Pinned.select(topic, partitions, message).or_else(|| partitions.first().copied())
    }

    fn reselect(
        &self,
        _: &Topic,
        partitions: &[Partition],
        message: &Message,
        unfit: Partition,
    ) -> Option<Partition> {
        if message.key().is_some() {
            return None;
        }
        let at = partitions.iter().position(|partition| *partition == unfit)?;
        partitions.get((at + 1) % partitions.len()).copied()
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_full_brokers_the_first_free_takes_the_message() {
    for slow in 0..2 {
        let (_registry, _brokers, producer) = two_full_brokers(slow, |_| {}).await;
        let started = Instant::now();
        let receipt = producer.send(message("any")).await.unwrap();
        assert_eq!(receipt.partition.broker.0 as usize, 1 - slow);
        is_between(started.elapsed(), Duration::from_millis(299));
    }
}

#[tokio::test(start_paused = true)]
async fn insisting_message_waits_for_its_broker_and_delays_no_other() {
    for slow in 0..2 {
        let (_registry, brokers, producer) = two_full_brokers(slow, |_| {}).await;
        let started = Instant::now();
        let own = producer.enqueue(pinned(&format!("{slow}-1"), "insists")).await.unwrap();
        let other =
            producer.enqueue(pinned(&format!("{}-1", 1 - slow), "insists on the other")).await.unwrap();
        let any = producer.enqueue(message("any")).await.unwrap();
        other.await.unwrap();
        let receipt = any.await.unwrap();
        assert_eq!(receipt.partition.broker.0 as usize, 1 - slow);
        is_between(started.elapsed(), Duration::from_millis(299));
        own.await.unwrap();
        is_between(started.elapsed(), Duration::from_millis(999));
        assert_eq!(in_partition(&brokers[slow], "t", 1), ["insists"]);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_that_wait_for_several_brokers_go_in_their_order() {
    let (_registry, brokers, producer) = two_full_brokers(0, |_| {}).await;
    for broker in &brokers {
        broker.faults().plan(Requests::puts(), Fault::Late(PROMPTLY));
    }
    let mut handles = Vec::new();
    for n in 0..20 {
        handles.push(producer.enqueue(message(format!("{n:02}"))).await.unwrap());
    }
    let (mut at, mut last) = (Vec::new(), Instant::now());
    for handle in handles {
        handle.await.unwrap();
        assert!(Instant::now() >= last);
        last = Instant::now();
        at.push(last);
    }
    let took = *at.last().unwrap() - at[0];
    assert!(took <= Duration::from_millis(500), "{took:?}");
    for broker in &brokers {
        let mut stored = in_partition(broker, "t", 0);
        stored.retain(|payload| payload != "fills");
        assert!(stored.is_sorted(), "{stored:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn topics_that_share_a_full_broker_all_go_on() {
    let names: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
    let registry = EmbeddedRegistry::new();
    let topics: Vec<_> = names.iter().map(|name| (&**name, 2)).collect();
    let broker = broker_with(&registry, 0, &topics);
    let producer = builder_with_limits(&registry, 2, 1 << 20, |config| {
        config.send_timeout = Duration::from_secs(30);
    });
    let producer = producer.build().unwrap();
    for name in &names {
        producer.publish_topic(&name.parse().unwrap()).await.unwrap();
    }
    broker.faults().plan(Requests::puts(), Fault::Late(PROMPTLY));
    let mut handles = Vec::new();
    for n in 0..20 {
        for name in &names {
            let message = Message::new(name.parse().unwrap(), n.to_string());
            handles.push(producer.enqueue(message).await.unwrap());
        }
    }
    // 400 messages, two each 10 ms: half of them after a second.
    sleep(Duration::from_millis(1005)).await;
    for name in &names {
        let stored = broker.messages(name).len();
        assert!((9..=11).contains(&stored), "{name} has {stored} of 20 stored");
    }
    assert!(join_all(handles).await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn a_busy_topic_does_not_starve_another_at_a_full_broker() {
    let registry = EmbeddedRegistry::new();
    let broker = broker_with(&registry, 0, &[("t", 2), ("rare", 2)]);
    let producer = builder_with_limits(&registry, 2, 1 << 20, |_| {}).build().unwrap();
    let rare: Topic = "rare".parse().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer.publish_topic(&rare).await.unwrap();
    broker.faults().plan(Requests::puts(), Fault::Late(PROMPTLY));
    let busy: Vec<_> = (0..20)
        .map(|_| {
            let producer = producer.clone();
            tokio::spawn(async move {
                loop {
                    producer.send(message("busy")).await.unwrap();
                }
            })
        })
        .collect();
    sleep(Duration::from_millis(100)).await;
    for _ in 0..5 {
        let started = Instant::now();
        producer.send(Message::new(rare.clone(), "rare")).await.unwrap();
        // 20 before it, two each 10 ms.
        assert!(started.elapsed() <= Duration::from_millis(130), "{:?}", started.elapsed());
    }
    busy.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn large_messages_and_small_ones_do_not_starve_each_other() {
    let (_registry, broker, producer) = limited(100, 10_000).await;
    broker.faults().plan(Requests::puts(), Fault::Late(PROMPTLY));
    let small: Vec<_> = (0..50)
        .map(|_| {
            let producer = producer.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    producer.send(message("s".repeat(300))).await.unwrap();
                }
            })
        })
        .collect();
    sleep(Duration::from_millis(50)).await;
    for _ in 0..10 {
        let started = Instant::now();
        producer.send(message("l".repeat(8_000))).await.unwrap();
        assert!(started.elapsed() <= Duration::from_millis(60), "{:?}", started.elapsed());
    }
    for task in small {
        task.await.unwrap();
    }
    assert_eq!(broker.messages("t").len(), 50 * 100 + 10);
}

/// [`Pinned`] for messages with a key. Others go to broker 0, or else to broker 1.
struct FirstThenSecond;

impl PartitionSelector for FirstThenSecond {
    fn select(&self, topic: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        Pinned.select(topic, partitions, message).or(Some(Partition::new(0, 0)))
    }

    fn reselect(&self, _: &Topic, _: &[Partition], message: &Message, _: Partition) -> Option<Partition> {
        message.key().is_none().then(|| Partition::new(1, 0))
    }
}

#[tokio::test(start_paused = true)]
async fn with_all_brokers_resting_the_one_with_capacity_is_used() {
    let registry = EmbeddedRegistry::new();
    let (silent, other) = (broker(&registry, 0), broker(&registry, 1));
    let producer = builder_with_limits(&registry, 2, 1 << 20, |config| {
        config.connection.stall_after = Duration::from_secs(60);
        config.retry.max_attempts = 1;
    });
    let producer = producer.selector(FirstThenSecond).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    silent.faults().plan(Requests::puts(), Fault::Ignore);
    let busy = other.faults().plan(Requests::puts(), Fault::refuse(503, "busy"));
    let (short, long) = (Duration::from_millis(100), Duration::from_secs(60));
    let first = producer.enqueue_with_timeout(pinned("0-0", "first"), long).await.unwrap();
    producer.send_with_timeout(pinned("0-0", "overdue"), short).await.unwrap_err();
    // Broker 0 has failed, and is full.
    let second = producer.enqueue_with_timeout(pinned("0-0", "second"), long).await.unwrap();
    producer.send(pinned("1-0", "refused")).await.unwrap_err();
    busy.cancel();
    let started = Instant::now();
    let receipt = producer.try_send(message("free")).unwrap().await.unwrap();
    assert_eq!((&receipt.broker, started.elapsed() <= PROMPTLY), (other.addr(), true));
    drop((first, second));
}
