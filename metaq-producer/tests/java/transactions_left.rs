//! The traces of local transactions at a real Java broker whose program, connection or producer ends.

use std::time::Duration;

use metaq_producer::{
    BrokerId, Message, Producer, Topic,
    discovery::{StaticDiscovery, TopicView},
    transaction::{Transaction, TransactionOptions},
};
use metaq_testkit::{
    Proxy,
    peers::{JavaBroker, Peers, ZooKeeper},
    proxy::OnConnect,
};

use crate::{
    common::{alone, topic_named},
    heap::{until_heap_is_below, used_heap},
};

const MIB: u64 = 1 << 20;
const TRANSACTIONS: u64 = 500;
const SIZE: usize = 200_000;

fn topic() -> Topic {
    topic_named("left")
}

/// A producer whose connections go through a proxy.
async fn through(proxy: &Proxy) -> Producer {
    let via = format!("meta://{}", proxy.addr()).parse().unwrap();
    let view = TopicView::new(topic()).with_broker(BrokerId(0), via, 1);
    let producer = Producer::builder().discovery(StaticDiscovery::new([view])).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer
}

async fn proxy(broker: &JavaBroker) -> Proxy {
    Proxy::start(broker.addr().to_string().trim_start_matches("meta://").to_owned()).await.unwrap()
}

/// Transactions with 100 MB of messages, open.
async fn opened(producer: &Producer, options: &TransactionOptions) -> Vec<Transaction> {
    let mut opened = Vec::new();
    for _ in 0..TRANSACTIONS {
        let mut transaction = producer.begin(options.clone());
        transaction.send(Message::new(topic(), vec![7; SIZE])).await.unwrap();
        opened.push(transaction);
    }
    opened
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn abandoned_transactions_leave_broker_memory_at_their_timeout() {
    let Some(peers) = Peers::get("abandoned_transactions_leave_broker_memory_at_their_timeout") else {
        return;
    };
    let _alone = alone().await;
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    // Cuts the default timeout.
    let builder = JavaBroker::builder(0).topic("left", 1).setting("maxTxTimeoutInSeconds", "5");
    let broker = builder.start(&peers, &zookeeper).await.unwrap();
    let proxy = proxy(&broker).await;
    let before = used_heap(&broker).await;
    let producer = through(&proxy).await;
    let opened = opened(&producer, &TransactionOptions::new()).await;
    let held = used_heap(&broker).await;
    // The program is gone, so to say: nothing is rolled back.
    proxy.on_connect(OnConnect::Refuse).await.unwrap();
    proxy.reset_all();
    drop(opened);
    drop(producer);
    let after = until_heap_is_below(&broker, before + 10 * MIB).await;
    println!(
        "heap: {} MiB before, {} MiB with open transactions, {} MiB after their timeout",
        before / MIB,
        held / MIB,
        after / MIB
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_closed_or_dropped_leaves_a_brokers_memory_at_once() {
    let Some(peers) = Peers::get("what_is_closed_or_dropped_leaves_a_brokers_memory_at_once") else { return };
    let _alone = alone().await;
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = JavaBroker::builder(0).topic("left", 1).start(&peers, &zookeeper).await.unwrap();
    let proxy = proxy(&broker).await;
    let before = used_heap(&broker).await;
    for closes in [true, false] {
        let producer = through(&proxy).await;
        let opened = opened(&producer, &TransactionOptions::new().without_timeout()).await;
        let held = used_heap(&broker).await;
        assert!(held > before + 90 * MIB, "{held}");
        if closes {
            producer.close(Duration::from_secs(10)).await;
            drop(opened);
        } else {
            drop(opened);
        }
        let after = until_heap_is_below(&broker, before + 10 * MIB).await;
        println!(
            "heap: {} MiB before, {} MiB with open transactions, {} MiB after the end",
            before / MIB,
            held / MIB,
            after / MIB
        );
    }
}
