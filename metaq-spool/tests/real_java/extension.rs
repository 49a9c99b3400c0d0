//! A program of the real Java extension client, and the same program in Rust, beside the same brokers, with
//! the same input and the same faults.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use metaq_testkit::peers::{JavaProgram, Peers, ReadMessage, ZooKeeper};
use tokio::time::{Instant, timeout};

use crate::{
    form::{PATIENCE, broker, start_again, text},
    program::Program,
};

/// The clients, whose topics have their names.
const CLIENTS: [&str; 2] = ["java", "rust"];

const PARTITIONS: &str = "0:2;1:2";

const KEYS: usize = 10;

fn java(peers: &Peers) -> JavaProgram {
    let source = include_str!("../../../testkit/java/ExtensionClient.java");
    peers.java_program("ExtensionClient", source).unwrap()
}

/// The two programs, and what they have said of each message: the outcome, and the partition.
struct Pair {
    programs: [Program; 2],
}

impl Pair {
    /// Starts both. Each has a folder of its own for what it keeps.
    async fn start(java: &JavaProgram, zookeeper: &str, home: &std::path::Path, mode: &str) -> Self {
        let stores = CLIENTS.map(|client| home.join(format!("store-{client}")));
        let [java_store, rust_store] = stores.each_ref().map(|store| store.to_str().unwrap());
        let mut args = vec![mode, zookeeper, "java", java_store];
        let mut ported = vec![mode, zookeeper, "rust", rust_store];
        if mode == "ordered" {
            args.push(PARTITIONS);
            ported.push(PARTITIONS);
        }
        let mut programs = [Program::java(java, home, &args), Program::rust(&ported)];
        for program in &mut programs {
            assert_eq!(program.says().await, "ready");
        }
        Self { programs }
    }

    /// Gives both the same messages, and returns what they say of each.
    async fn send(&mut self, messages: &[(String, String)]) -> [Vec<String>; 2] {
        let mut said = [Vec::new(), Vec::new()];
        for (program, said) in self.programs.iter_mut().zip(&mut said) {
            for (attribute, payload) in messages {
                program.order(&format!("{attribute} {payload}")).await;
            }
            program.say_lines(messages.len(), |line| said.push(line)).await;
        }
        said
    }

    /// Sends messages until `ended` has ended. Each goes to the same partition in both clients.
    async fn send_while(
        &mut self,
        ended: impl Future<Output = ()>,
        name: &str,
        sent: &mut Vec<(String, String)>,
    ) {
        let mut ended = std::pin::pin!(ended);
        for n in 0.. {
            let messages = batch(&format!("{name}-{n:04}"), KEYS);
            let [by_java, by_rust] = self.send(&messages).await;
            assert_eq!(partitions(&by_java), partitions(&by_rust));
            sent.extend(messages);
            if timeout(Duration::from_millis(20), &mut ended).await.is_ok() {
                return;
            }
        }
    }

    /// Sends messages until neither client keeps any of them, several times in turn.
    async fn send_until_live(&mut self, name: &str, sent: &mut Vec<(String, String)>) {
        let (mut live, began) = (0, Instant::now());
        for n in 0.. {
            let messages = batch(&format!("{name}-{n:04}"), KEYS);
            let said = self.send(&messages).await;
            sent.extend(messages);
            let is_live = said.iter().flatten().all(|line| line.contains(" stored "));
            live = if is_live { live + 1 } else { 0 };
            if live == 3 {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "messages are kept: {said:?}");
        }
    }

    async fn both(&mut self, order: &str) {
        for program in &mut self.programs {
            program.order(order).await;
            assert_eq!(program.says().await, order);
        }
    }

    async fn end(self) {
        for program in self.programs {
            program.end().await;
        }
    }
}

/// Messages of all keys in turn.
fn batch(name: &str, count: usize) -> Vec<(String, String)> {
    let message = |n| (format!("account-{}", n % KEYS), format!("{name}-{n:03}"));
    (0..count).map(message).collect()
}

