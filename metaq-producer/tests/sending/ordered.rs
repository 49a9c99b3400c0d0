//! Ordered sending: the order in each partition, what others notice of it, and how long a turn is held.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use metaq_producer::{
    Message, Outcome, Partition, PartitionSelector, ProducerConfig, SendErrorKind, Topic, config::Jitter,
};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::common::{
    cluster::{Cluster, Pinned, broker_with, builder, in_partition, pinned},
    message, topic, until,
};

const PROMPTLY: Duration = Duration::from_millis(10);

/// The given numbers of brokers and of partitions of each, and a producer that keeps the order and sends to
/// [`Pinned`] partitions.
fn pinned_cluster(
    brokers: i32,
    partitions: u32,
    change: impl FnOnce(&mut ProducerConfig),
) -> (EmbeddedRegistry, Vec<Broker>, metaq_producer::Producer) {
    let registry = EmbeddedRegistry::new();
    let brokers = (0..brokers).map(|id| broker_with(&registry, id, &[("t", partitions)])).collect();
    let producer = builder(&registry, |config| {
        config.ordered = true;
        config.retry.jitter = Jitter::seeded(1);
        change(config);
    });
    (registry, brokers, producer.selector(Pinned).build().unwrap())
}

/// Broker 1 stays registered and can't be reached.
async fn takes_away(brokers: &[Broker], producer: &metaq_producer::Producer) {
    brokers[1].faults().refuse_connections(true);
    brokers[1].faults().close_connections();
    until(async || producer.partitions(&topic()).iter().all(|partition| partition.broker.0 == 0)).await;
}

async fn sends_at_once_to_broker_0(producer: &metaq_producer::Producer) {
    for n in 0..100 {
        let started = Instant::now();
        let receipt = producer.send(pinned(&format!("0-{}", n % 2), n.to_string())).await.unwrap();
        assert_eq!(receipt.partition.broker.0, 0);
        assert!(started.elapsed() <= PROMPTLY, "message {n} took {:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn ordered_message_for_an_absent_broker_delays_no_other() {
    let (_registry, brokers, producer) = pinned_cluster(2, 2, |_| {});
    producer.publish_topic(&topic()).await.unwrap();
    takes_away(&brokers, &producer).await;
    let time = Duration::from_secs(60);
    let away: Vec<_> = futures_util::future::join_all(
        (0..3).map(|n| producer.enqueue_with_timeout(pinned("1-0", format!("away {n}")), time)),
    )
    .await;
    sends_at_once_to_broker_0(&producer).await;
    brokers[1].faults().heal();
    for handle in away {
        assert_eq!(handle.unwrap().await.unwrap().partition, Partition::new(1, 0));
    }
    assert_eq!(in_partition(&brokers[1], "t", 0), ["away 0", "away 1", "away 2"]);
}

#[tokio::test(start_paused = true)]
async fn turns_at_a_broker_that_leaves_delay_no_other_broker() {
    let (_registry, brokers, producer) = pinned_cluster(2, 2, |_| {});
    producer.publish_topic(&topic()).await.unwrap();
    brokers[1].faults().freeze();
    let time = Duration::from_secs(60);
    let mut away = Vec::new();
    for n in 0..3 {
        let message = pinned("1-0", format!("away {n}"));
        away.push(producer.enqueue_with_timeout(message, time).await.unwrap());
    }
    // The first is written.
    sleep(PROMPTLY).await;
    takes_away(&brokers, &producer).await;
    sends_at_once_to_broker_0(&producer).await;
    brokers[1].faults().heal();
    let mut outcomes = Vec::new();
    for handle in away {
        outcomes.push(handle.await.map_err(|error| error.outcome()));
    }
    assert!(matches!(outcomes[..], [Err(Outcome::Unknown), Ok(_), Ok(_)]), "{outcomes:?}");
    assert_eq!(in_partition(&brokers[1], "t", 0), ["away 1", "away 2"]);
}

#[tokio::test(start_paused = true)]
async fn ordered_message_for_an_absent_broker_ends_by_its_deadline() {
    let (_registry, brokers, producer) = pinned_cluster(2, 2, |_| {});
    producer.publish_topic(&topic()).await.unwrap();
    takes_away(&brokers, &producer).await;
    let started = Instant::now();
    let error = producer.send_with_timeout(pinned("1-0", "x"), Duration::from_millis(700)).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NotConnected, Outcome::NotSent), "{error}");
    assert_eq!(started.elapsed().as_millis(), 700);
    assert_eq!(error.into_message(), Some(pinned("1-0", "x")));
}

