//! Everything at once on real threads: plain messages, messages in order, local and XA transactions,
//! statistics, flushes, and topics that are unpublished and published again, while brokers do wrong. For two
//! seconds, or for a minute with `METAQ_RELIABILITY=full`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fastrand::Rng;
use metaq_producer::{
    Message, Outcome, Producer, SendError, SendReceipt,
    transaction::{TransactionOptions, TransactionOutcome},
    xa::{UniqueQualifier, XaEnd, XaErrorCode, XaProducer, XaStart, XaVote},
};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests, Stored};
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::common::{
    cluster::{Pinned, broker_with, builder, in_partition, pinned, sum},
    form::in_form,
    topic_named, until,
};

const BROKERS: usize = 3;
const PARTITIONS: i32 = 2;
/// The allowance for a machine under load.
const SLACK: Duration = Duration::from_secs(10);

/// The required fate of payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stored,
    NotStored,
    /// Stored or not, but not twice.
    Open,
}

#[derive(Default)]
struct Account {
    fates: Mutex<BTreeMap<String, Fate>>,
    receipts: Mutex<Vec<(String, SendReceipt)>>,
    /// Each transaction whose end isn't known: all or nothing.
    wholes: Mutex<Vec<Vec<String>>>,
    offered: [AtomicU64; 2],
}

impl Account {
    fn enter(&self, payload: String, fate: Fate) {
        let known = self.fates.lock().insert(payload, fate);
        assert_eq!(known, None, "a payload is used once");
    }

    fn ended(&self, payload: String, outcome: Result<SendReceipt, SendError>) {
        let fate = match outcome.as_ref().map_err(SendError::outcome) {
            Ok(_) => Fate::Stored,
            Err(Outcome::Unknown) => Fate::Open,
            Err(_) => Fate::NotStored,
        };
        if let Ok(receipt) = outcome {
            self.receipts.lock().push((payload.clone(), receipt));
        }
        self.enter(payload, fate);
    }
}

/// State that all tasks share.
struct Stage {
    brokers: Vec<Broker>,
    /// Without and with order.
    producers: [Producer; 2],
    account: Account,
    ends: AtomicBool,
}

impl Stage {
    async fn new() -> Self {
        let registry = EmbeddedRegistry::new();
        let topics = [("plain", 2), ("again", 2), ("ordered", PARTITIONS as u32)];
        let brokers = (0..BROKERS).map(|id| broker_with(&registry, id as i32, &topics)).collect();
        let producers = [false, true].map(|is_ordered| {
            let builder = builder(&registry, |config| {
                config.ordered = is_ordered;
                config.max_in_flight = 64;
                config.max_in_flight_bytes = 1 << 20;
                config.send_timeout = Duration::from_secs(5);
                config.retry.max_attempts = 50;
                config.retry.initial_backoff = Duration::from_millis(1);
                config.retry.max_backoff = Duration::from_millis(5);
                config.connection.initial_backoff = Duration::from_millis(1);
                config.connection.max_backoff = Duration::from_millis(20);
                if is_ordered {
                    // Connections are ended by the brokers alone, so that nothing is stored after its
                    // connection has ended.
                    config.connection.stall_after = Duration::from_secs(120);
                    config.connection.heartbeat_after = Duration::from_secs(120);
                }
            });
            let builder = if is_ordered { builder.selector(Pinned) } else { builder };
            builder.build().unwrap()
        });
        for name in ["plain", "again"] {
            producers[0].publish_topic(&topic_named(name)).await.unwrap();
        }
        producers[1].publish_topic(&topic_named("ordered")).await.unwrap();
        Self { brokers, producers, account: Account::default(), ends: AtomicBool::new(false) }
    }

    fn goes_on(&self) -> bool {
        !self.ends.load(Ordering::Acquire)
    }

    fn offered(&self, producer: usize) {
        self.account.offered[producer].fetch_add(1, Ordering::AcqRel);
    }

