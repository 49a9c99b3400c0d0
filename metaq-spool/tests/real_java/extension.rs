//! A program of the real Java extension client, and the same program in Rust, beside the same brokers, with
//! the same input and the same faults.

use std::collections::{BTreeMap, BTreeSet};

use metaq_testkit::peers::{JavaBroker, Peers, ZooKeeper};
use tokio::time::Instant;

use crate::{
    form::{PATIENCE, broker, start_again, text},
    pair::{CLIENTS, Pair, Read, batch, java, outcomes, partitions},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ported_ordered_program_stores_what_the_java_one_does() {
    let Some(peers) = Peers::get("ported_ordered_program_stores_what_the_java_one_does") else { return };
    let (java, home) = (java(&peers), tempfile::tempdir().unwrap());
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let builder = |id| broker(id).topic("java", 2).topic("rust", 2).start(&peers, &zookeeper);
    let (stays, goes) = tokio::join!(builder(0), builder(1));
    let (_stays, mut goes) = (stays.unwrap(), goes.unwrap());
    let connect = zookeeper.connect_string();
    let mut pair = Pair::start(&java, &connect, home.path(), &["ordered", "0:2;1:2"]).await;
    let mut sent = Vec::new();

    // With both brokers, each message goes to the same partition in both clients.
    let messages = batch("1", 50);
    let [by_java, by_rust] = pair.send(&messages).await;
    assert_eq!(by_java, by_rust, "the same outcomes and partitions");
    assert!(by_java.iter().all(|line| line.contains(" stored ")), "{by_java:?}");
    sent.extend(messages);

    // While one is away, its messages are kept, and the others are stored.
    goes.shut_down().await.unwrap();
    let messages = batch("2", 100);
    let [by_java, by_rust] = pair.send(&messages).await;
    for said in [&by_java, &by_rust] {
        for (partition, outcomes) in outcomes(said) {
            let expected = if partition.starts_with("1-") { "kept" } else { "stored" };
            assert_eq!(outcomes, BTreeSet::from([expected]), "{partition}: {said:?}");
        }
    }
    assert_eq!(partitions(&by_java), partitions(&by_rust));
    sent.extend(messages);

    // Both programs end in order, are started again, and go on as before.
    pair.end().await;
    let mut pair = Pair::start(&java, &connect, home.path(), &["ordered", "0:2;1:2"]).await;
    let messages = batch("3", 100);
    let [by_java, by_rust] = pair.send(&messages).await;
    assert_eq!(by_java, by_rust, "the same outcomes and partitions");
    sent.extend(messages);

    // What comes while the broker returns, and after that, is stored behind what was kept.
    pair.send_while(start_again(&mut goes, &zookeeper), "4", &mut sent).await;
    pair.send_until_live("5", &mut sent).await;

    // A broker that is killed stays in the registry for a while. Java refuses its messages until then.
    goes.kill().await.unwrap();
    let messages = batch("6", 100);
    let [by_java, by_rust] = pair.send(&messages).await;
    assert_eq!(by_java, by_rust, "the same outcomes and partitions");
    assert!(by_java.iter().any(|line| line.contains(" kept ")), "{by_java:?}");
    sent.extend(messages);
    pair.send_while(start_again(&mut goes, &zookeeper), "7", &mut sent).await;
    pair.send_until_live("8", &mut sent).await;
    pair.end().await;

    let read = Read::both(&peers, &zookeeper, sent.len()).await;
    let [by_java, by_rust] = read.map(|read| read.by_partition);
    let mut shuffled = Vec::new();
    for (partition, of_rust) in &by_rust {
        let expected: Vec<_> = sent.iter().filter(|message| of_rust.contains(message)).cloned().collect();
        assert_eq!(*of_rust, expected, "{partition}: in the order in which they were sent");
        let mut of_java = by_java[partition].clone();
        if of_java != expected {
            // K-56: what the earlier process had kept has lost its order.
            shuffled.push(partition.as_str());
            let kept = of_java.iter().position(|(_, payload)| payload.starts_with("2-")).unwrap();
            let count = expected.iter().filter(|(_, payload)| payload.starts_with("2-")).count();
            of_java[kept..kept + count].sort_unstable_by(|(_, one), (_, other)| one.cmp(other));
        }
        assert_eq!(of_java, expected, "{partition}");
    }
    assert_eq!(shuffled, ["1-0", "1-1"], "only of the broker that was away");
    assert_eq!(by_java.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ported_async_program_also_stores_what_the_java_one_loses() {
    let Some(peers) = Peers::get("ported_async_program_also_stores_what_the_java_one_loses") else {
        return;
    };
    let (java, home) = (java(&peers), tempfile::tempdir().unwrap());
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let builder = broker(0).topic("java", 2).topic("rust", 2);
    let mut broker = builder.start(&peers, &zookeeper).await.unwrap();
    let mut pair = Pair::start(&java, &zookeeper.connect_string(), home.path(), &["async"]).await;

    pair.send(&batch("1", 50)).await;
    for client in CLIENTS {
        let read = peers.read_topic(&zookeeper, client, 50, PATIENCE).await.unwrap();
        assert_eq!(read.len(), 50, "{client}");
    }
    // The broker has these, answers none, and is killed; the registry still has it.
    broker.freeze();
    pair.send(&batch("2", 50)).await;
    broker.kill().await.unwrap();
    // Once it is forgotten, both clients keep what comes.
    pair.both("unregistered").await;
    pair.send(&batch("3", 100)).await;
    start_again(&mut broker, &zookeeper).await;
    pair.send(&batch("4", 50)).await;

    let batches = [("1", 50), ("2", 50), ("3", 100), ("4", 50)];
    let all: BTreeSet<_> = batches.iter().flat_map(|(name, count)| batch(name, *count)).collect();
    // E-6: they were handed to the connection, and reported as a success.
    let lost_by_java: BTreeSet<_> = batch("2", 50).into_iter().collect();
    for (client, lost) in CLIENTS.into_iter().zip([lost_by_java, BTreeSet::new()]) {
        let began = Instant::now();
        let counts = loop {
            let read = peers.read_topic(&zookeeper, client, all.len() - lost.len(), PATIENCE).await.unwrap();
            let mut counts = BTreeMap::<_, usize>::new();
            for message in &read {
                *counts.entry((message.attribute.clone().unwrap_or_default(), text(message))).or_default() +=
                    1;
            }
            // Those that are kept come one after the other.
            if all.iter().filter(|message| !lost.contains(*message)).all(|sent| counts.contains_key(sent)) {
                break counts;
            }
            assert!(began.elapsed() < PATIENCE, "{client} has stored {} of {}", counts.len(), all.len());
        };
        let is_lost = |message: &&(String, String)| !counts.contains_key(*message);
        assert!(all.iter().filter(is_lost).eq(&lost), "{client}");
        let twice = counts.values().filter(|count| **count > 1).count();
        println!("{client}: {} lost, {twice} stored twice", lost.len());
        // What the broker had when it was killed, it had not stored.
        assert!(client == "java" || twice == 0, "{twice} stored twice");
    }
    pair.end().await;
}

/// Closes or opens a partition of both topics, as an operator does.
async fn operate(peers: &Peers, broker: &JavaBroker, action: &[&str]) {
    let operator = include_str!("../../../testkit/java/Operator.java");
    let operator = peers.java_program("Operator", operator).unwrap();
    let pid = broker.pid().unwrap().to_string();
    for client in CLIENTS {
        let args = [&[&*pid, action[0], client], &action[1..]].concat();
        operator.run(&args, PATIENCE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn refused_messages_keep_their_order_unlike_in_java() {
    let Some(peers) = Peers::get("refused_messages_keep_their_order_unlike_in_java") else { return };
    let (java, home) = (java(&peers), tempfile::tempdir().unwrap());
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let builder = broker(0).topic("java", 2).topic("rust", 2);
    let mut broker = builder.start(&peers, &zookeeper).await.unwrap();
    let mode = ["ordered", "0:2"];
    let mut pair = Pair::start(&java, &zookeeper.connect_string(), home.path(), &mode).await;
    let mut sent = batch("1", 50);
    pair.send(&sent).await;

    // What is refused with 403 is kept, by Java not in its partition.
    operate(&peers, &broker, &["close", "0", "0"]).await;
    let refused = batch("2", 50);
    let [by_java, by_rust] = pair.send(&refused).await;
    let (of_java, of_rust) = (outcomes(&by_java), outcomes(&by_rust));
    let (kept, stored) = (BTreeSet::from(["kept"]), BTreeSet::from(["stored"]));
    assert_eq!(of_java, BTreeMap::from([("-1--1", kept.clone()), ("0-1", stored.clone())]));
    assert_eq!(of_rust, BTreeMap::from([("0-0", kept), ("0-1", stored)]));
    sent.extend(refused);
    operate(&peers, &broker, &["open"]).await;

    // E-24: later messages overtake those in Java, which wait until others of a partition are kept.
    let later = batch("3", 50);
    let [by_java, _] = pair.send(&later).await;
    assert!(by_java.iter().all(|line| line.contains(" stored ")), "{by_java:?}");
    sent.extend(later);
    broker.shut_down().await.unwrap();
    let last = batch("4", 50);
    pair.send(&last).await;
    sent.extend(last);
    start_again(&mut broker, &zookeeper).await;
    let read = Read::both(&peers, &zookeeper, sent.len()).await;
    let [by_java, by_rust] = read.map(|read| read.by_partition);
    for (partition, of_rust) in &by_rust {
        let expected: Vec<_> = sent.iter().filter(|message| of_rust.contains(message)).cloned().collect();
        assert_eq!(*of_rust, expected, "{partition}: in the order in which they were sent");
        let mut of_java = expected;
        if partition == "0-0" {
            of_java.sort_by_key(|(_, payload)| ["1", "3", "2", "4"].map(|name| !payload.starts_with(name)));
        }
        assert_eq!(by_java[partition], of_java, "{partition}: those that were refused are late in Java");
    }
    pair.end().await;
}
