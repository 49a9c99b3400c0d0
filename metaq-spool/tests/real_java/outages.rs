//! Real Java brokers that are away, or are killed, while a program sends.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metaq_producer::{Message, Outcome, Partition};
use metaq_spool::{Sent, SpoolingProducer};
use metaq_testkit::peers::{Peers, ZooKeeper};
use tokio::time::sleep;

use crate::form::{Account, PATIENCE, broker, open, options, start_again, topic};

/// The messages that are offered without a broker, those until it is back, and all of them.
const AWAY: usize = 400;
const RETURN: usize = 500;
const ALL: usize = 700;

/// What the `n`th message is, and the key and the partition that it names.
fn form(n: usize) -> (Vec<u8>, Option<String>, String, Option<i32>) {
    let mut payload = format!("{n:04}-").into_bytes();
    // Bytes of all values, and no text.
    payload.extend((0..[0, 1, 300, 20_000][n % 4]).map(|at: usize| (at * 7 + n) as u8));
    let attributes = [None, Some(""), Some("ключ=значение 订单 🦀"), Some("a line\r\nand another")];
    let pinned = n.is_multiple_of(3).then_some((n / 3 % 4) as i32);
    (payload, attributes[n / 4 % 4].map(str::to_owned), format!("key {}", n % 7), pinned)
}

fn message(topic: &str, n: usize) -> Message {
    let (payload, attribute, key, pinned) = form(n);
    let mut message = Message::new(crate::form::topic(topic), payload).with_key(key);
    if let Some(attribute) = attribute {
        message = message.with_attribute(attribute);
    }
    if let Some(index) = pinned {
        message = message.with_partition(Partition::new(0, index));
    }
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_spooled_reaches_a_java_consumer_as_it_was() {
    let Some(peers) = Peers::get("what_is_spooled_reaches_a_java_consumer_as_it_was") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let builder = broker(0).topic("plain", 4).topic("ordered", 4);
    let mut broker = builder.start(&peers, &zookeeper).await.unwrap();
    broker.shut_down().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut spools = Vec::new();
    for name in ["plain", "ordered"] {
        let options = options(&folder.path().join(name), name == "ordered");
        let spool = open(&zookeeper.connect_string(), &topic(name), "0:4", options).await;
        let outcomes = spool.send_all((0..AWAY).map(|n| message(name, n))).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(Sent::Spooled(_)))), "without a broker");
        spools.push((name, spool));
    }
    // Others are offered while the broker comes back, and after that.
    let is_back = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = spools
        .iter()
        .map(|(name, spool)| {
            let (name, spool, is_back) = (*name, spool.clone(), Arc::clone(&is_back));
            tokio::spawn(async move {
                for n in AWAY..ALL {
                    spool.send(message(name, n)).await.unwrap();
                    while n > RETURN && !is_back.load(Ordering::Relaxed) {
                        sleep(Duration::from_millis(1)).await;
                    }
                }
            })
        })
        .collect();
    start_again(&mut broker, &zookeeper).await;
    is_back.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.await.unwrap();
    }
    for (_, spool) in &spools {
        assert_eq!(spool.drain(PATIENCE).await, 0, "{:#?}", spool.stats());
    }
    let read = async |topic| peers.read_topic(&zookeeper, topic, ALL, PATIENCE).await.unwrap();
    let (plain, ordered) = tokio::join!(read("plain"), read("ordered"));
    for ((name, spool), read) in spools.into_iter().zip([plain, ordered]) {
        let stats = spool.stats();
        assert_eq!((stats.stored + stats.replayed, stats.failed), (ALL as u64, 0), "{stats:#?}");
        let number = |payload: &[u8]| std::str::from_utf8(&payload[..4]).unwrap().parse::<usize>().unwrap();
        let mut counts = BTreeMap::<usize, usize>::new();
        let mut last = BTreeMap::<String, usize>::new();
        let mut homes = BTreeMap::new();
        for message in &read {
            let n = number(&message.payload);
            let (payload, attribute, key, pinned) = form(n);
            assert!(message.payload == payload && message.attribute == attribute, "{n} is not as it was");
            if let Some(index) = pinned {
                assert_eq!(message.partition, Partition::new(0, index), "{n}");
            } else {
                assert_eq!(*homes.entry(key.clone()).or_insert(message.partition), message.partition, "{n}");
            }
            *counts.entry(n).or_default() += 1;
            // Messages that name their partition, and those of a key.
            let queue = pinned.map_or(key, |index| format!("partition {index}"));
            if name == "ordered"
                && let Some(before) = last.insert(queue.clone(), n)
            {
                assert!(before < n, "{queue}: {n} is stored after {before}");
            }
        }
        assert_eq!((counts.len(), read.len()), (ALL, ALL), "each is stored once: {stats:#?}");
        println!(
            "reliability: {name}: {ALL} messages, {} of them replayed, 0 lost, 0 stored twice",
            stats.replayed
        );
        spool.close(Duration::ZERO).await;
    }
}

/// What was reported of one key's messages.
#[derive(Default)]
struct Reported {
    kept: BTreeSet<String>,
    unknown: BTreeSet<String>,
    spooled: usize,
}

