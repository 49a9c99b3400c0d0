//! Messages that wait for a broker in trouble, offered by tasks that misbehave.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all};
use metaq_producer::{Message, Producer, SendError, SendHandle};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use tokio::{
    task::{JoinSet, yield_now},
    time::{Instant, timeout},
};

use crate::common::{
    cluster::{Pinned, broker_with, builder, counts, in_partition, pinned, sum},
    topic, until,
};
use crate::troubled::{LONG, PATIENCE, Trouble, Troubled};

/// Futures that were polled once and are kept, as by a task on a runtime that isn't driven any more.
#[tokio::test(start_paused = true)]
async fn admitted_but_unpolled_callers_delay_no_other() {
    for absent in [1, 4, 40] {
        let mut troubled = Troubled::new(Trouble::Away, |config| config.max_in_flight = 16).await;
        let mut waiting = troubled.send_to_failing(4, |n| format!("within {n}")).await;
        let producer = troubled.producer.clone();
        let mut kept = Vec::new();
        for n in 0..absent {
            let enqueue = producer.enqueue_with_timeout(pinned("0-0", format!("absent {n}")), LONG);
            let mut enqueue = Box::pin(enqueue);
            assert!((&mut enqueue).now_or_never().is_none());
            kept.push(enqueue);
        }
        waiting.extend(troubled.send_to_failing(20, |n| format!("outside {n}")).await);
        let back = Instant::now();
        troubled.recover();
        let all = timeout(Duration::from_secs(5), join_all(waiting)).await.expect("all are let in");
        for outcome in all {
            outcome.unwrap().unwrap();
        }
        println!("{absent} absent: {:?}", back.elapsed());
        // They are still let in, as soon as they are polled.
        for enqueue in kept {
            enqueue.await.unwrap().await.unwrap();
        }
        let counts = counts(&producer).await;
        assert_eq!(counts.acknowledged, 24 + absent, "{counts:?}");
        assert_eq!(producer.stats().await.unacknowledged, 0);
    }
}

/// Panics when it wakes.
struct Panicking;

impl Wake for Panicking {
    fn wake(self: Arc<Self>) {
        panic!("as always");
    }
}