/// The outcomes of messages by the partitions that they were for.
fn outcomes(said: &[String]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut outcomes = BTreeMap::<_, BTreeSet<_>>::new();
    for line in said {
        let words: Vec<_> = line.split(' ').collect();
        outcomes.entry(words[2]).or_default().insert(words[1]);
    }
    outcomes
}

/// The payloads and the partitions that they were for, in their order.
fn partitions(said: &[String]) -> Vec<(&str, &str)> {
    let parts = |line| Some((str::split(line, ' ').next()?, str::rsplit(line, ' ').next()?));
    said.iter().map(|line| parts(line).unwrap()).collect()
}

/// The attributes and payloads in each partition, in their order.
fn by_partition(read: &[ReadMessage]) -> BTreeMap<String, Vec<(String, String)>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for message in read {
        let entry = (message.attribute.clone().unwrap(), text(message));
        all.entry(message.partition.to_string()).or_default().push(entry);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ported_ordered_program_stores_what_the_java_one_does() {
    let Some(peers) = Peers::get("ported_ordered_program_stores_what_the_java_one_does") else { return };
    let (java, home) = (java(&peers), tempfile::tempdir().unwrap());
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let builder = |id| broker(id).topic("java", 2).topic("rust", 2).start(&peers, &zookeeper);
    let (stays, goes) = tokio::join!(builder(0), builder(1));
    let (_stays, mut goes) = (stays.unwrap(), goes.unwrap());
    let connect = zookeeper.connect_string();
    let mut pair = Pair::start(&java, &connect, home.path(), "ordered").await;
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
    let mut pair = Pair::start(&java, &connect, home.path(), "ordered").await;
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

    let mut read = Vec::new();
    for client in CLIENTS {
        let all = peers.read_topic(&zookeeper, client, sent.len(), PATIENCE).await.unwrap();
        assert_eq!(all.len(), sent.len(), "{client}: each message is stored once");
        read.push(by_partition(&all));
    }
    let [by_java, by_rust] = &read[..] else { unreachable!() };
    let mut shuffled = Vec::new();
    for (partition, of_rust) in by_rust {
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
    println!(
        "{} messages in the same places, and in the same order but for what was left in Java's store",
        sent.len()
    );
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
    let mut pair = Pair::start(&java, &zookeeper.connect_string(), home.path(), "async").await;

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

    let mut read = Vec::new();
    for (client, expected) in CLIENTS.into_iter().zip([200, 250]) {
        let all = peers.read_topic(&zookeeper, client, expected, PATIENCE).await.unwrap();
        let mut counts = BTreeMap::<_, usize>::new();
        for message in all.iter().filter(|message| message.payload != b"probe") {
            *counts.entry((message.attribute.clone().unwrap(), text(message))).or_default() += 1;
        }
        read.push(counts);
    }
    let [by_java, by_rust] = &read[..] else { unreachable!() };
    let all: BTreeSet<_> =
        [("1", 50), ("2", 50), ("3", 100), ("4", 50)].iter().flat_map(|(name, n)| batch(name, *n)).collect();
    let lost = |stored: &BTreeMap<(String, String), usize>| -> BTreeSet<_> {
        all.iter().filter(|message| !stored.contains_key(*message)).cloned().collect()
    };
    println!("lost: {} by the Java client, {} by the ported one", lost(by_java).len(), lost(by_rust).len());
    assert_eq!(lost(by_rust), BTreeSet::new());
    // E-6: they were handed to the connection, and reported as a success.
    assert_eq!(lost(by_java), batch("2", 50).into_iter().collect());
    for (client, counts) in CLIENTS.into_iter().zip(&read) {
        let twice = counts.values().filter(|count| **count > 1).count();
        println!("{client}: {twice} stored twice");
        assert_eq!(twice, 0, "{client}");
    }
    pair.end().await;
}