/// Also when little may be in flight in all, and more comes for the silent broker than that, if the selector
/// lets it go elsewhere.
#[tokio::test(start_paused = true)]
async fn turns_at_a_silent_broker_leave_room_for_other_brokers() {
    let cluster = Cluster::new(2, |config| {
        config.ordered = true;
        config.max_in_flight = 64;
    })
    .await;
    let silent_since = 20;
    let mut handles = Vec::new();
    let mut stored = Vec::new();
    for step in 0..60 {
        if step == silent_since {
            cluster.brokers[0].faults().freeze();
        }
        let before = cluster.brokers[1].messages("t").len();
        let until = Instant::now() + Duration::from_millis(100);
        for _ in 0..32 {
            handles.push(cluster.producer.enqueue(message("x")).await.unwrap());
            sleep(Duration::from_millis(3)).await;
        }
        assert!(Instant::now() < until, "step {step}: capacity is waited for");
        tokio::time::sleep_until(until).await;
        stored.push(cluster.brokers[1].messages("t").len() - before);
    }
    assert!(stored[..silent_since].iter().all(|stored| *stored == 16), "half of all: {stored:?}");
    assert!(stored[silent_since + 1..].iter().all(|stored| *stored >= 16), "as before: {stored:?}");
    drop(handles);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_have_its_turn_at_once_is_refused_as_too_much() {
    let cluster = Cluster::new(1, |config| config.ordered = true).await;
    cluster.brokers[0].faults().freeze();
    let handles: Vec<_> = (0..2).map(|_| cluster.producer.try_send(message("x")).unwrap()).collect();
    let error = cluster.producer.try_send(message("one more")).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Full, Outcome::NotSent));
    assert!(error.to_string().contains("others are before it in partition 0-"), "{error}");
    drop(handles);
}

#[tokio::test(start_paused = true)]
async fn a_turn_is_held_until_the_late_answer() {
    let (_registry, brokers, producer) = pinned_cluster(1, 2, |config| {
        config.connection.stall_after = Duration::from_secs(60);
    });
    producer.publish_topic(&topic()).await.unwrap();
    let monitor = brokers[0].monitor_puts();
    brokers[0].faults().plan(Requests::puts().first(1), Fault::Late(Duration::from_secs(2)));
    let started = Instant::now();
    let first = producer.enqueue_with_timeout(pinned("0-0", "1"), Duration::from_millis(500)).await.unwrap();
    let second = producer.enqueue_with_timeout(pinned("0-0", "2"), Duration::from_secs(10)).await.unwrap();
    let error = first.await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::TimedOut, Outcome::Unknown));
    assert_eq!(started.elapsed().as_millis(), 500);
    assert!(producer.send(pinned("0-1", "other partition")).await.is_ok());
    assert!(started.elapsed().as_millis() <= 510);
    second.await.unwrap();
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(2) && took <= Duration::from_secs(2) + PROMPTLY, "{took:?}");
    assert_eq!(monitor.most_unanswered("t", 0), 1);
    assert_eq!(in_partition(&brokers[0], "t", 0), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn unanswered_turn_is_held_until_the_connection_ends() {
    let (_registry, brokers, producer) = pinned_cluster(1, 1, |config| {
        config.connection.stall_after = Duration::from_secs(60);
    });
    producer.publish_topic(&topic()).await.unwrap();
    let monitor = brokers[0].monitor_puts();
    let lost = brokers[0].faults().plan(Requests::puts().first(1), Fault::Swallow);
    let first = producer.enqueue_with_timeout(pinned("0-0", "1"), Duration::from_millis(300)).await.unwrap();
    let impatient =
        producer.enqueue_with_timeout(pinned("0-0", "2"), Duration::from_millis(600)).await.unwrap();
    let patient = producer.enqueue_with_timeout(pinned("0-0", "3"), Duration::from_secs(10)).await.unwrap();
    assert_eq!(first.await.unwrap_err().outcome(), Outcome::Unknown);
    let error = impatient.await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotSent, "it can't be answered in time: {error}");
    assert_eq!((lost.met(), monitor.received("t", 0)), (1, 1));
    brokers[0].faults().close_connections();
    patient.await.unwrap();
    assert_eq!(monitor.most_unanswered("t", 0), 1);
    assert_eq!(in_partition(&brokers[0], "t", 0), ["1", "3"]);
}

