//! Every message is accounted for in time: under every fault when the producer is closed, when futures are
//! dropped at any moment, and when the runtime is shut down under load.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use futures_util::future::join_all;
use metaq_producer::{Outcome, Producer, SendError, SendHandle, SendReceipt};
use metaq_testkit::{Broker, Fault, RegistryFault, Requests};
use tokio::{
    runtime,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::common::{
    alone,
    cluster::{Cluster, counts, sum},
    measuring::{figure, in_form},
    message, topic, until,
};

/// The allowance for a message beyond its timeout, and for closing beyond its own. In the short form other
/// work has the machine, too.
fn grace() -> Duration {
    in_form(Duration::from_secs(1), Duration::from_millis(100))
}

/// The fault of a cluster of two brokers.
type Happening = fn(&mut Cluster);

fn plan(cluster: &Cluster, fault: Fault) {
    for broker in &cluster.brokers {
        broker.faults().plan(Requests::puts().with_chance(0.7), fault.clone());
    }
}

fn each(cluster: &Cluster, what: impl Fn(&Broker)) {
    cluster.brokers.iter().for_each(what);
}

const HAPPENINGS: [(&str, Happening); 21] = [
    ("nothing", |_| {}),
    ("a frozen broker", |cluster| cluster.brokers[0].faults().freeze()),
    ("frozen brokers", |cluster| each(cluster, |broker| broker.faults().freeze())),
    ("a broker that is killed", |cluster| drop(cluster.brokers.pop())),
    ("brokers that are killed", |cluster| cluster.brokers.clear()),
    ("closed connections", |cluster| each(cluster, |broker| broker.faults().close_connections())),
    ("refused connections", |cluster| {
        each(cluster, |broker| {
            broker.faults().refuse_connections(true);
            broker.faults().close_connections();
        });
    }),
    ("cut connections", |cluster| each(cluster, |broker| broker.faults().cut(None, 700))),
    ("403", |cluster| plan(cluster, Fault::refuse(403, "closed"))),
    ("404", |cluster| plan(cluster, Fault::refuse(404, "no"))),
    ("500", |cluster| plan(cluster, Fault::refuse(500, "no"))),
    ("503", |cluster| plan(cluster, Fault::refuse(503, "busy"))),
    ("no answers", |cluster| plan(cluster, Fault::Swallow)),
    ("requests that are lost", |cluster| plan(cluster, Fault::Ignore)),
    ("late answers", |cluster| plan(cluster, Fault::Late(Duration::from_millis(450)))),
    ("garbage", |cluster| plan(cluster, Fault::Garbage(30))),
    ("answers that come twice", |cluster| plan(cluster, Fault::Twice)),
    ("answers that are cut", |cluster| plan(cluster, Fault::Cut(10))),
    ("a registry that is gone", |cluster| cluster.registry.add_fault(RegistryFault::Unreachable)),
    ("an empty registry", |cluster| cluster.registry.add_fault(RegistryFault::Empty)),
    ("a wrong address", |cluster| {
        cluster.registry.add_fault(RegistryFault::WrongAddress(metaq_producer::BrokerId(0)));
    }),
];

/// Counts outcomes: acknowledged, unknown, rejected, not sent.
fn tell(outcomes: &[(String, Result<SendReceipt, SendError>)]) -> [u64; 4] {
    let mut told = [0; 4];
    for (_, outcome) in outcomes {
        told[match outcome.as_ref().map_err(SendError::outcome) {
            Ok(_) => 0,
            Err(Outcome::Unknown) => 1,
            Err(Outcome::Rejected) => 2,
            Err(Outcome::NotSent) => 3,
        }] += 1;
    }
    told
}

/// Compares outcomes with what brokers hold, of which those are that still are there.
fn compare(cluster: &Cluster, outcomes: &[(String, Result<SendReceipt, SendError>)], at_least_once: bool) {
    let mut stored: HashMap<String, usize> = HashMap::new();
    cluster.stored().into_iter().for_each(|text| *stored.entry(text).or_default() += 1);
    let is_there =
        |receipt: &SendReceipt| cluster.brokers.iter().any(|broker| *broker.addr() == receipt.broker);
    for (text, outcome) in outcomes {
        let times = stored.get(text).copied().unwrap_or(0);
        match outcome.as_ref().map_err(SendError::outcome) {
            Ok(receipt) if is_there(receipt) => {
                assert!(times == 1 || at_least_once && times > 1, "{text}: {times}")
            }
            Ok(_) | Err(Outcome::Unknown) => assert!(times <= 1 || at_least_once, "{text}: {times}"),
            Err(_) => assert_eq!(times, 0, "{text}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn closing_under_any_fault_accounts_for_every_message_in_time() {
    let _alone = alone().await;
    let mut rng = Rng::with_seed(1);
    let (mut closings, mut latest, mut all) = (0, Duration::ZERO, [0; 4]);
    for round in 0..in_form(3, 60) {
        for (name, happen) in HAPPENINGS {
            let (ordered, at_least_once) = (round % 3 == 1, round % 3 == 2);
            let mut cluster = Cluster::new(2, |config| {
                config.max_in_flight = 100;
                config.ordered = ordered;
                config.retry.at_least_once = at_least_once;
            })
            .await;
            let producer = cluster.producer.clone();
            let send = |text: String| {
                let producer = producer.clone();
                tokio::spawn(async move {
                    let outcome =
                        producer.send_with_timeout(message(text.clone()), Duration::from_secs(2)).await;
                    (text, outcome)
                })
            };
            // Some before and some after it happens; the last ones have to wait for capacity.
            let mut sends: Vec<_> = (0..rng.usize(..60)).map(|n| send(format!("before {n}"))).collect();
            sleep(Duration::from_millis(rng.u64(..3))).await;
            happen(&mut cluster);
            sends.extend((0..130).map(|n| send(format!("after {n}"))));
            sleep(Duration::from_millis(rng.u64(..1_500))).await;

            let time = Duration::from_millis(rng.u64(..1_000));
            let (before, started) = (counts(&producer).await, Instant::now());
            let report = producer.close(time).await;
            let took = started.elapsed();
            latest = latest.max(took.saturating_sub(time));
            assert!(took <= time + Duration::from_millis(100), "{name}: {took:?} of {time:?}");
            // Their tasks take no time to see it.
            let outcomes = timeout(Duration::from_millis(1), join_all(sends)).await.expect("all have ended");
            let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
            let told = tell(&outcomes);
            let after = counts(&producer).await;
            assert_eq!(
                (after.offered, sum(after)),
                (outcomes.len() as u64, outcomes.len() as u64),
                "{name}: {after:?}"
            );
            assert_eq!(told, [after.acknowledged, after.unknown, after.rejected, after.not_sent], "{name}");
            let meanwhile = [report.acknowledged, report.unknown, report.rejected].iter().sum::<u64>();
            let expected = after.acknowledged + after.unknown + after.rejected
                - (before.acknowledged + before.unknown + before.rejected);
            assert_eq!(meanwhile, expected, "{name}: {report:?}");
            // Those that waited for capacity were never the producer's: they have their error only.
            assert!(report.unsent.len() as u64 <= after.not_sent - before.not_sent, "{name}: {report:?}");
            compare(&cluster, &outcomes, at_least_once);
            all.iter_mut().zip(told).for_each(|(all, told)| *all += told);
            closings += 1;
        }
    }
    figure(format_args!(
        "closed {closings} times under {} faults: {latest:?} after its time at the latest; [acknowledged, unknown, rejected, \
         not sent] = {all:?}, each in the account",
        HAPPENINGS.len(),
    ));
    assert!(all.iter().all(|count| *count > 100), "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn futures_that_are_dropped_at_any_moment_leave_nothing_behind() {
    let _alone = alone().await;
    const TIMEOUT: Duration = Duration::from_millis(500);
    let cluster = Cluster::new(2, |config| config.max_in_flight = 500).await;
    for broker in &cluster.brokers {
        broker.faults().plan(Requests::puts().with_chance(0.02), Fault::Swallow);
        broker.faults().plan(Requests::puts().with_chance(0.05), Fault::refuse(503, "busy"));
        broker.faults().plan(Requests::puts().with_chance(0.3), Fault::Late(Duration::from_millis(3)));
    }
    let (mut rng, count) = (Rng::with_seed(2), in_form(20_000, 200_000));
    let mut dropped = 0;
    for n in 0..count {
        let (producer, patience) = (cluster.producer.clone(), Duration::from_micros(rng.u64(..4_000)));
        let send =
            tokio::spawn(async move { producer.send_with_timeout(message(n.to_string()), TIMEOUT).await });
        match n % 4 {
            0 => send.abort(),
            1 => drop(tokio::spawn(async move {
                sleep(patience).await;
                send.abort();
            })),
            2 => drop(timeout(patience / 100, send).await),
            _ => dropped += usize::from(timeout(patience / 100, send).await.is_err()),
        }
    }
    let last = Instant::now();
    let producer = &cluster.producer;
    until(async || producer.stats().await.unacknowledged == 0 && counts(producer).await.queued == 0).await;
    let took = last.elapsed();
    let counts = counts(producer).await;
    figure(format_args!(
        "{count} sends, dropped at any moment: {counts:?}; all had ended {:?} after the last one's time was up",
        took.saturating_sub(TIMEOUT)
    ));
    assert!(took <= TIMEOUT + grace(), "{took:?}");
    assert_eq!((counts.in_flight, sum(counts)), (0, counts.offered), "{counts:?}");
    let stored = cluster.stored().len() as u64;
    assert!(
        (counts.acknowledged..=counts.acknowledged + counts.unknown).contains(&stored),
        "{stored} {counts:?}"
    );
    assert!(dropped > 0 && counts.not_sent > 0 && counts.unknown > 0, "{counts:?}");
    assert!(producer.send(message("next")).await.is_ok(), "no capacity is lost");
}

/// Sends without a pause until it is stopped.
async fn load(
    producer: Producer,
    name: usize,
    stop: Arc<AtomicBool>,
) -> Vec<(String, Result<SendReceipt, SendError>)> {
    let mut outcomes = Vec::new();
    let mut handles: Vec<(String, SendHandle)> = Vec::new();
    for n in 0.. {
        let text = format!("{name} {n}");
        match producer.enqueue(message(text.clone())).await {
            Ok(handle) => handles.push((text, handle)),
            Err(error) => outcomes.push((text, Err(error))),
        }
        if n % 16 == 15 {
            for (text, handle) in handles.drain(..) {
                outcomes.push((text, handle.await));
            }
            if stop.load(Ordering::Acquire) {
                break;
            }
        }
    }
    for (text, handle) in handles {
        outcomes.push((text, handle.await));
    }
    outcomes
}

#[test]
fn runtime_shutdown_under_load_ends_every_message() {
    let mut rng = Rng::with_seed(3);
    let of_brokers = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _alone = of_brokers.block_on(alone());
    let rounds = in_form(20, 500);
    let (mut latest, mut all) = (Duration::ZERO, [0; 4]);
    for _ in 0..rounds {
        let of_producer =
            runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let cluster = of_brokers.block_on(async { Cluster::unpublished(2, |_| {}) });
        // The producer's own tasks run where the topic is published.
        of_producer.block_on(cluster.producer.publish_topic(&topic())).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let load = |name| of_brokers.spawn(load(cluster.producer.clone(), name, Arc::clone(&stop)));
        let loads: Vec<JoinHandle<_>> = (0..8).map(load).collect();
        let moment = Duration::from_micros(rng.u64(1_000..30_000));
        of_brokers.block_on(async { sleep(moment).await });
        // In every other round no broker can be reached, so that messages wait.
        if rng.bool() {
            each(&cluster, |broker| broker.faults().refuse_connections(true));
            each(&cluster, |broker| broker.faults().close_connections());
            of_brokers.block_on(async { sleep(moment).await });
        }
        if rng.bool() {
            of_producer.shutdown_background();
        } else {
            of_producer.shutdown_timeout(Duration::from_secs(5));
        }
        let ended = Instant::now();
        stop.store(true, Ordering::Release);
        of_brokers.block_on(async {
            let limit = Duration::from_secs(3) + grace();
            let loads = timeout(limit, join_all(loads)).await.expect("every message ends");
            latest = latest.max(ended.elapsed());
            let outcomes: Vec<_> = loads.into_iter().flat_map(Result::unwrap).collect();
            let (told, counts) = (tell(&outcomes), counts(&cluster.producer).await);
            assert_eq!(told, [counts.acknowledged, counts.unknown, counts.rejected, counts.not_sent]);
            assert_eq!((counts.offered, sum(counts)), (outcomes.len() as u64, outcomes.len() as u64));
            // What was written before may come to be stored yet.
            compare(&cluster, &outcomes, false);
            all.iter_mut().zip(told).for_each(|(all, told)| *all += told);
            each(&cluster, |broker| broker.faults().heal());
            // A connection whose task is about to be dropped may still take a message.
            let afterwards = async { while cluster.producer.send(message("afterwards")).await.is_err() {} };
            timeout(limit, afterwards).await.expect("it goes on where it is called");
        });
    }
    figure(format_args!(
        "a runtime shut down under load {rounds} times: all had ended {latest:?} later at the latest; [acknowledged, \
         unknown, rejected, not sent] = {all:?}"
    ));
    assert!(all[0] > 0 && all[3] > 0, "{all:?}");
}
