//! A producer follows a real cluster as brokers come, move and go.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metaq_producer::{
    BrokerAddr, Message, Outcome, Producer, SendError, SendReceipt, Topic, ZooKeeperDiscovery,
};
use metaq_testkit::peers::{JavaBroker, Peers, ZooKeeper};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

/// The registry's change has to be followed within this.
const FOLLOWED: Duration = Duration::from_secs(1);

const SENDERS: usize = 8;

/// When a message was sent, its payload, and what became of it.
type Sent = (Instant, String, Result<SendReceipt, SendError>);

/// Messages that flow all the time, and what became of them.
struct Flow {
    stop: Arc<AtomicBool>,
    results: Arc<Mutex<Vec<Sent>>>,
    senders: Vec<tokio::task::JoinHandle<()>>,
}

impl Flow {
    fn start(producer: &Producer, topic: &Topic) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let results = Arc::new(Mutex::new(Vec::new()));
        let senders = (0..SENDERS).map(|sender| {
            let (producer, topic, stop, results) =
                (producer.clone(), topic.clone(), Arc::clone(&stop), Arc::clone(&results));
            tokio::spawn(async move {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let payload = format!("{sender}-{n}");
                    let started = Instant::now();
                    let result = producer.send(Message::new(topic.clone(), payload.clone())).await;
                    results.lock().push((started, payload, result));
                    // Leaves the machine some room for the brokers.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        });
        let senders = senders.collect();
        Self { stop, results, senders }
    }

    /// Waits until something that was sent after `since` was stored by the broker at `addr`; returns how long it took.
    async fn reaches(&self, addr: &BrokerAddr, since: Instant) -> Duration {
        loop {
            let stored = |result: &Result<SendReceipt, SendError>| {
                result.as_ref().is_ok_and(|receipt| receipt.broker == *addr)
            };
            if self.results.lock().iter().any(|(started, _, result)| *started >= since && stored(result)) {
                return since.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until so many messages that were sent from `since` on have their result; returns which brokers stored how
    /// many, and the failures.
    async fn sample(&self, since: Instant, count: usize) -> (BTreeMap<BrokerAddr, usize>, Vec<String>) {
        loop {
            {
                let results = self.results.lock();
                let recent: Vec<_> = results.iter().filter(|(started, ..)| *started >= since).collect();
                if recent.len() >= count {
                    let mut brokers = BTreeMap::new();
                    let mut failures = Vec::new();
                    for (_, _, result) in recent {
                        match result {
                            Ok(receipt) => *brokers.entry(receipt.broker.clone()).or_default() += 1,
                            Err(error) => failures.push(error.to_string()),
                        }
                    }
                    return (brokers, failures);
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) -> Vec<(String, Result<SendReceipt, SendError>)> {
        self.stop.store(true, Ordering::Relaxed);
        for sender in self.senders {
            sender.await.unwrap();
        }
        let results = std::mem::take(&mut *self.results.lock());
        results.into_iter().map(|(_, payload, result)| (payload, result)).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_brokers_that_come_move_and_go_and_leaves_the_others_alone() {
    let Some(peers) = Peers::get("follows_brokers_that_come_move_and_go_and_leaves_the_others_alone") else {
        return;
    };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = |id, partitions| JavaBroker::builder(id).topic("flow", partitions).start(&peers, &zookeeper);
    let (stays, moves) = tokio::join!(broker(0, 4), broker(1, 2));
    let (stays, mut moves) = (stays.unwrap(), moves.unwrap());

    let topic = Topic::new("flow").unwrap();
    let discovery = ZooKeeperDiscovery::new(&zookeeper.connect_string()).unwrap();
    let producer = Producer::builder().discovery(discovery).build().unwrap();
    producer.publish_topic(&topic).await.unwrap();
    let of_stays = stays.client_ports();
    assert_eq!((of_stays.len(), moves.client_ports().len()), (1, 1), "one connection for each broker");
    let flow = Flow::start(&producer, &topic);
    flow.reaches(&stays.addr(), Instant::now()).await;
    flow.reaches(&moves.addr(), Instant::now()).await;

    // A third broker comes.
    let of_moves = moves.client_ports();
    let mut third = broker(2, 2).await.unwrap();
    let registered = Instant::now();
    let took = timeout(FOLLOWED, flow.reaches(&third.addr(), registered))
        .await
        .expect("R-2: it is used within a second");
    println!("a new broker was used {took:?} after it was registered");
    assert_eq!((stays.client_ports(), moves.client_ports()), (of_stays.clone(), of_moves), "D-7");

    // One moves to another port.
    let of_third = third.client_ports();
    let old = moves.addr();
    moves.restart_elsewhere(&zookeeper).await.unwrap();
    let registered = Instant::now();
    assert_ne!(moves.addr(), old);
    let took = timeout(FOLLOWED, flow.reaches(&moves.addr(), registered))
        .await
        .expect("R-4, K-1: used within a second");
    println!("a moved broker was used {took:?} after it was registered");
    assert_eq!((stays.client_ports(), third.client_ports()), (of_stays.clone(), of_third), "D-7");

    // The third goes, properly: its nodes go first.
    let of_moves = moves.client_ports();
    third.shut_down().await.unwrap();
    let gone = Instant::now();
    let (brokers, failures) = flow.sample(gone, 500).await;
    assert_eq!(failures, [""; 0], "once it is gone, nothing is sent to it");
    assert_eq!(brokers.keys().cloned().collect::<Vec<_>>(), {
        let mut left = vec![stays.addr(), moves.addr()];
        left.sort();
        left
    });
    assert_eq!((stays.client_ports(), moves.client_ports()), (of_stays, of_moves), "D-7");
    assert_eq!(third.client_ports().len(), 0);

    let results = flow.end().await;
    let failed: Vec<_> = results.iter().filter_map(|(_, result)| result.as_ref().err()).collect();
    println!("{} messages, {} failed", results.len(), failed.len());
    // A broker cuts its connections when it ends; what was under way on them then is all that may fail.
    assert!(failed.len() <= 2 * SENDERS, "{failed:?}");
    assert!(failed.iter().all(|error| error.outcome() != Outcome::Rejected), "{failed:?}");

    // What was acknowledged is there. The third comes back to show what it has, which it does after a put to each of its
    // partitions.
    third.restart(&zookeeper).await.unwrap();
    let flow = Flow::start(&producer, &topic);
    flow.reaches(&third.addr(), Instant::now()).await;
    let (brokers, _) = flow.sample(Instant::now(), 200).await;
    assert_eq!(brokers.len(), 3);
    let again = flow.end().await;
    let acknowledged: Vec<_> = results.iter().chain(&again).filter(|(_, result)| result.is_ok()).collect();
    let read =
        peers.read_topic(&zookeeper, "flow", acknowledged.len(), Duration::from_secs(60)).await.unwrap();
    let mut stored: BTreeMap<_, usize> = BTreeMap::new();
    read.iter().for_each(|message| {
        *stored.entry((message.partition, message.offset, &message.payload[..])).or_default() += 1
    });
    for (payload, result) in &acknowledged {
        let receipt = result.as_ref().unwrap();
        let place = (receipt.partition, receipt.offset, payload.as_bytes());
        assert_eq!(stored.get(&place), Some(&1), "{payload} is stored once, where its receipt says");
    }
    let unknown = failed.iter().filter(|error| error.outcome() == Outcome::Unknown).count();
    assert!(read.len() <= acknowledged.len() + unknown, "nothing is stored that was certainly not sent");

    let report = producer.close(Duration::from_secs(5)).await;
    assert_eq!((report.unknown, report.unsent), (0, vec![]));
    // The brokers' end of a connection goes a moment after ours.
    let none_is_left = async {
        while !(stays.client_ports().is_empty() && moves.client_ports().is_empty()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(2), none_is_left).await.expect("no connection is left");
    assert_eq!(zookeeper.connections().await, 3, "no session is left beside those of the brokers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_broker_without_a_registry_tells_its_partitions() {
    let Some(peers) = Peers::get("a_real_broker_without_a_registry_tells_its_partitions") else { return };
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
    let read = peers.read_topic(&zookeeper, "direct", 16, Duration::from_secs(60)).await.unwrap();
    assert_eq!(read.len(), 16);
}