fn poll_with_panicking_waker<F: Future + Unpin>(future: &mut F) {
    let waker = Waker::from(Arc::new(Panicking));
    assert!(future.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
}

#[tokio::test(start_paused = true)]
async fn refused_message_leaves_wakers_of_others_alone() {
    let mut troubled = Troubled::new(Trouble::Away, |config| {
        config.max_in_flight = 4;
        config.ordered = true;
        config.connection.stall_after = LONG;
    })
    .await;
    let producer = troubled.producer.clone();
    let mut waiting = troubled.send_to_failing(1, |n| format!("waits {n}")).await;
    // All the capacity is taken.
    troubled.working.faults().freeze();
    let send = |partition: &str| producer.send_with_timeout(pinned(partition, "takes capacity"), LONG);
    let mut sends: Vec<_> =
        ["1-0", "1-1", "1-0"].into_iter().map(|partition| Box::pin(send(partition))).collect();
    for send in &mut sends {
        assert!(send.now_or_never().is_none());
    }
    let mut refused = Box::pin(send("0-1"));
    assert!((&mut refused).now_or_never().is_none());
    let mut panicking = Box::pin(send("1-1"));
    poll_with_panicking_waker(&mut panicking);
    let mut behind = Box::pin(send("1-1"));
    assert!((&mut behind).now_or_never().is_none());
    // One gives capacity back, to a message that takes its turn and isn't let in, which gives it back, too.
    drop(sends.pop());
    assert!((&mut refused).now_or_never().is_none());
    troubled.working.faults().heal();
    troubled.recover();
    for sent in sends.into_iter().chain([refused, panicking, behind]) {
        timeout(PATIENCE, sent).await.expect("it has its turn").unwrap();
    }
    for outcome in join_all(waiting.drain(..)).await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(in_partition(troubled.failing.as_ref().unwrap(), "t", 1).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_waker_of_a_flush_that_panics_keeps_nobody_waiting() {
    let troubled = Troubled::new(Trouble::Frozen, |config| {
        config.ordered = true;
        config.connection.stall_after = LONG;
    })
    .await;
    let producer = &troubled.producer;
    let waiting = troubled.send_to_failing(3, |n| format!("waits {n}")).await;
    let mut flush = Box::pin(producer.flush());
    poll_with_panicking_waker(&mut flush);
    troubled.failing.as_ref().unwrap().faults().heal();
    for outcome in timeout(PATIENCE, join_all(waiting)).await.expect("they have their outcomes") {
        outcome.unwrap().unwrap();
    }
    assert_eq!(producer.stats().await.connections.iter().map(|(_, stats)| stats.established).max(), Some(1));
}

const TOPICS: [&str; 3] = ["t", "u", "v"];

type Enqueue<'a> = Pin<Box<dyn Future<Output = Result<SendHandle, SendError>> + Send + 'a>>;

/// A message to a random partition of a random topic, more often to the broker in trouble.
fn random_message(rng: &mut fastrand::Rng) -> Message {
    let topic = TOPICS[rng.usize(..3)].parse().unwrap();
    let partition = format!("{}-{}", i32::from(rng.u8(..4) == 0), rng.u8(..2));
    let length = if rng.u8(..20) == 0 { 30_000 } else { rng.usize(..200) };
    Message::new(topic, "x".repeat(length)).with_key(partition)
}

/// Offers messages in every way, and gives many of them up.
async fn misbehave(producer: Producer, mut rng: fastrand::Rng) {
    let panicking = Waker::from(Arc::new(Panicking));
    let mut kept: Vec<Enqueue<'_>> = Vec::new();
    for _ in 0..300 {
        let (message, time) = (random_message(&mut rng), Duration::from_millis(rng.u64(1..60)));
        match rng.u8(..8) {
            0 => drop(producer.try_send(message)),
            1 => drop(producer.send_with_timeout(message, time).await),
            2 => drop(producer.send_all([message, random_message(&mut rng)]).now_or_never()),
            3 => {
                // Given up while it is let in, maybe.
                let mut enqueue = Box::pin(producer.enqueue_with_timeout(message, time));
                if (&mut enqueue).now_or_never().is_none() {
                    yield_now().await;
                }
            }
            4 => {
                let mut enqueue: Enqueue<'_> = Box::pin(producer.enqueue_with_timeout(message, time));
                if enqueue.poll_unpin(&mut Context::from_waker(&panicking)).is_pending() {
                    kept.push(enqueue);
                }
            }
            5 => {
                if let Some(enqueue) = kept.pop() {
                    drop(enqueue.await);
                }
            }
            6 if rng.u8(..10) == 0 => {
                let topic = "v".parse().unwrap();
                producer.unpublish_topic(&topic);
                producer.publish_topic(&topic).await.unwrap();
            }
            _ => drop(producer.enqueue_with_timeout(message, time).await),
        }
    }
}

/// Freezes, thaws, kills and starts broker 0, and has it refuse, until it is stopped.
async fn trouble(registry: EmbeddedRegistry, is_over: Arc<AtomicBool>, mut rng: fastrand::Rng) -> Broker {
    let topics = TOPICS.map(|topic| (topic, 2));
    let mut broker = broker_with(&registry, 0, &topics);
    while !is_over.load(Ordering::Relaxed) {
        match rng.u8(..6) {
            0 => broker.faults().freeze(),
            1 => broker.faults().close_connections(),
            2 => drop(broker.faults().plan(Requests::puts().first(20), Fault::refuse(503, "busy"))),
            3 => drop(broker.faults().plan(Requests::puts().first(5), Fault::Swallow)),
            4 if rng.bool() => {
                drop(broker);
                yield_now().await;
                broker = broker_with(&registry, 0, &topics);
            }
            _ => broker.faults().heal(),
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(..20))).await;
    }
    broker.faults().heal();
    broker
}

/// After all of it is over nothing is left: neither counts nor capacity, and the quarter can be filled as at
/// first.
#[test]
fn whatever_tasks_and_brokers_do_nothing_is_left_of_it() {
    const MAX_IN_FLIGHT: usize = 12;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    for (seed, ordered) in [(0, false), (1, true), (2, false), (3, true)] {
        runtime.block_on(async {
            let registry = EmbeddedRegistry::new();
            let working = broker_with(&registry, 1, &TOPICS.map(|topic| (topic, 2)));
            let is_over = Arc::new(AtomicBool::new(false));
            let rng = fastrand::Rng::with_seed(seed);
            let failing = tokio::spawn(trouble(registry.clone(), Arc::clone(&is_over), rng));
            let builder = builder(&registry, |config| {
                config.max_in_flight = MAX_IN_FLIGHT;
                config.max_in_flight_bytes = 100_000;
                config.ordered = ordered;
                config.connections_per_broker = 1 + seed as usize % 2;
                config.connection.max_backoff = Duration::from_millis(20);
                config.send_timeout = Duration::from_millis(200);
            });
            let producer = builder.selector(Pinned).build().unwrap();
            for topic in TOPICS {
                producer.publish_topic(&topic.parse().unwrap()).await.unwrap();
            }
            let mut tasks = JoinSet::new();
            for task in 0..8 {
                tasks.spawn(misbehave(producer.clone(), fastrand::Rng::with_seed(100 * seed + task)));
            }
            let all_end = async {
                while let Some(ended) = tasks.join_next().await {
                    ended.unwrap();
                }
            };
            timeout(PATIENCE, all_end).await.expect("all end by their timeouts");
            is_over.store(true, Ordering::Relaxed);
            let failing = failing.await.unwrap();
            timeout(PATIENCE, producer.flush()).await.expect("all have their outcomes");
            until(async || producer.stats().await.unacknowledged == 0).await;
            let stats = producer.stats().await;
            assert_eq!(
                (stats.messages.offered, stats.messages.queued),
                (sum(stats.messages), 0),
                "{stats:?}"
            );
            assert_eq!((stats.messages.in_flight, stats.unacknowledged_bytes), (0, 0), "{stats:?}");
            // Each partition goes on.
            until(async || producer.partitions(&topic()).len() == 4).await;
            for (topic, partition) in
                TOPICS.iter().flat_map(|topic| ["0-0", "0-1", "1-0", "1-1"].map(|at| (topic, at)))
            {
                let message = Message::new(topic.parse().unwrap(), "afterwards").with_key(partition);
                timeout(PATIENCE, producer.send_with_timeout(message, LONG)).await.expect("it goes").unwrap();
            }
            drop(failing);
            until(async || producer.partitions(&topic()).len() == 2).await;
            let mut waiting: Vec<_> = (0..20)
                .map(|n| Box::pin(producer.enqueue_with_timeout(pinned("0-0", format!("{n}")), LONG)))
                .collect();
            let accepted = waiting.iter_mut().filter_map(|waiting| waiting.now_or_never()).count();
            // With an order, the one that has the turn is in another queue than those that wait for it.
            assert_eq!(accepted, MAX_IN_FLIGHT / 4, "no place is lost");
            drop(waiting);
            assert_eq!(
                working.messages("t").iter().filter(|stored| stored.payload == "afterwards").count(),
                2
            );
        });
    }
}

/// The CPU time of this thread, where the system reports it: on a busy machine it is kept waiting in between.
fn cpu_time() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|told| told.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap(), Duration::from_nanos)
}