#[tokio::test(start_paused = true)]
async fn late_answer_does_not_end_the_turn_of_the_next_attempt() {
    let (_registry, brokers, producer) = pinned_cluster(1, 1, |config| {
        config.connection.stall_after = Duration::from_secs(600);
        config.retry.at_least_once = true;
    });
    producer.publish_topic(&topic()).await.unwrap();
    // It has 20 s for the first attempt, and from 25 s on half of the rest for the second.
    brokers[0].faults().plan(Requests::puts().first(1), Fault::Late(Duration::from_secs(34)));
    brokers[0].faults().plan(Requests::puts().first(1), Fault::Late(Duration::from_secs(600)));
    let handle = producer.enqueue_with_timeout(pinned("0-0", "1"), Duration::from_secs(40)).await.unwrap();
    sleep(Duration::from_secs(33)).await;
    assert_eq!(in_partition(&brokers[0], "t", 0), ["1", "1"], "both attempts are unanswered and timed out");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(in_partition(&brokers[0], "t", 0), ["1", "1"], "the second one still has the turn");
    handle.await.unwrap();
    assert_eq!(in_partition(&brokers[0], "t", 0), ["1", "1", "1"]);
}

#[tokio::test(start_paused = true)]
async fn timed_out_puts_of_a_partition_do_not_pile_up() {
    let (_registry, brokers, producer) = pinned_cluster(1, 2, |config| {
        config.connection.stall_after = Duration::from_secs(60);
    });
    producer.publish_topic(&topic()).await.unwrap();
    let monitor = brokers[0].monitor_puts();
    brokers[0].faults().plan(Requests::puts(), Fault::Late(Duration::from_secs(1)));
    let mut handles = Vec::new();
    for n in 0..40 {
        let time = Duration::from_millis(if n < 20 { 300 } else { 20_000 });
        let message = pinned(&format!("0-{}", n % 2), format!("{n:02}"));
        handles.push(producer.enqueue_with_timeout(message, time).await.unwrap());
    }
    let outcomes = futures_util::future::join_all(handles).await;
    let ended = |with: Outcome| {
        outcomes.iter().filter(|outcome| outcome.as_ref().is_err_and(|error| error.outcome() == with)).count()
    };
    assert_eq!((ended(Outcome::Unknown), ended(Outcome::NotSent), ended(Outcome::Rejected)), (2, 18, 0));
    for index in 0..2 {
        assert_eq!(monitor.most_unanswered("t", index), 1);
        assert!(in_partition(&brokers[0], "t", index).is_sorted());
    }
}

