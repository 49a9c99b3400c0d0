//! Local transactions at real Java brokers; a real Java consumer shows what became of them.

use std::{collections::BTreeMap, time::Duration};

use metaq_producer::{
    BrokerId, Message, Producer, ProducerConfig, Topic,
    discovery::{StaticDiscovery, TopicView, ZooKeeperDiscovery},
    transaction::{TransactionErrorKind, TransactionOptions, TransactionOutcome},
};
use metaq_testkit::{
    Proxy,
    peers::{JavaBroker, Peers, ReadMessage, ZooKeeper},
    proxy::{Direction, OnConnect, Plan},
};

use crate::{
    PATIENCE,
    common::{alone, until},
};

fn message(topic: &Topic, payload: impl Into<String>) -> Message {
    Message::new(topic.clone(), payload.into())
}

async fn producer(zookeeper: &ZooKeeper, topic: &Topic, config: ProducerConfig) -> Producer {
    let discovery = ZooKeeperDiscovery::new(&zookeeper.connect_string()).unwrap();
    let producer = Producer::builder().discovery(discovery).config(config).build().unwrap();
    producer.publish_topic(topic).await.unwrap();
    producer
}

fn sorted(read: &[ReadMessage]) -> Vec<String> {
    let payloads = read.iter().map(|message| String::from_utf8(message.payload.clone()).unwrap());
    let mut payloads: Vec<_> = payloads.collect();
    payloads.sort_unstable();
    payloads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_is_read_and_nothing_else() {
    let Some(peers) = Peers::get("what_is_committed_is_read_and_nothing_else") else { return };
    let _alone = alone().await;
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = |id| JavaBroker::builder(id).topic("tx", 2).start(&peers, &zookeeper);
    let (first, second) = tokio::join!(broker(0), broker(1));
    let (mut first, second) = (first.unwrap(), second.unwrap());
    let topic: Topic = "tx".parse().unwrap();
    let producer = producer(&zookeeper, &topic, ProducerConfig::default()).await;
    let mut expected = Vec::new();

    for n in 0..4 {
        let mut transaction = producer.begin(TransactionOptions::new().with_timeout(Duration::from_secs(30)));
        for part in 0..3 {
            transaction.send(message(&topic, format!("committed-{n}-{part}"))).await.unwrap();
            expected.push(format!("committed-{n}-{part}"));
        }
        assert_eq!(transaction.commit().await.unwrap().messages, 3);
        let mut transaction = producer.begin(TransactionOptions::new());
        transaction.send(message(&topic, "rolled back")).await.unwrap();
        transaction.rollback().await.unwrap();
        let mut transaction = producer.begin(TransactionOptions::new());
        transaction.send(message(&topic, "dropped")).await.unwrap();
    }
    let mut transaction = producer.begin(TransactionOptions::new());
    let many = (0..1000).map(|n| message(&topic, format!("many-{n}")));
    transaction.send_all(many).await.unwrap();
    transaction.commit().await.unwrap();
    expected.extend((0..1000).map(|n| format!("many-{n}")));

    // The broker ends it.
    let mut transaction = producer.begin(TransactionOptions::new().with_timeout(Duration::from_secs(1)));
    let mut untouched = producer.begin(TransactionOptions::new().with_timeout(Duration::from_secs(1)));
    untouched.send(message(&topic, "timed out")).await.unwrap();
    let began = tokio::time::Instant::now();
    let error = loop {
        match transaction.send(message(&topic, "timed out")).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), TransactionErrorKind::Expired, "T-12, B-13, B-19");
    // The broker looks twice a second, and not at all of them at the same time.
    tokio::time::sleep_until(began + Duration::from_millis(2500)).await;
    let error = untouched.commit().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.outcome()),
        (TransactionErrorKind::Expired, TransactionOutcome::RolledBack),
        "T-12"
    );

    // Through a proxy, which cuts the connection.
    let proxy =
        Proxy::start(second.addr().to_string().trim_start_matches("meta://").to_owned()).await.unwrap();
    let via = format!("meta://{}", proxy.addr()).parse().unwrap();
    let view = TopicView::new(topic.clone()).with_broker(BrokerId(1), via, 2);
    let cut = Producer::builder().discovery(StaticDiscovery::new([view])).build().unwrap();
    cut.publish_topic(&topic).await.unwrap();
    let options = || TransactionOptions::new().with_request_timeout(Duration::from_millis(200));
    for round in 0..6 {
        until(async || !cut.partitions(&topic).is_empty()).await;
        let mut transaction = cut.begin(options());
        transaction.send(message(&topic, format!("cut-{round}"))).await.unwrap();
        if round % 2 == 0 {
            // And is not there again before the commit.
            proxy.on_connect(OnConnect::Refuse).await.unwrap();
            proxy.reset_all();
            until(async || cut.partitions(&topic).is_empty()).await;
            proxy.on_connect(OnConnect::Forward).await.unwrap();
        } else {
            let accepted = proxy.accepted();
            proxy.close_all();
            until(async || proxy.accepted() > accepted).await;
            until(async || !cut.partitions(&topic).is_empty()).await;
        }
        let error = transaction.commit().await.unwrap_err();
        assert_eq!(error.outcome(), TransactionOutcome::RolledBack, "T-16, B-18: {error}");
    }
    // Commits without an answer, half of which the broker sees.
    let mut may_be_there = Vec::new();
    for round in 0..10 {
        until(async || !cut.partitions(&topic).is_empty()).await;
        let mut transaction = cut.begin(options());
        let payload = format!("unknown-{round}");
        transaction.send(message(&topic, payload.clone())).await.unwrap();
        let reaches_it = round % 2 == 0;
        proxy.plan(if reaches_it { Direction::ToClient } else { Direction::ToServer }, Plan::new().swallow());
        let error = transaction.commit().await.unwrap_err();
        assert_eq!(error.outcome(), TransactionOutcome::Unknown, "T-10, K-48: {error}");
        // What was swallowed never comes; a new connection is as good as new.
        let accepted = proxy.accepted();
        proxy.reset_all();
        proxy.plan_both(Plan::new());
        until(async || proxy.accepted() > accepted).await;
        if reaches_it {
            may_be_there.push(payload);
        }
    }

    // The broker's process is killed.
    let mut transaction = producer.begin(TransactionOptions::new());
    loop {
        transaction.send(message(&topic, "killed")).await.unwrap();
        if transaction.broker() == Some(&first.addr()) {
            break;
        }
        transaction = producer.begin(TransactionOptions::new());
    }
    first.kill().await.unwrap();
    let error = transaction.commit().await.unwrap_err();
    assert_ne!(error.outcome(), TransactionOutcome::Open);
    first.restart(&zookeeper).await.unwrap();
    until(async || producer.partitions(&topic).len() == 4).await;

    // A Java broker shows what it had before a restart after the next message to each partition.
    for n in 0..8 {
        let receipt = producer.send(message(&topic, format!("plain-{n}"))).await.unwrap();
        assert!(receipt.offset >= 0, "T-19");
        expected.push(format!("plain-{n}"));
    }
    // All that reached the broker were carried out.
    expected.extend(may_be_there);
    expected.sort_unstable();
    let read = peers.read_topic(&zookeeper, "tx", expected.len(), PATIENCE).await.unwrap();
    assert_eq!(sorted(&read), expected);
    let mut brokers = BTreeMap::<String, Vec<BrokerId>>::new();
    for message in &read {
        let payload = String::from_utf8(message.payload.clone()).unwrap();
        if let Some((transaction, _)) =
            payload.rsplit_once('-').filter(|(name, _)| name.starts_with("committed") || *name == "many")
        {
            brokers.entry(transaction.to_owned()).or_default().push(message.partition.broker);
        }
    }
    assert_eq!(brokers.len(), 5);
    for (transaction, mut on) in brokers {
        on.dedup();
        assert_eq!(on.len(), 1, "{transaction} is on one broker (T-8)");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_hundred_transactions_of_eight_tasks_at_two_brokers() {
    const TASKS: usize = 8;
    const EACH: usize = 200;
    let Some(peers) = Peers::get("sixteen_hundred_transactions_of_eight_tasks_at_two_brokers") else {
        return;
    };
    let _alone = alone().await;
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = |id| JavaBroker::builder(id).topic("soak", 4).start(&peers, &zookeeper);
    let (first, second) = tokio::join!(broker(0), broker(1));
    let (_first, _second) = (first.unwrap(), second.unwrap());
    let topic: Topic = "soak".parse().unwrap();
    let producer = producer(&zookeeper, &topic, ProducerConfig::default()).await;
    let started = std::time::Instant::now();
    let tasks = (0..TASKS).map(|task| {
        let (producer, topic) = (producer.clone(), topic.clone());
        tokio::spawn(async move {
            let mut committed = Vec::new();
            for n in 0..EACH {
                let mut transaction = producer.begin(TransactionOptions::new());
                let payloads: Vec<_> = (0..1 + n % 4).map(|part| format!("{task}-{n}-{part}")).collect();
                for payload in &payloads {
                    transaction.send(message(&topic, payload.clone())).await.unwrap();
                }
                match (task + n) % 3 {
                    0 | 1 => {
                        transaction.commit().await.unwrap();
                        committed.extend(payloads);
                    }
                    _ => transaction.rollback().await.unwrap(),
                }
                if n % 10 == 0 {
                    let payload = format!("plain-{task}-{n}");
                    producer.send(message(&topic, payload.clone())).await.unwrap();
                    committed.push(payload);
                }
            }
            committed
        })
    });
    let mut expected = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        expected.extend(task.await.unwrap());
    }
    println!("{} transactions in {:?}", TASKS * EACH, started.elapsed());
    expected.sort_unstable();
    let read = peers.read_topic(&zookeeper, "soak", expected.len(), PATIENCE).await.unwrap();
    assert_eq!(sorted(&read).len(), expected.len());
    assert_eq!(sorted(&read), expected, "exactly what was committed");
    let brokers: std::collections::BTreeSet<_> =
        read.iter().map(|message| message.partition.broker).collect();
    assert_eq!(brokers.len(), 2);
}