    /// Plain messages, small ones and large ones, in every way to send one.
    async fn sends(self: Arc<Self>, task: usize) {
        let (mut rng, producer) = (Rng::with_seed(task as u64), &self.producers[0]);
        let mut handles = Vec::new();
        for n in 0.. {
            if !self.goes_on() {
                break;
            }
            let payload =
                format!("plain {task} {n} {}", "x".repeat(if rng.u8(..10) == 0 { 50_000 } else { 5 }));
            let name = if rng.u8(..4) == 0 { "again" } else { "plain" };
            let message = Message::new(topic_named(name), payload.clone());
            let time = Duration::from_millis(rng.u64(50..5000));
            match rng.u8(..10) {
                0..4 => {
                    self.offered(0);
                    let sent = timeout(time + SLACK, producer.send_with_timeout(message, time)).await;
                    self.account.ended(payload, sent.expect("a message ends"));
                }
                4 => {
                    self.offered(0);
                    match producer.try_send(message) {
                        Ok(handle) => handles.push((payload, Instant::now(), handle)),
                        Err(error) => self.account.ended(payload, Err(error)),
                    }
                }
                5 => {
                    // Given up somewhere on its way; where it is given up before it is accepted, it may not
                    // be counted.
                    let patience = Duration::from_micros(rng.u64(..2000));
                    let sent = timeout(patience, producer.send_with_timeout(message, time)).await;
                    match sent {
                        Ok(outcome) => self.account.ended(payload, outcome),
                        Err(_) => self.account.enter(payload, Fate::Open),
                    }
                }
                6 => {
                    self.offered(0);
                    match producer.enqueue_with_timeout(message, time).await {
                        Ok(handle) => {
                            drop(handle);
                            self.account.enter(payload, Fate::Open);
                        }
                        Err(error) => self.account.ended(payload, Err(error)),
                    }
                }
                _ => {
                    self.offered(0);
                    match producer.enqueue_with_timeout(message, time).await {
                        Ok(handle) => handles.push((payload, Instant::now(), handle)),
                        Err(error) => self.account.ended(payload, Err(error)),
                    }
                }
            }
            if handles.len() > 20 {
                self.look(&mut handles).await;
            }
        }
        self.look(&mut handles).await;
    }

    async fn look(&self, handles: &mut Vec<(String, Instant, metaq_producer::SendHandle)>) {
        for (payload, _, handle) in handles.drain(..) {
            let outcome = timeout(Duration::from_secs(5) + SLACK, handle).await;
            let outcome = outcome.unwrap_or_else(|_| panic!("{} ends", payload.trim_end_matches('x')));
            self.account.ended(payload, outcome);
        }
    }

    /// Messages for one partition, whose order of acceptance is known.
    async fn sends_in_order(self: Arc<Self>, id: usize, index: i32) {
        let (mut rng, producer) = (Rng::with_seed((id * 10) as u64 + index as u64), &self.producers[1]);
        let mut handles = Vec::new();
        for n in 0.. {
            if !self.goes_on() {
                break;
            }
            let payload = format!("ordered {id}-{index} {n:08} {}", "x".repeat(rng.usize(..2000)));
            let mut message = Message::new(topic_named("ordered"), payload.clone());
            message = message.with_key(pinned(&format!("{id}-{index}"), "").key().unwrap());
            self.offered(1);
            match producer.enqueue(message).await {
                Ok(handle) if rng.u8(..20) == 0 => {
                    drop(handle);
                    self.account.enter(payload, Fate::Open);
                }
                Ok(handle) => handles.push((payload, Instant::now(), handle)),
                Err(error) => self.account.ended(payload, Err(error)),
            }
            if handles.len() > rng.usize(5..30) {
                self.look(&mut handles).await;
            }
        }
        self.look(&mut handles).await;
    }

