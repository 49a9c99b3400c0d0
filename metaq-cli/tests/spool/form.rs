//! What the tests of this binary share.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::FutureExt as _;
use metaq_producer::{Message, Producer, ProducerConfig, Topic};
use metaq_spool::{Fsync, Sent, SpoolOptions, SpoolingProducer};
use metaq_testkit::{Broker, Fault, Requests};
use serde_json::Value;

use crate::common::{Finished, Metaq};

/// A file of brokers that a test writes when they are there.
pub(crate) struct Registry {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Registry {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { path: folder.path().join("brokers.toml"), _folder: folder }
    }

    pub(crate) fn cluster(&self) -> String {
        format!("file:{}", self.path.display())
    }

    /// Names a broker with the topic `t`.
    pub(crate) fn add(&self, broker: &Broker, partitions: u32) {
        let text =
            format!("[brokers]\n{0} = \"{1}\"\n[topics.t]\n{0} = {partitions}\n", broker.id(), broker.addr());
        std::fs::write(&self.path, text).unwrap();
    }
}

pub(crate) fn topic() -> Topic {
    "t".parse().unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An address where no broker is.
pub(crate) fn nowhere() -> String {
    format!("meta://{}", metaq_testkit::unused_addr().unwrap())
}

/// The arguments of `metaq produce` for the topic `t`.
pub(crate) fn produce<'a>(cluster: &'a str, spool: &'a Path, args: &[&'a str]) -> Vec<&'a str> {
    [&["produce", "-b", cluster, "-t", "t", "--spool", text(spool)], args].concat()
}

/// Runs `metaq spool`.
pub(crate) async fn spool(args: &[&str]) -> Finished {
    Metaq::start(&[&["spool"], args].concat()).finish(b"").await
}

async fn open(producer: Producer, folder: &Path) -> SpoolingProducer {
    let mut options = SpoolOptions::new(folder);
    options.fsync = Fsync::Never;
    SpoolingProducer::open(producer, options).await.unwrap()
}

/// Spools messages while no broker is there.
pub(crate) async fn fill(folder: &Path, messages: impl IntoIterator<Item = Message>) {
    let producer = Producer::builder().broker(nowhere().parse().unwrap()).build().unwrap();
    let spool = open(producer, folder).await;
    let messages: Vec<_> = messages.into_iter().collect();
    for topic in messages.iter().map(Message::topic).collect::<BTreeSet<_>>() {
        // It is published in the background.
        drop(spool.publish_topic(topic).now_or_never());
    }
    for sent in spool.send_all(messages).await {
        assert!(matches!(sent, Ok(Sent::Spooled(_))), "{sent:?}");
    }
    spool.close(Duration::ZERO).await;
}

/// Has a broker refuse messages, so that they are set aside.
pub(crate) async fn fill_aside(folder: &Path, messages: impl IntoIterator<Item = Message>) {
    fill(folder, messages).await;
    let broker = Broker::builder().topic("t", 4).topic("u", 4).start_without_port().unwrap();
    broker.faults().plan(Requests::puts(), Fault::refuse(400, "malformed"));
    let builder = Producer::builder().discovery(broker.discovery()).transport(broker.transport());
    let spool = open(builder.config(ProducerConfig::default()).build().unwrap(), folder).await;
    assert_eq!(spool.drain(Duration::from_secs(30)).await, 0, "{:?}", spool.stats());
    spool.close(Duration::ZERO).await;
}

pub(crate) fn messages(count: usize) -> impl Iterator<Item = Message> {
    (0..count).map(|n| Message::new(topic(), n.to_string()))
}

/// The number of times that each payload is stored.
pub(crate) fn stored(broker: &Broker) -> BTreeMap<String, usize> {
    let mut stored = BTreeMap::new();
    for message in broker.messages("t") {
        *stored.entry(String::from_utf8(message.payload.to_vec()).unwrap()).or_default() += 1;
    }
    stored
}

/// A line of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reported {
    Stored(u64),
    Spooled(u64),
    Failed(u64),
    Replayed,
}

/// Reads a line of results.
pub(crate) fn reported(line: &Value) -> Reported {
    match (line["line"].as_u64(), line["spooled"].as_str(), line["offset"].as_i64()) {
        (Some(number), Some(_), None) => Reported::Spooled(number),
        (Some(number), None, Some(_)) => Reported::Stored(number),
        (Some(number), None, None) if line["error"]["outcome"].is_string() => Reported::Failed(number),
        (None, Some(_), Some(_)) => Reported::Replayed,
        _ => panic!("{line}"),
    }
}

/// Counts the lines of each kind: stored, spooled, failed, replayed.
pub(crate) fn counts(lines: &[Value]) -> [usize; 4] {
    let mut counts = [0; 4];
    for line in lines {
        counts[match reported(line) {
            Reported::Stored(_) => 0,
            Reported::Spooled(_) => 1,
            Reported::Failed(_) => 2,
            Reported::Replayed => 3,
        }] += 1;
    }
    counts
}
