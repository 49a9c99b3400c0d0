//! The promises about messages, compared with the contents of the brokers.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use metaq_producer::{Outcome, Partition, Producer};
use metaq_testkit::peers::{JavaReader, Peers, ReadMessage, ZooKeeper};

use super::load::{Sent, failures};

/// The outcomes of a topic's messages, and the number of those stored without an acknowledgement.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Account {
    pub(crate) acknowledged: usize,
    pub(crate) unknown: usize,
    /// Of the unknown ones.
    pub(crate) stored_all_the_same: usize,
    pub(crate) rejected: usize,
    pub(crate) not_sent: usize,
}

/// Reads a topic back through the Java client and sees that each acknowledged message is stored once, where
/// its receipt says; that no message is stored twice; and that one which is certainly not stored isn't.
pub(crate) async fn account(peers: &Peers, zookeeper: &ZooKeeper, topic: &str, all: &[Sent]) -> Account {
    let [unknown, rejected, not_sent] = failures(all);
    let acknowledged = all.len() - unknown - rejected - not_sent;
    let read = read(peers, zookeeper, topic, acknowledged).await;
    let mut stored = HashMap::with_capacity(read.len());
    for message in &read {
        let number: u64 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
        let before = stored.insert(number, (message.partition, message.offset));
        assert_eq!(before, None, "message {number} is stored twice");
    }
    let mut lost = Vec::new();
    let mut stored_all_the_same = 0;
    for sent in all {
        let place = stored.remove(&sent.number);
        match &sent.outcome {
            Ok(receipt) if place == Some((receipt.partition, receipt.offset)) => {}
            Ok(receipt) => lost.push((sent.number, receipt.clone(), place)),
            Err(error) => match error.outcome() {
                Outcome::Unknown => stored_all_the_same += usize::from(place.is_some()),
                _ => assert_eq!(place, None, "it was said not to be stored: {error}"),
            },
        }
    }
    lost.truncate(5);
    assert_eq!(lost.len(), 0, "lost, or elsewhere than its receipt says, among others: {lost:?}");
    assert!(stored.is_empty(), "{} stored messages were never sent", stored.len());
    Account { acknowledged, unknown, stored_all_the_same, rejected, not_sent }
}

/// All messages of a topic.
pub(crate) async fn read(
    peers: &Peers,
    zookeeper: &ZooKeeper,
    topic: &str,
    expected: usize,
) -> Vec<ReadMessage> {
    // Surplus ones show up with the next flush.
    let reader = JavaReader::new(peers).settle(Duration::from_secs(1));
    reader.read_topic(&zookeeper.connect_string(), topic, expected, Duration::from_secs(180)).await.unwrap()
}

/// Sees that the producer counted what became of its messages, of which these are all.
pub(crate) async fn counted(producer: &Producer, all: &[Sent]) {
    let counts = producer.stats().await.messages;
    let [unknown, rejected, not_sent] = failures(all);
    let acknowledged = all.len() - unknown - rejected - not_sent;
    let seen = [all.len(), acknowledged, unknown, rejected, not_sent].map(|count| count as u64);
    let told = [counts.offered, counts.acknowledged, counts.unknown, counts.rejected, counts.not_sent];
    assert_eq!(seen, told, "offered, acknowledged, unknown, rejected, not sent");
}

/// The payloads of each partition in the order in which they are stored.
pub(crate) fn by_partition(read: &[ReadMessage]) -> BTreeMap<Partition, Vec<u64>> {
    let mut partitions: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for message in read {
        let number = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
        partitions.entry(message.partition).or_default().push(number);
    }
    partitions
}

/// The texts of the errors with this outcome, each once, with its count.
pub(crate) fn reasons(all: &[Sent], outcome: Outcome) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    let errors = all.iter().filter_map(|sent| sent.outcome.as_ref().err());
    for error in errors.filter(|error| error.outcome() == outcome) {
        *reasons.entry(error.to_string()).or_default() += 1;
    }
    reasons
}
