//! Real Java brokers that are frozen and killed under load: nobody else notices, and every message is accounted for.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    time::Duration,
};

use metaq_producer::{
    BrokerAddr, Message, Outcome, Producer, ProducerConfig, SendError, SendHandle, SendReceipt, Topic,
    ZooKeeperDiscovery,
};
use metaq_testkit::peers::{JavaBroker, Peers, ZooKeeper};
use tokio::time::Instant;

const TIMEOUT: Duration = Duration::from_secs(3);

/// So many messages are in flight at a time; a broker can have half of what may be.
const WINDOW: usize = 1000;

/// What a message may take longer than its timeout.
const GRACE: Duration = Duration::from_millis(100);

/// Messages that are sent one after another, and what became of them.
struct Load {
    producer: Producer,
    topic: Topic,
    next: u64,
    in_flight: VecDeque<(u64, Instant, SendHandle)>,
    ended: HashMap<u64, Result<SendReceipt, SendError>>,
    /// When each broker acknowledged how many.
    acknowledged: HashMap<BrokerAddr, Vec<Instant>>,
    latest: Duration,
}

impl Load {
    async fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            while self.in_flight.len() < WINDOW {
                self.next += 1;
                let message = Message::new(self.topic.clone(), self.next.to_string());
                let started = Instant::now();
                let handle = self.producer.enqueue(message).await.unwrap();
                self.in_flight.push_back((self.next, started, handle));
            }
            self.look().await;
        }
    }

    /// Takes the outcomes that are there; waits for one if none is.
    async fn look(&mut self) {
        for _ in 0..self.in_flight.len() {
            let Some((number, started, mut handle)) = self.in_flight.pop_front() else { break };
            match futures_util::FutureExt::now_or_never(&mut handle) {
                Some(outcome) => self.note(number, started, outcome),
                None => self.in_flight.push_back((number, started, handle)),
            }
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }

    fn note(&mut self, number: u64, started: Instant, outcome: Result<SendReceipt, SendError>) {
        self.latest = self.latest.max(started.elapsed());
        if let Ok(receipt) = &outcome {
            self.acknowledged.entry(receipt.broker.clone()).or_default().push(Instant::now());
        }
        self.ended.insert(number, outcome);
    }

    async fn drain(&mut self) {
        while !self.in_flight.is_empty() {
            self.look().await;
        }
    }

    /// How many messages a second `broker` acknowledged from `since` on, for so long.
    fn rate(&self, broker: &BrokerAddr, since: Instant, time: Duration) -> f64 {
        let all = self.acknowledged.get(broker).map_or(&[][..], Vec::as_slice);
        let those = all.iter().filter(|at| (since..since + time).contains(at)).count();
        those as f64 / time.as_secs_f64()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_frozen_or_killed_disturbs_nobody_and_every_message_is_accounted_for() {
    let test = "a_broker_that_is_frozen_or_killed_disturbs_nobody_and_every_message_is_accounted_for";
    let Some(peers) = Peers::get(test) else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = |id| JavaBroker::builder(id).topic("load", 4).start(&peers, &zookeeper);
    let (healthy, failing) = tokio::join!(broker(0), broker(1));
    let (healthy, mut failing) = (healthy.unwrap(), failing.unwrap());
    let topic = Topic::new("load").unwrap();
    let mut config = ProducerConfig::default();
    config.send_timeout = TIMEOUT;
    config.max_in_flight = WINDOW;
    let discovery = ZooKeeperDiscovery::new(&zookeeper.connect_string()).unwrap();
    let producer = Producer::builder().discovery(discovery).config(config).build().unwrap();
    producer.publish_topic(&topic).await.unwrap();
    let mut load = Load {
        producer: producer.clone(),
        topic,
        next: 0,
        in_flight: VecDeque::new(),
        ended: HashMap::new(),
        acknowledged: HashMap::new(),
        latest: Duration::ZERO,
    };

    // Until the brokers are warm, and then with both.
    load.run(Duration::from_secs(3)).await;
    let both = Instant::now();
    let time = Duration::from_secs(3);
    load.run(time).await;
    let before = load.rate(&healthy.addr(), both, time);

    failing.freeze();
    let frozen = Instant::now();
    load.run(time).await;
    let during = load.rate(&healthy.addr(), frozen, time);
    println!(
        "the healthy broker took {before:.0} messages a second before, and {during:.0} beside a frozen one"
    );
    assert!(during >= 0.95 * before, "W21: {during:.0} of {before:.0}");
    failing.thaw();
    load.run(Duration::from_secs(1)).await;

    let connections = healthy.client_ports();
    failing.kill().await.unwrap();
    load.run(Duration::from_secs(1)).await;
    let is_back = Cell::new(false);
    let restart = async {
        failing.restart(&zookeeper).await.unwrap();
        is_back.set(true);
    };
    let go_on = async {
        while !is_back.get() {
            load.run(Duration::from_millis(10)).await;
        }
    };
    tokio::join!(restart, go_on);
    let back = Instant::now();
    let addr = failing.addr();
    while load.rate(&addr, back, Duration::from_secs(60)) == 0.0 {
        load.run(Duration::from_millis(10)).await;
        assert!(back.elapsed() < Duration::from_secs(20), "it is used again");
    }
    println!("the killed broker was used {:?} after it was back", back.elapsed());
    assert_eq!(healthy.client_ports(), connections, "the other one's connection is as it was");
    load.drain().await;
    assert!(load.latest <= TIMEOUT + GRACE, "a message took {:?}", load.latest);

    let report = producer.close(Duration::from_secs(5)).await;
    assert_eq!((report.unknown, report.unsent.len()), (0, 0));
    let counts = producer.stats().await.messages;
    let mut seen = [0; 4];
    for outcome in load.ended.values() {
        seen[match outcome.as_ref().map_err(SendError::outcome) {
            Ok(_) => 0,
            Err(Outcome::Unknown) => 1,
            Err(Outcome::Rejected) => 2,
            Err(Outcome::NotSent) => 3,
        }] += 1;
    }
    println!("[acknowledged, unknown, rejected, not sent] = {seen:?}");
    assert_eq!(seen, [counts.acknowledged, counts.unknown, counts.rejected, counts.not_sent]);
    assert_eq!((counts.offered, seen[2], seen[3]), (load.next, 0, 0), "there was always another broker");
    // Written when it was frozen, and when it was killed: at most what one broker may have.
    assert!(seen[1] <= WINDOW as u64, "{seen:?}");

    let acknowledged = load.ended.iter().filter(|(_, outcome)| outcome.is_ok());
    let mut expected: HashMap<String, &SendReceipt> =
        acknowledged.map(|(number, outcome)| (number.to_string(), outcome.as_ref().unwrap())).collect();
    let read = peers.read_topic(&zookeeper, "load", expected.len(), Duration::from_secs(120)).await.unwrap();
    let mut times: HashMap<&[u8], usize> = HashMap::new();
    read.iter().for_each(|message| *times.entry(&message.payload[..]).or_default() += 1);
    assert!(times.values().all(|times| *times == 1), "nothing is stored twice");
    for message in &read {
        if let Some(receipt) = expected.remove(std::str::from_utf8(&message.payload).unwrap()) {
            assert_eq!((receipt.partition, receipt.offset), (message.partition, message.offset));
        }
    }
    assert!(expected.is_empty(), "{} acknowledged messages are lost", expected.len());
}
