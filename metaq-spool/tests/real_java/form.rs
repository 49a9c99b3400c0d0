//! What the tests of this binary share.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use metaq_producer::{
    Producer, ProducerConfig, Topic, discovery::ZooKeeperDiscovery, selector::KeyHashSelector,
};
use metaq_spool::{SpoolOptions, SpoolingProducer};
use metaq_testkit::peers::{JavaBroker, JavaBrokerBuilder, Peers, ReadMessage, ZooKeeper};

/// The longest wait for real peers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) fn topic(name: &str) -> Topic {
    name.parse().unwrap()
}

/// A broker that acknowledges what is in the system's memory, as by the shipped settings, and writes it to
/// disk a moment later, after which it can be read.
pub(crate) fn broker(id: i32) -> JavaBrokerBuilder {
    JavaBroker::builder(id).setting("unflushThreshold", "10000").setting("unflushInterval", "100")
}

/// Starts a broker again, as a supervisor does: a Java broker that gets a message while it registers its
/// topics registers them twice, and gives up.
pub(crate) async fn start_again(broker: &mut JavaBroker, zookeeper: &ZooKeeper) {
    let mut attempts = 5;
    while let Err(error) = broker.restart(zookeeper).await {
        attempts -= 1;
        assert!(attempts > 0, "{error}");
    }
}

/// A spool whose producer keeps each key in one of the configured partitions.
pub(crate) async fn open(
    zookeeper: &str,
    topic: &Topic,
    partitions: &str,
    options: SpoolOptions,
) -> SpoolingProducer {
    let mut config = ProducerConfig::default();
    config.publish_timeout = Duration::from_secs(1);
    config.topic_timeout = Duration::from_millis(200);
    let builder = Producer::builder().discovery(ZooKeeperDiscovery::new(zookeeper).unwrap());
    let builder = builder.selector(KeyHashSelector::new()).config(config);
    let producer = builder.partitions(topic.clone(), partitions.parse().unwrap()).build().unwrap();
    let spool = SpoolingProducer::open(producer, options).await.unwrap();
    // Without a broker it is published in the background.
    let _ = spool.publish_topic(topic).await;
    spool
}

pub(crate) fn options(folder: &Path, is_ordered: bool) -> SpoolOptions {
    let mut options = SpoolOptions::new(folder);
    (options.fsync, options.ordered) = (metaq_spool::Fsync::Never, is_ordered);
    options
}

/// A topic as a Java consumer reads it, compared with what was reported of its messages. Payloads are the
/// key, a minus, and what rises in the order in which the messages of that key were offered.
pub(crate) struct Account {
    pub(crate) read: Vec<ReadMessage>,
    /// How often each payload is stored.
    pub(crate) stored: BTreeMap<String, usize>,
}

impl Account {
    /// Reads the topic, and fails unless all `kept` payloads are there.
    pub(crate) async fn of(
        peers: &Peers,
        zookeeper: &ZooKeeper,
        topic: &str,
        kept: &BTreeSet<String>,
    ) -> Self {
        let read = peers.read_topic(zookeeper, topic, kept.len(), PATIENCE).await.unwrap();
        let mut stored = BTreeMap::new();
        for message in &read {
            *stored.entry(text(message)).or_default() += 1;
        }
        let lost: Vec<_> = kept.iter().filter(|payload| !stored.contains_key(*payload)).collect();
        assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), kept.len());
        Self { read, stored }
    }

    pub(crate) fn duplicates(&self) -> usize {
        self.stored.values().map(|count| count - 1).sum()
    }

    /// Fails unless each key is in one partition, and its messages are in their order where they are stored
    /// first, apart from those without an outcome.
    pub(crate) fn assert_order(&self, unknown: &BTreeSet<String>) {
        let (mut partitions, mut last, mut seen) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        // By partition, then by offset.
        for message in &self.read {
            let payload = text(message);
            if unknown.contains(&payload) || !seen.insert(payload.clone()) {
                continue;
            }
            let key = payload.split('-').next().unwrap().to_owned();
            let partition = *partitions.entry(key.clone()).or_insert(message.partition);
            assert_eq!(partition, message.partition, "{payload} left its partition");
            if let Some(before) = last.insert(key, payload.clone()) {
                assert!(before < payload, "{payload} is stored after {before}");
            }
        }
    }
}

pub(crate) fn text(message: &ReadMessage) -> String {
    String::from_utf8(message.payload.clone()).unwrap()
}
