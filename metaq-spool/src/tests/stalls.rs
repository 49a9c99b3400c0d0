//! What could keep messages, or those who close the spool, waiting for ever.

use std::time::Duration;

use metaq_producer::{Message, Outcome, Producer, ProducerConfig, selector::KeyHashSelector};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use tokio::{runtime::Handle, task::JoinHandle, time::Instant};

use super::{SOON, append, finished, message, options, pinned, queue, read, start, topic};
use crate::{
    Fsync, Sent, SpoolEvent, SpoolOptions, SpoolStats, SpoolingProducer, WhenFull, store::memory::MemoryStore,
};

const A_SECOND: Duration = Duration::from_secs(1);

fn producer(registry: &EmbeddedRegistry, change: impl FnOnce(&mut ProducerConfig)) -> Producer {
    let mut config = ProducerConfig::default();
    config.topic_timeout = Duration::from_millis(50);
    config.publish_timeout = Duration::from_millis(200);
    change(&mut config);
    let builder = Producer::builder().discovery(registry.discovery()).transport(registry.transport());
    builder.selector(KeyHashSelector::new()).config(config).build().unwrap()
}

/// A spool over a store in memory, whose producer has the topic, at once or in the background.
async fn open(
    registry: &EmbeddedRegistry,
    options: SpoolOptions,
    store: &MemoryStore,
    change: impl FnOnce(&mut ProducerConfig),
) -> SpoolingProducer {
    let storage = start(&options, store);
    let spool = SpoolingProducer::start(producer(registry, change), options, storage, Handle::current());
    let _ = spool.publish_topic(&topic()).await;
    spool
}

fn broker(registry: &EmbeddedRegistry, partitions: u32) -> Broker {
    Broker::builder().topic("t", partitions).register_with(registry).start_without_port().unwrap()
}

async fn until(mut condition: impl FnMut() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, reached).await.expect("it comes to that");
}

fn payloads(broker: &Broker) -> Vec<String> {
    let messages = broker.messages("t").into_iter();
    messages.map(|message| String::from_utf8(message.payload.to_vec()).unwrap()).collect()
}

/// A broker that is busy, and a spool whose messages are tried for long.
async fn busy(
    registry: &EmbeddedRegistry,
    store: &MemoryStore,
) -> (Broker, SpoolingProducer, metaq_testkit::PlannedFault) {
    let broker = broker(registry, 4);
    let spool = open(registry, options(), store, |config| {
        config.retry.max_attempts = 1000;
        config.send_timeout = SOON;
    });
    let spool = spool.await;
    assert!(matches!(spool.send(message("live")).await, Ok(Sent::Stored(_))));
    let refused = broker.faults().plan(Requests::puts(), Fault::refuse(503, "busy"));
    (broker, spool, refused)
}