/// Sends messages of one key until it is to stop, some at a time.
async fn send(spool: SpoolingProducer, key: usize, stop: Arc<AtomicBool>) -> Reported {
    let (mut reported, mut handles) = (Reported::default(), VecDeque::new());
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let payload = format!("{key}-{n:06}");
        let message = Message::new(topic("t"), payload.clone()).with_key(format!("key {key}"));
        handles.push_back((payload, spool.enqueue(message).await.unwrap()));
        if handles.len() > 16 {
            report(handles.pop_front().unwrap(), &mut reported).await;
        }
        sleep(Duration::from_millis(40)).await;
    }
    for handle in handles {
        report(handle, &mut reported).await;
    }
    reported
}

async fn report((payload, handle): (String, metaq_spool::SpoolHandle), reported: &mut Reported) {
    match handle.await {
        Ok(sent) => {
            reported.spooled += usize::from(matches!(sent, Sent::Spooled(_)));
            reported.kept.insert(payload);
        }
        Err(error) => {
            assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
            reported.unknown.insert(payload);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_java_brokers_keep_the_order_of_each_key() {
    let Some(peers) = Peers::get("killed_java_brokers_keep_the_order_of_each_key") else { return };
    let longest = Duration::from_secs(3600);
    let zookeeper =
        ZooKeeper::builder().session_timeouts(Duration::from_secs(1), longest).start(&peers).await.unwrap();
    // One is started again at once, and is never missed in the registry; the other one is forgotten before.
    let builder = |id, session| broker(id).topic("t", 2).session_timeout(session).start(&peers, &zookeeper);
    let (first, second) = tokio::join!(builder(0, longest), builder(1, Duration::from_secs(2)));
    let (mut first, mut second) = (first.unwrap(), second.unwrap());
    let folder = tempfile::tempdir().unwrap();
    let spool = open(&zookeeper.connect_string(), &topic("t"), "0:2;1:2", options(folder.path(), true)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> =
        (0..12).map(|key| tokio::spawn(send(spool.clone(), key, Arc::clone(&stop)))).collect();
    let more = async |count: u64| {
        let before = spool.stats();
        let reached = async {
            while spool.stats().stored + spool.stats().replayed < before.stored + before.replayed + count {
                sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("messages are stored");
    };
    for round in 0..2 {
        more(150).await;
        first.kill().await.unwrap();
        if round == 0 {
            second.kill().await.unwrap();
        }
        first.restart_at_once().await.unwrap();
        more(150).await;
        if round == 0 {
            start_again(&mut second, &zookeeper).await;
        }
        more(150).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut all = Reported::default();
    for sender in senders {
        let reported = sender.await.unwrap();
        all.kept.extend(reported.kept);
        all.unknown.extend(reported.unknown);
        all.spooled += reported.spooled;
    }
    // What one message in flight at a time leaves, beside other work on the machine.
    assert_eq!(spool.drain(2 * PATIENCE).await, 0, "{:#?}", spool.stats());
    let stats = spool.stats();
    let account = Account::of(&peers, &zookeeper, "t", &all.kept).await;
    account.assert_order(&all.unknown);
    let duplicates = account.duplicates();
    assert!(duplicates as u64 <= stats.unknown_attempts, "{duplicates} stored twice: {stats:#?}");
    assert!(all.spooled > 0 && stats.set_aside == 0, "{stats:#?}");
    println!(
        "reliability: 3 kills: {} stored or spooled ({} spooled), 0 lost, {} unknown, {duplicates} stored twice of {} attempts \
         without an answer",
        all.kept.len(),
        all.spooled,
        all.unknown.len(),
        stats.unknown_attempts,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_frozen_java_broker_doubles_only_what_is_counted() {
    let Some(peers) = Peers::get("a_frozen_java_broker_doubles_only_what_is_counted") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let mut broker = broker(0).topic("t", 4).start(&peers, &zookeeper).await.unwrap();
    broker.shut_down().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), false);
    (options.replay_window, options.replay_rate) = (64, Some(1000));
    let spool = open(&zookeeper.connect_string(), &topic("t"), "0:4", options).await;
    let kept: BTreeSet<_> = (0..3000).map(|n| format!("{}-{n:06}", n % 7)).collect();
    let outcomes = spool.send_all(kept.iter().map(|text| Message::new(topic("t"), text.clone()))).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(Sent::Spooled(_)))), "without a broker");
    start_again(&mut broker, &zookeeper).await;
    let until = async |reached: &dyn Fn(&metaq_spool::SpoolStats) -> bool| {
        let looking = async {
            while !reached(&spool.stats()) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.expect("it comes to that");
    };
    until(&|stats| stats.replayed > 200).await;
    // What it has in its socket it stores later, after the attempt was given up.
    broker.freeze();
    until(&|stats| stats.unknown_attempts > 0).await;
    broker.thaw();
    assert_eq!(spool.drain(PATIENCE).await, 0, "{:#?}", spool.stats());
    let stats = spool.stats();
    assert_eq!((stats.replayed, stats.set_aside), (kept.len() as u64, 0), "{stats:#?}");
    let duplicates = Account::of(&peers, &zookeeper, "t", &kept).await.duplicates();
    println!(
        "reliability: frozen: 0 lost, {duplicates} stored twice of {} unknown attempts",
        stats.unknown_attempts
    );
    assert!(duplicates as u64 <= stats.unknown_attempts, "{duplicates} stored twice: {stats:#?}");
}
