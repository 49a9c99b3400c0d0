//! The promises of the documentation, to the letter: `enqueue` that is dropped, `flush`, `close`, and the end
//! of a producer.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt as _, future::join_all};
use metaq_producer::{
    BrokerAddr, BrokerId, Message, Outcome, Producer, SendErrorKind, Topic,
    config::Jitter,
    discovery::{MockDiscovery, TopicView},
    selector::select_fn,
    xa::{UniqueQualifier, XaEnd, XaProducer, XaStart},
};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use metaq_transport::{Connection, Transport, TransportError};
use tokio::time::{Instant, sleep, timeout};

use crate::common::{
    cluster::{Cluster, broker_with, builder, builder_with_limits, producer, sum},
    message, topic, until,
};

const PROMPTLY: Duration = Duration::from_millis(10);

/// Offers messages, polls each future this number of times, drops those that are not done, and compares what
/// is stored with what was accepted.
async fn drops_after_polls(cluster: &Cluster, polls: usize, count: usize, len: usize) -> usize {
    let (mut accepted, mut dropped) = (BTreeSet::new(), BTreeSet::new());
    let before: BTreeSet<_> = cluster.stored().into_iter().collect();
    for n in 0..count {
        let payload = format!("{polls} {n} {}", "x".repeat(len));
        let mut offer = Box::pin(cluster.producer.enqueue(message(payload.clone())));
        let mut context = Context::from_waker(Waker::noop());
        let mut done = false;
        for _ in 0..polls {
            if let Poll::Ready(handle) = offer.as_mut().poll(&mut context) {
                drop(handle.unwrap());
                done = true;
                break;
            }
        }
        if done {
            accepted.insert(payload)
        } else {
            dropped.insert(payload)
        };
    }
    cluster.brokers.iter().for_each(|broker| broker.faults().thaw());
    cluster.producer.flush().await;
    until(async || cluster.producer.stats().await.unacknowledged == 0).await;
    let stored: BTreeSet<_> =
        cluster.stored().into_iter().filter(|payload| !before.contains(payload)).collect();
    let twice: Vec<_> = stored.intersection(&dropped).map(|payload| payload.trim_end_matches('x')).collect();
    assert!(twice.is_empty(), "with {polls} polls these were dropped before they were accepted: {twice:?}");
    assert!(stored == accepted, "{} of {} that were accepted are stored", stored.len(), accepted.len());
    dropped.len()
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_enqueue_is_dropped_was_not_accepted() {
    for polls in 1..6 {
        // A write is worth it after 64 KiB.
        for (count, len) in [(100, 2048), (500, 300), (10, 100_000)] {
            let cluster = Cluster::new(2, |_| {}).await;
            let dropped = drops_after_polls(&cluster, polls, count, len).await;
            let counts = cluster.counts().await;
            assert_eq!(counts.offered, sum(counts), "{counts:?}");
            assert_eq!(counts.acknowledged, (count - dropped) as u64, "{counts:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn enqueue_dropped_while_waiting_accepts_nothing() {
    for polls in 1..6 {
        let cluster = Cluster::new(2, |config| config.max_in_flight = 10).await;
        cluster.brokers.iter().for_each(|broker| broker.faults().freeze());
        let dropped = drops_after_polls(&cluster, polls, 50, 10).await;
        assert_eq!(dropped, 40);
    }
}

#[tokio::test(start_paused = true)]
async fn enqueue_dropped_by_a_timeout_repeats_without_duplicates() {
    let cluster = Cluster::new(1, |config| config.max_in_flight_bytes = 400_000).await;
    cluster.brokers[0].faults().plan(Requests::puts(), Fault::Late(Duration::from_millis(3)));
    for n in 0..200 {
        let payload = format!("{n} {}", "x".repeat(4000));
        loop {
            // Time may be up between any two polls.
            let accepted = cluster.producer.enqueue(message(payload.clone())).now_or_never();
            match accepted {
                Some(handle) => break drop(handle.unwrap()),
                None => sleep(Duration::from_millis(1)).await,
            }
        }
    }
    cluster.producer.flush().await;
    assert_eq!(cluster.stored().len(), 200);
}

/// Offers a message each millisecond until the flag is set.
fn steady_load(producer: &Producer, ends: &Arc<AtomicBool>) -> tokio::task::JoinHandle<usize> {
    let (producer, ends) = (producer.clone(), Arc::clone(ends));
    tokio::spawn(async move {
        let mut count = 0;
        while !ends.load(Ordering::Acquire) {
            drop(producer.enqueue(message("load")).await.unwrap());
            count += 1;
            sleep(Duration::from_millis(1)).await;
        }
        count
    })
}

#[tokio::test(start_paused = true)]
async fn flush_under_steady_load_ends_with_what_was_accepted_before() {
    let cluster = Cluster::new(2, |_| {}).await;
    for broker in &cluster.brokers {
        broker.faults().plan(Requests::puts(), Fault::Late(Duration::from_millis(20)));
    }
    let ends = Arc::new(AtomicBool::new(false));
    let load = steady_load(&cluster.producer, &ends);
    sleep(Duration::from_millis(100)).await;
    // An earlier message had a very long timeout.
    let patient = cluster.producer.send_with_timeout(message("patient"), Duration::from_secs(120));
    patient.await.unwrap();
    for _ in 0..10 {
        let before = cluster.producer.enqueue(message("before")).await.unwrap();
        let flushed = timeout(Duration::from_millis(25), cluster.producer.flush()).await;
        assert!(flushed.is_ok(), "what was accepted before takes 20 ms");
        assert!(before.now_or_never().is_some_and(|outcome| outcome.is_ok()), "it had its outcome");
    }
    ends.store(true, Ordering::Release);
    let count = load.await.unwrap();
    cluster.producer.flush().await;
    assert_eq!(cluster.stored().len(), count + 11);
}

#[tokio::test(start_paused = true)]
async fn flush_does_not_wait_for_what_comes_after_it() {
    let cluster = Cluster::new(1, |_| {}).await;
    let producer = &cluster.producer;
    cluster.brokers[0].faults().plan(Requests::puts().only(1), Fault::Late(Duration::from_millis(300)));
    cluster.brokers[0].faults().plan(Requests::puts().only(2), Fault::Late(Duration::from_millis(900)));
    let started = Instant::now();
    let first = producer.enqueue(message("before")).await.unwrap();
    let mut flush = Box::pin(producer.flush());
    assert!(flush.as_mut().now_or_never().is_none());
    let second = producer.enqueue(message("after")).await.unwrap();
    flush.await;
    assert_eq!(started.elapsed().as_millis(), 300);
    assert!(first.now_or_never().is_some());
    second.await.unwrap();
    assert_eq!(started.elapsed().as_millis(), 900);
}

#[tokio::test(start_paused = true)]
async fn several_flushes_each_wait_for_their_own() {
    let cluster = Cluster::new(1, |config| config.connection.stall_after = Duration::from_secs(60)).await;
    let producer = &cluster.producer;
    // Answered in the reverse order.
    let times = [900, 600, 300].map(Duration::from_millis);
    for (n, time) in (1..).zip(times) {
        cluster.brokers[0].faults().plan(Requests::puts().only(n), Fault::Late(time));
    }
    let started = Instant::now();
    let mut flushes = Vec::new();
    for n in 0..3 {
        drop(producer.enqueue(message(n.to_string())).await.unwrap());
        for _ in 0..2 {
            let producer = producer.clone();
            flushes.push(tokio::spawn(async move {
                producer.flush().await;
                started.elapsed()
            }));
        }
        tokio::task::yield_now().await;
    }
    for flush in flushes {
        assert_eq!(flush.await.unwrap().as_millis(), 900, "all of them have the slowest before them");
    }
    // The slowest comes last.
    for (n, time) in (1..).zip(times.iter().rev()) {
        cluster.brokers[0].faults().plan(Requests::puts().only(n), Fault::Late(*time));
    }
    let started = Instant::now();
    let mut took = Vec::new();
    for n in 0..3 {
        drop(producer.enqueue(message(n.to_string())).await.unwrap());
        let producer = producer.clone();
        took.push(tokio::spawn(async move {
            producer.flush().await;
            started.elapsed().as_millis()
        }));
        tokio::task::yield_now().await;
    }
    let took: Vec<_> = join_all(took).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(took, [300, 600, 900]);
}

#[tokio::test(start_paused = true)]
async fn flush_covers_waiting_messages_until_their_deadline() {
    let mut cluster = Cluster::new(1, |config| config.retry.jitter = Jitter::seeded(1)).await;
    let producer = cluster.producer.clone();
    // One that is sent again.
    cluster.brokers[0].faults().plan(Requests::puts().first(2), Fault::refuse(503, "busy"));
    let again = producer.enqueue(message("again")).await.unwrap();
    producer.flush().await;
    assert_eq!(again.now_or_never().unwrap().unwrap().attempts, 3);
    // One that waits for a broker.
    drop(cluster.brokers.pop());
    until(async || producer.partitions(&topic()).is_empty()).await;
    let started = Instant::now();
    let waits = producer.enqueue_with_timeout(message("waits"), Duration::from_millis(400)).await.unwrap();
    producer.flush().await;
    assert_eq!(started.elapsed().as_millis(), 400);
    assert_eq!(waits.now_or_never().unwrap().unwrap_err().outcome(), Outcome::NotSent);
    let started = Instant::now();
    producer.flush().await;
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn at_least_once_keeps_unwritten_messages_past_half_time() {
    let cluster = Cluster::new(1, |config| {
        config.retry.at_least_once = true;
        config.retry.jitter = Jitter::seeded(1);
        config.send_timeout = Duration::from_secs(4);
        config.connection.stall_after = Duration::from_secs(60);
    })
    .await;
    cluster.brokers[0].faults().freeze();
    // More than what is under way on a connection.
    let time = Duration::from_secs(60);
    let large = cluster.producer.enqueue_with_timeout(message("l".repeat(300_000)), time).await.unwrap();
    sleep(PROMPTLY).await;
    let unwritten = cluster.producer.enqueue(message("unwritten")).await.unwrap();
    sleep(Duration::from_secs(3)).await;
    cluster.brokers[0].faults().thaw();
    let receipt = unwritten.await.unwrap();
    large.await.unwrap();
    assert_eq!(cluster.stored().iter().filter(|stored| *stored == "unwritten").count(), 1, "{receipt:?}");
}

/// A broker that is reached at a port of its own choice, without being registered anywhere but in `registry`.
fn broker_at(registry: &EmbeddedRegistry, id: i32, port: u16) -> Broker {
    Broker::builder().id(id).port(port).topic("t", 2).register_with(registry).start_without_port().unwrap()
}

#[tokio::test(start_paused = true)]
async fn moved_id_gives_up_an_address_assigned_to_another() {
    let registry = EmbeddedRegistry::new();
    let (one, two) = (broker_at(&registry, 1, 9001), broker_at(&registry, 2, 9002));
    let mock = MockDiscovery::new();
    let view = |brokers: &[(i32, &BrokerAddr)]| {
        let new = TopicView::new(topic());
        brokers.iter().fold(new, |view, (id, addr)| view.with_broker(BrokerId(*id), (*addr).clone(), 2))
    };
    mock.set(view(&[(0, one.addr())]));
    let nobody = BrokerAddr::new("127.0.0.1", 9009).unwrap();
    let producer = builder(&registry, |_| {}).discovery(mock.clone()).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let receipt = producer.send(message("x")).await.unwrap();
    assert_eq!((receipt.partition.broker.0, &receipt.broker), (0, one.addr()));
    let ids = async || {
        let partitions = producer.partitions(&topic());
        partitions.iter().map(|partition| partition.broker.0).collect::<BTreeSet<_>>()
    };
    // Broker 0 is at an address without a listener, and its former address is that of broker 1.
    mock.set(view(&[(0, &nobody), (1, one.addr())]));
    until(async || ids().await.contains(&1)).await;
    for n in 0..20 {
        let receipt = producer.send(message(n.to_string())).await.unwrap();
        let expected = if receipt.broker == *one.addr() { 1 } else { 0 };
        assert_eq!(receipt.partition.broker.0, expected, "{receipt:?}");
    }
    // Two brokers change places.
    mock.set(view(&[(1, one.addr()), (2, two.addr())]));
    until(async || ids().await == BTreeSet::from([1, 2])).await;
    mock.set(view(&[(2, one.addr()), (1, two.addr())]));
    sleep(Duration::from_secs(2)).await;
    for n in 0..20 {
        let receipt = producer.send(message(n.to_string())).await.unwrap();
        let expected = if receipt.broker == *one.addr() { 2 } else { 1 };
        assert_eq!(receipt.partition.broker.0, expected, "{receipt:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn excess_unpublish_takes_nothing_from_an_xa_producer() {
    for own in 0..3 {
        let registry = EmbeddedRegistry::new();
        let broker = broker_with(&registry, 0, &[("t", 2)]);
        let producer = producer(&registry, |_| {});
        let xa = XaProducer::new(&producer, UniqueQualifier::new("q").unwrap());
        xa.publish_topic(&topic()).await.unwrap();
        for _ in 0..own {
            producer.publish_topic(&topic()).await.unwrap();
        }
        for _ in 0..own {
            assert!(producer.unpublish_topic(&topic()));
        }
        assert!(!producer.unpublish_topic(&topic()), "{own} were the producer's own");
        assert!(!producer.unpublish_topic(&topic()));
        let mut resource = xa.resource().unwrap();
        let xid = xa.xid(1, b"one", b"").unwrap();
        resource.start(&xid, XaStart::New).await.unwrap();
        resource.send(message("in a transaction")).await.unwrap();
        resource.end(&xid, XaEnd::Success).await.unwrap();
        resource.commit(&xid, true).await.unwrap();
        assert_eq!(broker.messages("t").len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_while_the_producer_is_closed_is_told_so() {
    let mut cluster = Cluster::new(1, |_| {}).await;
    let producer = cluster.producer.clone();
    drop(cluster.brokers.pop());
    until(async || producer.partitions(&topic()).is_empty()).await;
    let waits = producer.enqueue(message("waits")).await.unwrap();
    let report = producer.close(Duration::from_millis(100)).await;
    assert_eq!(report.unsent, [message("waits")]);
    let error = waits.await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Closed, Outcome::NotSent), "{error}");
    let error = producer.send(message("late")).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::Closed, "{error}");
}

#[test]
fn whatever_meets_the_close_is_told_so() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    for round in 0..100 {
        // With time for all, and with none.
        let time = Duration::from_secs(20 * (round % 2));
        runtime.block_on(async {
            let cluster = Cluster::new(2, |config| config.max_in_flight = 20).await;
            let senders: Vec<_> = (0..4)
                .map(|n| {
                    let producer = cluster.producer.clone();
                    tokio::spawn(async move {
                        loop {
                            let outcome = match n % 2 {
                                0 => producer.send(message("x")).await.map(drop),
                                _ => match producer.try_send(message("x")) {
                                    Ok(handle) => handle.await.map(drop),
                                    Err(error) => Err(error),
                                },
                            };
                            match outcome.map_err(|error| (error.kind(), error.to_string())) {
                                Ok(()) | Err((SendErrorKind::Full, _)) => tokio::task::yield_now().await,
                                Err((kind, text)) => return (kind, text),
                            }
                        }
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            let report = cluster.producer.close(time).await;
            assert!(time.is_zero() || (report.unknown, report.unsent.len()) == (0, 0), "{report:?}");
            for sender in senders {
                let (kind, text) = sender.await.unwrap();
                assert_eq!(kind, SendErrorKind::Closed, "{text}");
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn message_accepted_just_before_close_ends_as_closed() {
    let registry = EmbeddedRegistry::new();
    let _broker = broker_with(&registry, 0, &[("t", 2)]);
    let (entered, enters) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let gate = parking_lot::Mutex::new(Some((entered, released)));
    let selector = select_fn(move |_, partitions, _| {
        // Only when it is asked for the first time.
        let gate = gate.lock().take();
        if let Some((entered, released)) = gate {
            entered.send(()).unwrap();
            released.recv().unwrap();
        }
        partitions.first().copied()
    });
    let producer = builder(&registry, |_| {}).selector(selector).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let sending = {
        let producer = producer.clone();
        tokio::task::spawn_blocking(move || {
            tokio::runtime::Handle::current().block_on(producer.send(message("just before")))
        })
    };
    tokio::task::spawn_blocking(move || enters.recv().unwrap()).await.unwrap();
    producer.close(Duration::ZERO).await;
    release.send(()).unwrap();
    let error = sending.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Closed, Outcome::NotSent), "{error}");
}

/// Never connects.
#[derive(Debug)]
struct Hanging;

#[async_trait]
impl Transport for Hanging {
    async fn connect(&self, _: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn close_ends_in_time_also_while_a_transport_hangs() {
    let registry = EmbeddedRegistry::new();
    let _broker = broker_with(&registry, 0, &[("t", 2)]);
    let producer = Producer::builder().discovery(registry.discovery()).transport(Hanging).build().unwrap();
    let publishing = {
        let producer = producer.clone();
        tokio::spawn(async move { producer.publish_topic(&topic()).await })
    };
    sleep(PROMPTLY).await;
    let started = Instant::now();
    let time = Duration::from_millis(200);
    let closed = timeout(Duration::from_secs(60), producer.close(time)).await;
    assert!(closed.is_ok(), "closing takes longer than a minute");
    assert!(started.elapsed() <= time + Duration::from_millis(100), "{:?}", started.elapsed());
    assert!(publishing.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn statistics_do_not_wait_for_a_transport_that_hangs() {
    let registry = EmbeddedRegistry::new();
    let _broker = broker_with(&registry, 0, &[("t", 2)]);
    let producer = Producer::builder().discovery(registry.discovery()).transport(Hanging).build().unwrap();
    let publishing = {
        let producer = producer.clone();
        tokio::spawn(async move { producer.publish_topic(&topic()).await })
    };
    sleep(PROMPTLY).await;
    assert!(timeout(PROMPTLY, producer.stats()).await.is_ok());
    let time = Duration::from_millis(100);
    assert!(timeout(time + PROMPTLY, producer.broker_stats(None, time)).await.is_ok());
    publishing.abort();
}

#[tokio::test(start_paused = true)]
async fn topics_with_equal_hashes_are_published_separately() {
    // Two topics over one broker whose connections are limited: unpublishing one leaves the other alone.
    let registry = EmbeddedRegistry::new();
    let broker = broker_with(&registry, 0, &[("t", 1), ("other", 1)]);
    let producer = builder_with_limits(&registry, 4, 1 << 20, |_| {}).build().unwrap();
    let other: Topic = "other".parse().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer.publish_topic(&other).await.unwrap();
    assert!(producer.unpublish_topic(&other));
    assert!(!producer.unpublish_topic(&other));
    producer.send(message("x")).await.unwrap();
    let error = producer.send(Message::new(other, "x")).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::NotPublished);
    assert_eq!(broker.open_connections(), 1);
}