/// The time in which this number of tasks begins to wait outside and completes.
async fn many_end(count: usize, are_given_up: bool) -> Duration {
    let troubled = Troubled::new(Trouble::Away, |config| config.max_in_flight = 16).await;
    let producer = &troubled.producer;
    let messages: Vec<_> = (0..count).map(|n| pinned("0-0", format!("{n}"))).collect();
    let started = cpu_time();
    let mut outside = Vec::with_capacity(count);
    let mut handles = Vec::new();
    for message in messages {
        let mut enqueue = Box::pin(producer.enqueue(message));
        match (&mut enqueue).now_or_never() {
            Some(handle) => handles.push(handle.unwrap()),
            None => outside.push(enqueue),
        }
    }
    assert_eq!(handles.len(), 4);
    if are_given_up {
        drop(outside);
    } else {
        // Those within end at the same time, so that some are let in.
        for handle in join_all(outside).await.into_iter().flatten() {
            handle.await.unwrap_err();
        }
    }
    let took = cpu_time() - started;
    let counts = counts(producer).await;
    assert_eq!(counts.queued + counts.not_sent, count as u64, "{counts:?}");
    took
}

#[tokio::test(start_paused = true)]
async fn ending_many_blocked_callers_costs_linear_time() {
    for are_given_up in [true, false] {
        let mut each = [500_u32, 5_000].map(|count| (count, Duration::MAX));
        for _ in 0..2 {
            for (count, shortest) in &mut each {
                *shortest = (*shortest).min(many_end(*count as usize, are_given_up).await / *count);
            }
        }
        let [(_, of_few), (_, of_many)] = each;
        println!("given up: {are_given_up}: {of_few:?} and {of_many:?} for each");
        assert!(of_many < of_few * 5, "{of_few:?} and {of_many:?}");
    }
}