/// Fails unless all were spooled, except for those that may be stored.
async fn assert_spooled(tasks: Vec<JoinHandle<Result<Sent, crate::SpoolSendError>>>) {
    for task in tasks {
        match task.await.unwrap() {
            Ok(Sent::Spooled(_)) => {}
            Err(error) if error.outcome() == Outcome::Unknown => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn close_while_awaited(size: usize, count: usize) {
    let (registry, store) = (EmbeddedRegistry::new(), MemoryStore::default());
    let (_broker, spool, refused) = busy(&registry, &store).await;
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let spool = spool.clone();
            tokio::spawn(async move { spool.send(message("x".repeat(size))).await })
        })
        .collect();
    until(|| refused.met() >= count as u64).await;
    spool.close(Duration::ZERO).await;
    assert_spooled(tasks).await;
}

#[tokio::test]
async fn closing_spools_messages_whose_handles_are_awaited() {
    close_while_awaited(10, 3000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn closing_spools_what_other_threads_await() {
    close_while_awaited(10, 3000).await;
}

#[tokio::test]
async fn closing_spools_more_than_may_wait_to_be_written() {
    close_while_awaited(1 << 19, 60).await;
}

#[tokio::test]
async fn closing_spools_what_is_sent_together() {
    let (registry, store) = (EmbeddedRegistry::new(), MemoryStore::default());
    let (_broker, spool, refused) = busy(&registry, &store).await;
    let copy = spool.clone();
    let all = tokio::spawn(async move { copy.send_all((0..500).map(|n| message(n.to_string()))).await });
    until(|| refused.met() >= 500).await;
    spool.close(Duration::ZERO).await;
    for sent in all.await.unwrap() {
        assert!(
            sent.as_ref().is_ok() || sent.as_ref().unwrap_err().outcome() == Outcome::Unknown,
            "{sent:?}"
        );
    }
}

#[tokio::test]
async fn closing_waits_for_forgotten_handles_and_ends() {
    let (registry, store) = (EmbeddedRegistry::new(), MemoryStore::default());
    let (_broker, spool, refused) = busy(&registry, &store).await;
    let forgotten = spool.enqueue(message("forgotten")).await.unwrap();
    until(|| refused.met() > 0).await;
    let began = Instant::now();
    spool.close(Duration::ZERO).await;
    assert!(began.elapsed() >= 3 * A_SECOND && began.elapsed() < SOON, "{:?}", began.elapsed());
    forgotten.await.unwrap_err();
}

#[tokio::test]
async fn closing_and_flushing_wait_for_no_interval() {
    let (registry, store) = (EmbeddedRegistry::new(), MemoryStore::default());
    let mut options = options();
    (options.fsync, options.ordered) = (Fsync::Interval(Duration::from_secs(3600)), true);
    let spool = open(&registry, options, &store, |_| ()).await;
    drop(spool.enqueue(pinned("a", 0)).await.unwrap());
    tokio::time::timeout(SOON, spool.flush()).await.expect("flushing ends");
    drop(spool.enqueue(pinned("b", 0)).await.unwrap());
    let report = tokio::time::timeout(SOON, spool.close(Duration::ZERO)).await.expect("closing ends");
    assert_eq!(report.waiting, 2);
}

#[tokio::test]
async fn closing_waits_for_no_turn_of_a_slow_replay() {
    let (registry, store) = (EmbeddedRegistry::new(), MemoryStore::default());
    let mut options = options();
    let storage = start(&options, &store);
    for index in 0..30 {
        append(&storage, pinned("x", index)).await.unwrap();
    }
    storage.close();
    options.replay_rate = Some(1);
    let broker = broker(&registry, 30);
    let spool = open(&registry, options.clone(), &store, |_| ()).await;
    until(|| !payloads(&broker).is_empty()).await;
    let began = Instant::now();
    spool.close(A_SECOND).await;
    assert!(began.elapsed() < 5 * A_SECOND, "{:?}", began.elapsed());
    drop(spool);
    assert!(start(&options, &store).common.was_closed);
}

#[tokio::test]
async fn draining_ends_when_the_last_message_is_not_written() {
    let (registry, store) = (EmbeddedRegistry::new(), MemoryStore::default());
    let mut options = options();
    options.fsync = Fsync::Interval(2 * A_SECOND);
    let spool = open(&registry, options, &store, |_| ()).await;
    // What comes next waits for the interval.
    drop(spool.try_send(message("first")).unwrap());
    until(|| spool.stats().waiting == 1).await;
    let broker = broker(&registry, 4);
    until(|| !payloads(&broker).is_empty()).await;
    spool.flush().await;
    drop(broker);
    until(|| spool.stats().waiting == 0 && spool.producer().partitions(&topic()).is_empty()).await;
    store.0.lock().is_full = true;
    let handle = spool.try_send(message("a")).unwrap();
    let began = Instant::now();
    assert_eq!(spool.drain(SOON).await, 0);
    assert!(began.elapsed() < SOON);
    assert!(handle.await.is_err());
}

#[tokio::test]
async fn an_absent_partition_stops_no_other_in_order() {
    let (registry, store) = (EmbeddedRegistry::new(), MemoryStore::default());
    let mut options = options();
    options.ordered = true;
    let spool = open(&registry, options, &store, |config| config.send_timeout = A_SECOND / 4).await;
    spool.send(pinned("nowhere", 99)).await.unwrap();
    spool.send(message("early")).await.unwrap();
    let broker = broker(&registry, 4);
    until(|| spool.stats().waiting == 1).await;
    assert_eq!(payloads(&broker), ["early"]);
    for n in 0..5 {
        let sent = spool.send(message(n.to_string())).await.unwrap();
        assert!(matches!(sent, Sent::Stored(_)), "{sent:?}");
    }
}

/// Keys of two brokers, of which one comes back, are sent before any is known.
async fn one_of_two_brokers(is_ordered: bool) {
    let (registry, store) = (EmbeddedRegistry::new(), MemoryStore::default());
    let mut options = options();
    options.ordered = is_ordered;
    let spool = open(&registry, options, &store, |config| {
        config.send_timeout = A_SECOND / 4;
        config.partitions.insert(topic(), "0:4;1:4".parse().unwrap());
    });
    let spool = spool.await;
    let keyed = |n: usize, text: &str| Message::new(topic(), format!("{text} {n}")).with_key(format!("k{n}"));
    for n in 0..40 {
        spool.send(keyed(n, "early")).await.unwrap();
    }
    let first = broker(&registry, 4);
    until(|| !payloads(&first).is_empty()).await;
    let of_first = |stats: &SpoolStats| {
        let queues = stats.queues.iter();
        queues.filter(|queue| queue.partition.is_none_or(|partition| partition.broker.0 == 0)).count()
    };
    until(|| of_first(&spool.stats()) == 0).await;
    let early = payloads(&first).len() as u64;
    assert!(early >= 10, "{early}");
    assert_eq!(spool.stats().waiting, 40 - early, "the rest waits for the other one");
    let mut live = 0;
    for n in 0..40 {
        live += u64::from(matches!(spool.send(keyed(n, "live")).await.unwrap(), Sent::Stored(_)));
    }
    assert_eq!(live, early, "the same keys");
    let second = Broker::builder().id(1).topic("t", 4).register_with(&registry).start_without_port().unwrap();
    assert_eq!(spool.drain(SOON).await, 0);
    let all = payloads(&first).len() + payloads(&second).len();
    assert_eq!((all, spool.stats().replayed), (80, 80 - live));
}

#[tokio::test]
async fn keys_of_a_broker_that_is_away_stop_no_other() {
    one_of_two_brokers(false).await;
}

#[tokio::test]
async fn keys_of_a_broker_that_is_away_stop_no_other_in_order() {
    one_of_two_brokers(true).await;
}

#[tokio::test]
async fn messages_that_are_moved_survive_faults_of_the_store() {
    let (registry, store) = (EmbeddedRegistry::new(), MemoryStore::default());
    let mut options = options();
    options.ordered = true;
    let spool = open(&registry, options, &store, |_| ()).await;
    for n in 0..100 {
        spool.send(message(n.to_string()).with_key(format!("k{}", n % 7))).await.unwrap();
    }
    {
        let mut memory = store.0.lock();
        (memory.failing, memory.failing_after_commit) = (0.5, 0.5);
    }
    let broker = broker(&registry, 4);
    until(|| payloads(&broker).len() >= 50).await;
    store.0.lock().failing = 0.0;
    assert_eq!(spool.drain(SOON).await, 0);
    let stored = payloads(&broker);
    assert_eq!(stored.len(), 100);
    for key in 0..7 {
        let of_key: Vec<u64> = stored.iter().map(|n| n.parse().unwrap()).filter(|n| n % 7 == key).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
    let stats = spool.stats();
    assert_eq!((stats.replayed, stats.waiting, stats.waiting_bytes), (100, 0, 0));
}

#[tokio::test]
async fn replay_goes_on_when_what_is_in_flight_is_dropped() {
    let store = MemoryStore::default();
    let mut options = options();
    (options.replay_window, options.max_messages, options.when_full) = (1, 1, WhenFull::DropOldest);
    let storage = start(&options, &store);
    append(&storage, message("a")).await.unwrap();
    let queue = queue(&storage, &message(""));
    let rows = read(&storage, &queue).await.unwrap();
    append(&storage, message("b")).await.unwrap();
    // As replay waits while as many messages may be doubled as is allowed.
    let mut changed = std::pin::pin!(storage.common.changed.notified());
    changed.as_mut().enable();
    storage.finish(&queue, vec![finished(rows[0].0, &rows[0].1)]);
    tokio::time::timeout(SOON, changed).await.expect("replay is woken");
    assert_eq!((queue.unremoved(), queue.held()), (0, 1));
}

#[tokio::test]
async fn live_messages_wait_for_one_that_is_too_old_and_in_flight() {
    let (registry, store) = (EmbeddedRegistry::new(), MemoryStore::default());
    let mut options = options();
    (options.ordered, options.max_age) = (true, Some(3 * A_SECOND));
    let spool = open(&registry, options, &store, |config| {
        config.send_timeout = 2 * SOON;
        config.retry.max_attempts = u32::MAX;
        config.retry.max_backoff = Duration::from_millis(20);
    });
    let spool = spool.await;
    assert!(matches!(spool.send(pinned("old", 0)).await, Ok(Sent::Spooled(_))));
    let broker = broker(&registry, 4);
    let refused = broker.faults().plan(Requests::puts(), Fault::refuse(503, "busy"));
    until(|| refused.met() > 0).await;
    until(|| spool.stats().waiting == 0).await;
    let before = refused.met();
    until(|| refused.met() > before).await;
    broker.faults().heal();
    spool.send(pinned("new", 0)).await.unwrap();
    until(|| payloads(&broker).iter().any(|payload| payload == "new")).await;
    assert_ne!(payloads(&broker), ["new", "old"]);
    assert_ne!(payloads(&broker), ["new"], "the old one is on its way");
}

#[tokio::test]
async fn what_is_behind_a_message_set_aside_waits_for_the_disk() {
    let (registry, store) = (EmbeddedRegistry::new(), MemoryStore::default());
    let mut options = options();
    options.ordered = true;
    let spool = open(&registry, options, &store, |_| ()).await;
    for payload in ["refused", "good"] {
        assert!(matches!(spool.send(pinned(payload, 0)).await, Ok(Sent::Spooled(_))));
    }
    store.0.lock().keeps_messages = true;
    let mut events = spool.events();
    let broker = broker(&registry, 1);
    broker.faults().plan(Requests::puts().first(1), Fault::refuse(400, "it makes no sense"));
    while !matches!(events.next().await.unwrap(), SpoolEvent::StoreFailed { .. }) {}
    // If the process ended here, the next one would send "refused" again.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(payloads(&broker).is_empty(), "{:?}", payloads(&broker));
    store.0.lock().heal();
    until(|| payloads(&broker) == ["good"]).await;
    until(|| spool.stats().held_aside == 1 && spool.stats().waiting == 0).await;
    spool.close(Duration::ZERO).await;
}