#[tokio::test(start_paused = true)]
async fn messages_for_a_closed_partition_go_to_others() {
    let cluster = Cluster::new(2, |config| {
        config.ordered = true;
        config.retry.jitter = Jitter::seeded(1);
    })
    .await;
    cluster.brokers[0].close_partition(topic(), 1);
    let outcomes = cluster.producer.send_all((0..100).map(|n| message(format!("{n:02}")))).await;
    let rejected = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    assert_eq!(rejected, 0);
    assert_eq!(cluster.stored().len(), 100);
    assert_eq!(in_partition(&cluster.brokers[0], "t", 1), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_opened_again_is_used_again() {
    let cluster = Cluster::new(2, |config| {
        config.ordered = true;
        config.retry.jitter = Jitter::seeded(1);
    })
    .await;
    cluster.brokers[0].close_partition(topic(), 1);
    for n in 0..20 {
        cluster.producer.send(message(n.to_string())).await.unwrap();
    }
    cluster.brokers[0].open_partition(topic(), 1);
    // The longest time for which a refused partition is left alone.
    sleep(Duration::from_secs(11)).await;
    for n in 0..20 {
        cluster.producer.send(message(n.to_string())).await.unwrap();
    }
    assert_ne!(in_partition(&cluster.brokers[0], "t", 1), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn insisting_on_a_closed_partition_rejects_in_order() {
    let (_registry, brokers, producer) = pinned_cluster(1, 2, |_| {});
    producer.publish_topic(&topic()).await.unwrap();
    let monitor = brokers[0].monitor_puts();
    brokers[0].close_partition(topic(), 0);
    let ended = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for n in 0..4 {
        let message = pinned("0-0", n.to_string());
        let handle = producer.enqueue_with_timeout(message, Duration::from_secs(60)).await.unwrap();
        let ended = Arc::clone(&ended);
        tasks.push(tokio::spawn(async move {
            let error = handle.await.unwrap_err();
            ended.lock().push(n);
            error
        }));
    }
    assert!(producer.send(pinned("0-1", "open")).await.is_ok());
    for task in tasks {
        let error = task.await.unwrap();
        assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Rejected, Outcome::Rejected), "{error}");
    }
    assert_eq!(*ended.lock(), [0, 1, 2, 3]);
    assert_eq!(monitor.most_unanswered("t", 0), 1);
    brokers[0].open_partition(topic(), 0);
    assert!(producer.send(pinned("0-0", "opened")).await.is_ok());
}

/// Sends to the partition that the key names, or else to the other one of broker 0.
struct Movable;

impl PartitionSelector for Movable {
    fn select(&self, topic: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        Pinned.select(topic, partitions, message)
    }

    fn reselect(&self, _: &Topic, _: &[Partition], _: &Message, unfit: Partition) -> Option<Partition> {
        Some(Partition::new(0, 1 - unfit.index))
    }
}

#[tokio::test(start_paused = true)]
async fn moved_message_takes_a_new_place_in_its_new_partition() {
    let registry = EmbeddedRegistry::new();
    let broker = broker_with(&registry, 0, &[("t", 2)]);
    let producer = builder(&registry, |config| {
        config.ordered = true;
        config.retry.initial_backoff = Duration::from_millis(1);
        config.retry.max_backoff = Duration::from_millis(1);
        config.send_timeout = Duration::from_secs(30);
    });
    let producer = producer.selector(Movable).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    broker.close_partition(topic(), 0);
    let monitor = broker.monitor_puts();
    broker.faults().plan(Requests::puts().of_partition(1), Fault::Late(Duration::from_millis(900)));
    let mut handles = vec![
        producer.enqueue(pinned("0-1", "first")).await.unwrap(),
        producer.enqueue(pinned("0-1", "second")).await.unwrap(),
        producer.enqueue(pinned("0-0", "moved")).await.unwrap(),
    ];
    sleep(Duration::from_millis(200)).await;
    handles.push(producer.enqueue(pinned("0-1", "last")).await.unwrap());
    for handle in handles {
        handle.await.unwrap();
    }
    assert_eq!(in_partition(&broker, "t", 1), ["first", "second", "moved", "last"]);
    assert_eq!(monitor.most_unanswered("t", 1), 1);
}

#[tokio::test(start_paused = true)]
async fn publishing_again_keeps_one_in_flight_per_partition() {
    for stays_connected in [true, false] {
        let registry = EmbeddedRegistry::new();
        let broker = broker_with(&registry, 0, &[("t", 1), ("other", 1)]);
        let producer = builder(&registry, |config| {
            config.ordered = true;
            config.send_timeout = Duration::from_secs(30);
            config.connection.stall_after = Duration::from_secs(60);
        });
        let producer = producer.build().unwrap();
        producer.publish_topic(&topic()).await.unwrap();
        if stays_connected {
            producer.publish_topic(&"other".parse().unwrap()).await.unwrap();
        }
        let monitor = broker.monitor_puts();
        broker.faults().plan(Requests::puts(), Fault::Late(Duration::from_millis(900)));
        let first = producer.enqueue(message("1")).await.unwrap();
        until(async || monitor.unanswered("t", 0) == 1).await;
        assert!(producer.unpublish_topic(&topic()));
        producer.publish_topic(&topic()).await.unwrap();
        let second = producer.enqueue(message("2")).await.unwrap();
        first.await.unwrap();
        second.await.unwrap();
        assert_eq!(monitor.most_unanswered("t", 0), 1, "stays connected: {stays_connected}");
        assert_eq!(in_partition(&broker, "t", 0), ["1", "2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_sent_again_keeps_its_turn() {
    let (_registry, brokers, producer) = pinned_cluster(1, 1, |config| config.retry.max_attempts = 10);
    producer.publish_topic(&topic()).await.unwrap();
    let monitor = brokers[0].monitor_puts();
    brokers[0].faults().plan(Requests::puts().first(5), Fault::refuse(503, "busy"));
    let mut handles = Vec::new();
    for n in 0..5 {
        let message = pinned("0-0", n.to_string());
        handles.push(producer.enqueue_with_timeout(message, Duration::from_secs(60)).await.unwrap());
    }
    for handle in handles {
        handle.await.unwrap();
    }
    assert_eq!(monitor.most_unanswered("t", 0), 1);
    assert_eq!(in_partition(&brokers[0], "t", 0), ["0", "1", "2", "3", "4"]);
}

#[tokio::test(start_paused = true)]
async fn expired_or_cancelled_waiter_delays_no_other_turn() {
    let (_registry, brokers, producer) = pinned_cluster(1, 1, |config| {
        config.connection.stall_after = Duration::from_secs(60);
    });
    producer.publish_topic(&topic()).await.unwrap();
    brokers[0].faults().plan(Requests::puts().first(1), Fault::Late(Duration::from_millis(500)));
    let started = Instant::now();
    let first = producer.enqueue(pinned("0-0", "first")).await.unwrap();
    let mut cancelled = Box::pin(producer.send(pinned("0-0", "cancelled")));
    assert!(cancelled.as_mut().now_or_never().is_none());
    let expires =
        producer.enqueue_with_timeout(pinned("0-0", "x"), Duration::from_millis(100)).await.unwrap();
    let next = producer.enqueue(pinned("0-0", "next")).await.unwrap();
    assert_eq!(expires.await.unwrap_err().outcome(), Outcome::NotSent);
    assert_eq!(started.elapsed().as_millis(), 100);
    drop(cancelled);
    first.await.unwrap();
    next.await.unwrap();
    assert!(started.elapsed() <= Duration::from_millis(500) + PROMPTLY);
    assert_eq!(in_partition(&brokers[0], "t", 0), ["first", "next"]);
}

/// Tasks on several threads offer to one partition each, so that the order in which messages are accepted is
/// known, while the brokers except the first lose connections, refuse, freeze for a moment, and answer late.
#[test]
fn order_of_acceptance_survives_lost_connections() {
    const BROKERS: i32 = 3;
    const PARTITIONS: i32 = 4;
    const MESSAGES: usize = 250;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let (_registry, brokers, producer) = pinned_cluster(BROKERS, PARTITIONS as u32, |config| {
            config.send_timeout = Duration::from_secs(20);
            config.retry.max_attempts = 100;
            config.retry.initial_backoff = Duration::from_millis(1);
            config.retry.max_backoff = Duration::from_millis(2);
            config.connection.initial_backoff = Duration::from_millis(2);
            config.connection.max_backoff = Duration::from_millis(4);
            // The connections are ended by the brokers alone.
            config.connection.stall_after = Duration::from_secs(60);
            config.connection.heartbeat_after = Duration::from_secs(60);
        });
        producer.publish_topic(&topic()).await.unwrap();
        let brokers = Arc::new(brokers);
        let monitors: Vec<_> = brokers.iter().map(Broker::monitor_puts).collect();
        let done = Arc::new(AtomicBool::new(false));
        let disturber = tokio::spawn(disturb(Arc::clone(&brokers), Arc::clone(&done)));
        let mut tasks = Vec::new();
        for partition in (0..BROKERS).flat_map(|id| (0..PARTITIONS).map(move |index| (id, index))) {
            let producer = producer.clone();
            tasks.push(tokio::spawn(async move {
                let key = format!("{}-{}", partition.0, partition.1);
                let mut handles = Vec::new();
                for n in 0..MESSAGES {
                    handles.push((n, producer.enqueue(pinned(&key, n.to_string())).await.unwrap()));
                    if n % 20 == 19 {
                        tokio::task::yield_now().await;
                    }
                }
                let mut acknowledged = Vec::new();
                for (n, handle) in handles {
                    match handle.await {
                        Ok(_) => acknowledged.push(n),
                        Err(error) => assert_eq!(error.outcome(), Outcome::Unknown, "{error}"),
                    }
                }
                (partition, acknowledged)
            }));
        }
        for task in tasks {
            let ((id, index), acknowledged) = task.await.unwrap();
            let stored = in_partition(&brokers[id as usize], "t", index);
            let stored: Vec<usize> = stored.iter().map(|text| text.parse().unwrap()).collect();
            let passed: Vec<_> = stored.windows(2).filter(|pair| pair[0] >= pair[1]).collect();
            assert!(passed.is_empty(), "{id}-{index} holds pairs {passed:?}");
            let missing = acknowledged.iter().find(|n| stored.binary_search(n).is_err());
            assert_eq!(missing, None, "{id}-{index}");
            if id == 0 {
                assert_eq!(acknowledged.len(), MESSAGES, "nothing happened to broker 0");
            }
            assert_eq!(monitors[id as usize].most_unanswered("t", index), 1, "{id}-{index}");
        }
        done.store(true, Ordering::Release);
        disturber.await.unwrap();
    });
}

async fn disturb(brokers: Arc<Vec<Broker>>, done: Arc<AtomicBool>) {
    for round in 0..100 {
        if done.load(Ordering::Acquire) {
            break;
        }
        let faults = brokers[1 + round % 2].faults();
        match round / 2 % 4 {
            0 | 2 => faults.close_connections(),
            1 => {
                faults.freeze();
                sleep(Duration::from_millis(2)).await;
                faults.thaw();
            }
            _ => {
                faults.plan(Requests::puts().first(3), Fault::refuse(503, "busy"));
                faults.plan(Requests::puts().first(3), Fault::Late(Duration::from_millis(2)));
            }
        }
        sleep(Duration::from_millis(2)).await;
    }
}
