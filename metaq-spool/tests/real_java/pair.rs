//! Two programs with the same input: one of the Java extension client, and its port to Rust.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use metaq_testkit::peers::{JavaProgram, Peers, ZooKeeper};
use tokio::time::{Instant, timeout};

use crate::{
    form::{PATIENCE, text},
    program::Program,
};

/// The clients, whose topics have their names.
pub(crate) const CLIENTS: [&str; 2] = ["java", "rust"];

pub(crate) const KEYS: usize = 10;

pub(crate) fn java(peers: &Peers) -> JavaProgram {
    let source = include_str!("../../../testkit/java/ExtensionClient.java");
    peers.java_program("ExtensionClient", source).unwrap()
}

/// The two programs, and what they have said of each message: the outcome, and the partition.
pub(crate) struct Pair {
    programs: [Program; 2],
}

impl Pair {
    /// Starts both. Each has a folder of its own for what it keeps.
    pub(crate) async fn start(java: &JavaProgram, zookeeper: &str, home: &Path, mode: &[&str]) -> Self {
        let stores = CLIENTS.map(|client| home.join(format!("store-{client}")));
        let [java_store, rust_store] = stores.each_ref().map(|store| store.to_str().unwrap());
        let args = |client, store| [&[mode[0], zookeeper, client, store], &mode[1..]].concat();
        let (java_args, rust_args) = (args("java", java_store), args("rust", rust_store));
        let mut programs = [Program::java(java, home, &java_args), Program::rust(&rust_args)];
        for program in &mut programs {
            assert_eq!(program.says().await, "ready");
        }
        Self { programs }
    }

    /// Gives both the same messages, and returns what they say of each.
    pub(crate) async fn send(&mut self, messages: &[(String, String)]) -> [Vec<String>; 2] {
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
    pub(crate) async fn send_while(
        &mut self,
        ended: impl Future<Output = ()>,
        name: &str,
        sent: &mut Vec<(String, String)>,
    ) {
        let (mut ended, mut has_ended) = (std::pin::pin!(ended), false);
        for n in 0.. {
            let messages = batch(&format!("{name}-{n:04}"), KEYS);
            {
                let mut sending = std::pin::pin!(self.send(&messages));
                let [by_java, by_rust] = loop {
                    tokio::select! {
                        said = &mut sending => break said,
                        () = &mut ended, if !has_ended => has_ended = true,
                    }
                };
                assert_eq!(partitions(&by_java), partitions(&by_rust));
            }
            sent.extend(messages);
            if has_ended || timeout(Duration::from_millis(20), &mut ended).await.is_ok() {
                return;
            }
        }
    }

    /// Sends messages until neither client keeps any of them, several times in turn.
    pub(crate) async fn send_until_live(&mut self, name: &str, sent: &mut Vec<(String, String)>) {
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

    pub(crate) async fn both(&mut self, order: &str) {
        for program in &mut self.programs {
            program.order(order).await;
            assert_eq!(program.says().await, order);
        }
    }

    pub(crate) async fn end(self) {
        for program in self.programs {
            program.end().await;
        }
    }
}

/// Messages of all keys in turn.
pub(crate) fn batch(name: &str, count: usize) -> Vec<(String, String)> {
    let message = |n| (format!("account-{}", n % KEYS), format!("{name}-{n:03}"));
    (0..count).map(message).collect()
}

/// The outcomes of messages by the partitions that they were for.
pub(crate) fn outcomes(said: &[String]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut outcomes = BTreeMap::<_, BTreeSet<_>>::new();
    for line in said {
        let words: Vec<_> = line.split(' ').collect();
        outcomes.entry(words[2]).or_default().insert(words[1]);
    }
    outcomes
}

/// The payloads and the partitions that they were for, in their order.
pub(crate) fn partitions(said: &[String]) -> Vec<(&str, &str)> {
    let parts = |line| Some((str::split(line, ' ').next()?, str::rsplit(line, ' ').next()?));
    said.iter().map(|line| parts(line).unwrap()).collect()
}

/// What a Java consumer reads of a client's messages.
pub(crate) struct Read {
    /// The attributes and payloads in each partition, in their order, each where it is stored first.
    pub(crate) by_partition: BTreeMap<String, Vec<(String, String)>>,
    pub(crate) duplicates: usize,
}

impl Read {
    /// Reads until all messages are there.
    pub(crate) async fn all(peers: &Peers, zookeeper: &ZooKeeper, client: &str, count: usize) -> Self {
        let began = Instant::now();
        loop {
            let read = peers.read_topic(zookeeper, client, count, PATIENCE).await.unwrap();
            let (mut by_partition, mut seen) = (BTreeMap::<_, Vec<_>>::new(), BTreeSet::new());
            for message in &read {
                let entry = (message.attribute.clone().unwrap(), text(message));
                if seen.insert(entry.clone()) {
                    by_partition.entry(message.partition.to_string()).or_default().push(entry);
                }
            }
            if seen.len() == count {
                return Self { by_partition, duplicates: read.len() - count };
            }
            assert!(seen.len() < count && began.elapsed() < PATIENCE, "{client}: {} of {count}", seen.len());
        }
    }

    /// Reads what both clients have stored. What Java has no answer for in time, it sends again.
    pub(crate) async fn both(peers: &Peers, zookeeper: &ZooKeeper, count: usize) -> [Self; 2] {
        let [java, rust] = CLIENTS.map(|client| Self::all(peers, zookeeper, client, count));
        let (java, rust) = tokio::join!(java, rust);
        println!("{count} messages, {} of them stored twice by the Java program", java.duplicates);
        assert_eq!(rust.duplicates, 0, "stored twice by the ported program");
        [java, rust]
    }
}
