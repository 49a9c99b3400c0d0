//! A real broker without a registry.

use std::collections::BTreeMap;

use metaq_producer::{Message, Producer, Topic};
use metaq_testkit::peers::{JavaBroker, Peers, ZooKeeper};

use crate::{PATIENCE, common::alone};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_broker_without_a_registry_tells_its_partitions() {
    let Some(peers) = Peers::get("a_real_broker_without_a_registry_tells_its_partitions") else { return };
    let _alone = alone().await;
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = JavaBroker::builder(3).topic("direct", 4).start(&peers, &zookeeper).await.unwrap();
    let producer = Producer::builder().broker(broker.addr()).build().unwrap();
    let topic = Topic::new("direct").unwrap();
    // Its figures count only partitions that hold something, at first none; its configuration knows better.
    for _ in 0..2 {
        producer.publish_topic(&topic).await.unwrap();
        let mut used = BTreeMap::new();
        for n in 0..8 {
            let receipt = producer.send(Message::new(topic.clone(), format!("{n}"))).await.unwrap();
            *used.entry(receipt.partition.to_string()).or_insert(0) += 1;
        }
        let expected = ["3-0", "3-1", "3-2", "3-3"].map(|partition| (partition.to_owned(), 2));
        assert_eq!(used, BTreeMap::from(expected), "K-23");
        producer.unpublish_topic(&topic);
    }
    let read = peers.read_topic(&zookeeper, "direct", 16, PATIENCE).await.unwrap();
    assert_eq!(read.len(), 16);
}