    /// Local transactions that are committed, rolled back, or dropped.
    async fn transacts(self: Arc<Self>, task: usize) {
        let (mut rng, producer) = (Rng::with_seed(100 + task as u64), &self.producers[0]);
        for n in 0.. {
            if !self.goes_on() {
                break;
            }
            let options = TransactionOptions::new().with_request_timeout(Duration::from_secs(1));
            let (mut transaction, mut parts) = (producer.begin(options), Vec::new());
            let mut is_over = false;
            for part in 0..rng.usize(1..6) {
                let payload = format!("transaction {task} {n} {part}");
                let message = Message::new(topic_named("plain"), payload.clone());
                match timeout(SLACK, transaction.send(message)).await.expect("a step ends") {
                    Ok(_) => parts.push(payload),
                    Err(error) => {
                        self.account.enter(payload, Fate::NotStored);
                        is_over = error.outcome() != TransactionOutcome::Open;
                    }
                }
                if is_over {
                    break;
                }
            }
            let fate = if is_over {
                Fate::NotStored
            } else {
                match rng.u8(..4) {
                    0 => {
                        drop(transaction);
                        Fate::NotStored
                    }
                    1 => {
                        let _ = timeout(SLACK, transaction.rollback()).await.expect("a step ends");
                        Fate::NotStored
                    }
                    _ => match timeout(SLACK, transaction.commit()).await.expect("a step ends") {
                        Ok(_) => Fate::Stored,
                        Err(error) if error.outcome() == TransactionOutcome::Unknown => Fate::Open,
                        Err(_) => Fate::NotStored,
                    },
                }
            };
            if fate == Fate::Open {
                self.account.wholes.lock().push(parts.clone());
            }
            parts.into_iter().for_each(|payload| self.account.enter(payload, fate));
            if is_over {
                sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// XA transactions, which are ended at last whatever happened to them.
    async fn transacts_globally(self: Arc<Self>) {
        let mut rng = Rng::with_seed(200);
        let xa = XaProducer::new(&self.producers[0], UniqueQualifier::new("mixture").unwrap());
        let xa = xa.with_request_timeout(Duration::from_secs(1));
        xa.publish_topic(&topic_named("plain")).await.unwrap();
        // Those that were prepared and not ended, and whether they are to be committed.
        let mut prepared = Vec::new();
        for n in 0.. {
            if !self.goes_on() {
                break;
            }
            let Ok(mut resource) = xa.resource() else {
                sleep(Duration::from_millis(5)).await;
                continue;
            };
            let xid = xa.xid(1, format!("{n}").as_bytes(), b"").unwrap();
            if resource.start(&xid, XaStart::New).await.is_err() {
                sleep(Duration::from_millis(5)).await;
                continue;
            }
            let (mut parts, mut is_sound) = (Vec::new(), true);
            for part in 0..rng.usize(1..4) {
                let payload = format!("xa {n} {part}");
                match resource.send(Message::new(topic_named("plain"), payload.clone())).await {
                    Ok(_) => parts.push(payload),
                    Err(_) => {
                        is_sound = false;
                        parts.push(payload);
                        break;
                    }
                }
            }
            is_sound &= resource.end(&xid, XaEnd::Success).await.is_ok();
            let vote = if is_sound { resource.prepare(&xid).await.ok() } else { None };
            let fate = match vote {
                Some(XaVote::Prepared) => {
                    let commits = rng.bool();
                    let ended = if commits {
                        resource.commit(&xid, false).await
                    } else {
                        resource.rollback(&xid).await
                    };
                    if ended.is_err() {
                        prepared.push((xid.clone(), resource.broker().clone(), commits));
                    }
                    if commits { Fate::Stored } else { Fate::NotStored }
                }
                _ => {
                    // Whether it is prepared or not, it is never committed.
                    let _ = resource.rollback(&xid).await;
                    prepared.push((xid.clone(), resource.broker().clone(), false));
                    Fate::NotStored
                }
            };
            parts.into_iter().for_each(|payload| self.account.enter(payload, fate));
        }
        self.brokers.iter().for_each(|broker| broker.faults().heal());
        for (xid, broker, commits) in prepared {
            let ended = async {
                loop {
                    let Ok(mut resource) = xa.resource_at(&broker) else {
                        sleep(Duration::from_millis(5)).await;
                        continue;
                    };
                    let ended = if commits {
                        resource.commit(&xid, false).await
                    } else {
                        resource.rollback(&xid).await
                    };
                    match ended {
                        Ok(()) => break,
                        // It was ended by the step whose answer was lost.
                        Err(error) if error.code() == XaErrorCode::NOTA => break,
                        Err(_) => sleep(Duration::from_millis(5)).await,
                    }
                }
            };
            timeout(SLACK, ended).await.unwrap_or_else(|_| panic!("{} is ended", xid.as_str()));
        }
    }

    /// Statistics and flushes.
    async fn asks(self: Arc<Self>) {
        while self.goes_on() {
            for producer in &self.producers {
                let stats = timeout(SLACK, producer.stats()).await.expect("statistics are there at once");
                assert!(stats.unacknowledged <= 64);
                let time = Duration::from_millis(100);
                let _ = timeout(SLACK, producer.broker_stats(None, time)).await.expect("questions end");
                timeout(Duration::from_secs(5) + SLACK, producer.flush()).await.expect("a flush ends");
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Unpublishes a topic that others send to, and publishes it again.
    async fn publishes(self: Arc<Self>) {
        let producer = &self.producers[0];
        while self.goes_on() {
            sleep(Duration::from_millis(40)).await;
            assert!(producer.unpublish_topic(&topic_named("again")));
            sleep(Duration::from_millis(2)).await;
            let published = timeout(SLACK + SLACK, producer.publish_topic(&topic_named("again"))).await;
            published.expect("publishing ends").unwrap();
        }
    }

    /// All brokers but the first do wrong.
    async fn does_wrong(self: Arc<Self>) {
        let mut rng = Rng::with_seed(300);
        while self.goes_on() {
            let faults = self.brokers[rng.usize(1..BROKERS)].faults();
            match rng.u8(..7) {
                0 | 1 => faults.close_connections(),
                2 => {
                    faults.freeze();
                    sleep(Duration::from_millis(rng.u64(1..30))).await;
                    faults.thaw();
                }
                3 => {
                    faults.refuse_connections(true);
                    faults.close_connections();
                    sleep(Duration::from_millis(rng.u64(1..30))).await;
                    faults.refuse_connections(false);
                }
                4 => drop(faults.plan(Requests::puts().first(20), Fault::refuse(503, "busy"))),
                5 => drop(faults.plan(Requests::puts().first(20), Fault::Late(Duration::from_millis(10)))),
                _ => {
                    let swallow = faults.plan(Requests::puts().first(1), Fault::Swallow);
                    sleep(Duration::from_millis(5)).await;
                    // What is swallowed ends with its connection, so none may be swallowed later.
                    swallow.cancel();
                    faults.close_connections();
                }
            }
            sleep(Duration::from_millis(rng.u64(1..10))).await;
        }
        self.brokers.iter().for_each(|broker| broker.faults().heal());
    }
}

fn stored(brokers: &[Broker]) -> BTreeMap<String, Vec<Stored>> {
    let mut all: BTreeMap<String, Vec<Stored>> = BTreeMap::new();
    for broker in brokers {
        for stored in ["plain", "again", "ordered"].into_iter().flat_map(|topic| broker.messages(topic)) {
            let payload = String::from_utf8(stored.payload.to_vec()).unwrap();
            all.entry(payload).or_default().push(stored);
        }
    }
    all
}

fn check_stored(stage: &Stage) -> BTreeMap<&'static str, usize> {
    let all = stored(&stage.brokers);
    let mut counts = BTreeMap::new();
    let times = |payload: &str| all.get(payload).map_or(0, Vec::len);
    for (payload, fate) in &*stage.account.fates.lock() {
        let (times, name) = (times(payload), payload.trim_end_matches('x'));
        let kind = payload.split(' ').next().unwrap_or_default();
        let what = match (kind, fate) {
            ("plain", Fate::Stored) => "plain, stored",
            ("ordered", Fate::Stored) => "ordered, stored",
            ("transaction", Fate::Stored) => "transactions, stored",
            ("xa", Fate::Stored) => "xa, stored",
            (_, Fate::Stored) => "stored",
            (_, Fate::NotStored) => "not stored",
            (_, Fate::Open) => "unknown",
        };
        *counts.entry(what).or_default() += 1;
        match fate {
            Fate::Stored => assert_eq!(times, 1, "{name} was acknowledged"),
            Fate::NotStored => assert_eq!(times, 0, "{name} was not to be stored"),
            Fate::Open => assert!(times <= 1, "{name} is stored {times} times"),
        }
    }
    for payload in all.keys() {
        assert!(stage.account.fates.lock().contains_key(payload), "{payload} is somebody's");
    }
    for (payload, receipt) in &*stage.account.receipts.lock() {
        let stored = &all[payload][0];
        let found = (stored.partition, stored.offset, stored.id);
        assert_eq!(found, (receipt.partition, receipt.offset, receipt.message_id), "{receipt:?}");
    }
    for parts in &*stage.account.wholes.lock() {
        let stored = parts.iter().filter(|part| times(part) == 1).count();
        assert!(stored == 0 || stored == parts.len(), "{stored} of {parts:?} are stored");
    }
    for (broker, index) in
        stage.brokers.iter().flat_map(|broker| (0..PARTITIONS).map(move |index| (broker, index)))
    {
        let stored = in_partition(broker, "ordered", index);
        let passed: Vec<_> = stored.windows(2).filter(|pair| pair[0] >= pair[1]).collect();
        assert!(passed.is_empty(), "broker {}: {passed:?}", broker.id());
    }
    counts
}

#[test]
fn everything_at_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let stage = Arc::new(Stage::new().await);
        let monitors: Vec<_> = stage.brokers.iter().map(Broker::monitor_puts).collect();
        let mut tasks = JoinSet::new();
        for task in 0..4 {
            tasks.spawn(Arc::clone(&stage).sends(task));
        }
        for id in 0..BROKERS {
            for index in 0..PARTITIONS {
                tasks.spawn(Arc::clone(&stage).sends_in_order(id, index));
            }
        }
        for task in 0..2 {
            tasks.spawn(Arc::clone(&stage).transacts(task));
        }
        tasks.spawn(Arc::clone(&stage).transacts_globally());
        tasks.spawn(Arc::clone(&stage).asks());
        tasks.spawn(Arc::clone(&stage).publishes());
        tasks.spawn(Arc::clone(&stage).does_wrong());
        sleep(in_form(Duration::from_secs(2), Duration::from_secs(60))).await;
        stage.ends.store(true, Ordering::Release);
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        // Everything is well again, and works.
        for (producer, name, key) in [(0, "plain", None), (0, "again", None), (1, "ordered", Some("1-0"))] {
            let payload = format!("{name} zzz at last");
            let mut message = Message::new(topic_named(name), payload.clone());
            if let Some(key) = key {
                message = message.with_key(key);
            }
            stage.offered(producer);
            let sent = stage.producers[producer].send_with_timeout(message, SLACK).await;
            assert!(sent.is_ok(), "{name}: {sent:?}");
            stage.account.ended(payload, sent);
        }
        for (n, producer) in stage.producers.iter().enumerate() {
            timeout(SLACK, producer.flush()).await.expect("a flush ends");
            let report = producer.close(Duration::from_secs(5)).await;
            assert_eq!((report.unknown, report.unsent.len()), (0, 0), "nothing was left");
            let stats = producer.stats().await;
            let counts = stats.messages;
            assert_eq!(counts.offered, sum(counts), "{counts:?}");
            // What was given up before it was accepted may be counted or not.
            assert!(counts.offered >= stage.account.offered[n].load(Ordering::Acquire), "{counts:?}");
            assert_eq!((counts.queued, counts.in_flight), (0, 0), "{counts:?}");
            assert_eq!((stats.unacknowledged, stats.unacknowledged_bytes), (0, 0));
            let mut total = metaq_producer::stats::MessageCounts::default();
            for topic in &stats.topics {
                assert_eq!(topic.messages.offered, sum(topic.messages), "{topic:?}");
                total.acknowledged += topic.messages.acknowledged;
                let brokers: u64 = topic.brokers.iter().map(|broker| broker.acknowledged).sum();
                assert_eq!(brokers, topic.messages.acknowledged, "{topic:?}");
            }
            assert_eq!(total.acknowledged, counts.acknowledged);
        }
        until(async || stage.brokers.iter().all(|broker| broker.open_connections() == 0)).await;
        for (monitor, broker) in monitors.iter().zip(&stage.brokers) {
            for index in 0..PARTITIONS {
                assert_eq!(monitor.most_unanswered("ordered", index), 1, "broker {}", broker.id());
            }
        }
        let counts = check_stored(&stage);
        println!("{counts:?}");
    });
}
