//! One run: what happens at each step, and what has to hold.

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;
use futures_util::FutureExt as _;
use metaq_producer::{
    BrokerAddr, ConnectionStats, Jitter, Message, MessageCounts, Outcome, Partition, Producer, ProducerStats,
    RandomSelector, SendError, SendHandle, SendReceipt, Topic,
};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, RegistryFault, Requests, Stored};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    cluster::{Pinned, broker_with, builder, counts, sum, until},
    log::note,
    transacting::{Fate, Transacting},
};

/// The topics, each with two partitions on every broker. The second is unpublished and published again now and then.
pub(crate) const TOPICS: [&str; 2] = ["t", "u"];

fn broker(registry: &EmbeddedRegistry, id: i32) -> Broker {
    broker_with(registry, id, &TOPICS.map(|topic| (topic, 2)))
}

fn named(topic: &str) -> Topic {
    topic.parse().unwrap()
}

/// What a message may take longer than its timeout.
const GRACE: Duration = Duration::from_millis(100);

/// What can go goes within this.
const PROMPTLY: Duration = Duration::from_millis(10);

/// After everything is mended, a message is stored within this: the longest pause between two attempts to connect, and what
/// a registry may be slow by.
const MENDED: Duration = Duration::from_secs(4);

pub(crate) struct Simulation {
    rng: Rng,
    registry: EmbeddedRegistry,
    brokers: Vec<Option<Broker>>,
    producer: Producer,
    max_in_flight: usize,
    at_least_once: bool,
    /// Whether the selector sends each message to the partition that its key names, in order.
    is_pinned: bool,
    /// The number of plain messages that were offered, and of those of them that were given up, which may not be counted.
    offered: u64,
    given_up: u64,
    /// The topic of each message.
    topics: BTreeMap<u64, usize>,
    transacting: Transacting,
    /// Handles that somebody looks at: what was sent, and until when it has time.
    watched: Vec<(String, Instant, SendHandle)>,
    outcomes: BTreeMap<String, Result<SendReceipt, SendError>>,
    /// What brokers have stored: which broker it was, its address, and the message's id.
    stored: BTreeMap<(u64, BrokerAddr, i64), Stored>,
    /// How many brokers there were before each one that is there.
    lives: Vec<u64>,
}

impl Simulation {
    pub(crate) async fn new(seed: u64) -> Self {
        // Pauses and rests draw from the thread's numbers.
        fastrand::seed(seed);
        let mut rng = Rng::with_seed(seed);
        let registry = EmbeddedRegistry::new();
        let brokers: Vec<_> = (0..rng.i32(1..4)).map(|id| Some(broker(&registry, id))).collect();
        let count = brokers.len();
        let max_in_flight = if rng.bool() { rng.usize(1..20) } else { 1000 };
        let (ordered, at_least_once) = (rng.u8(..3) == 0, rng.u8(..4) == 0);
        let config = builder(&registry, |config| {
            config.max_in_flight = max_in_flight;
            config.ordered = ordered;
            config.retry.at_least_once = at_least_once;
            config.retry.jitter = Jitter::seeded(seed);
        });
        note(format_args!(
            "{count} brokers, max_in_flight={max_in_flight} ordered={ordered} at_least_once={at_least_once}"
        ));
        let (is_random, is_pinned) = (rng.bool(), ordered && rng.u8(..3) > 0);
        let producer = match (is_pinned, is_random) {
            (true, _) => config.selector(Pinned),
            (false, true) => config.selector(RandomSelector::new()),
            (false, false) => config,
        };
        let producer = producer.build().unwrap();
        for topic in TOPICS {
            producer.publish_topic(&named(topic)).await.unwrap();
        }
        note(format_args!("{count} brokers, each partition by its key: {is_pinned}"));
        let transacting = Transacting::new(&producer, seed, count, is_pinned).await;
        Self {
            rng,
            registry,
            brokers,
            producer,
            max_in_flight,
            at_least_once,
            is_pinned,
            offered: 0,
            given_up: 0,
            topics: BTreeMap::new(),
            transacting,
            watched: Vec::new(),
            outcomes: BTreeMap::new(),
            stored: BTreeMap::new(),
            lives: vec![0; count],
        }
    }

    pub(crate) async fn step(&mut self) {
        match self.rng.u8(..26) {
            0..10 => self.send().await,
            10..12 => self.fault(),
            12 => self.change_broker(),
            13 => self.change_registry(),
            14 => self.heal(),
            15 => self.drop_handle(),
            16..19 => self.transacting.step(&self.producer).await,
            19 => self.ask().await,
            20 => self.publish_again().await,
            _ => sleep(Duration::from_millis(self.rng.u64(..400))).await,
        }
        self.check().await;
    }

    fn next_message(&mut self) -> (String, Message) {
        self.offered += 1;
        let payload = format!("{:05}{}", self.offered, " ".repeat(self.rng.usize(..3) * 5000));
        let topic = usize::from(self.rng.u8(..4) == 0);
        self.topics.insert(self.offered, topic);
        let mut message = Message::new(named(TOPICS[topic]), payload.clone());
        if self.is_pinned {
            let partition = Partition::new(self.rng.i32(0..self.brokers.len() as i32), self.rng.i32(0..2));
            message = message.with_key(partition.to_string());
        }
        (payload, message)
    }

    /// Asks brokers for statistics, or waits for what was accepted.
    async fn ask(&mut self) {
        if self.rng.bool() {
            let time = Duration::from_millis(self.rng.u64(..500));
            note(format_args!("asks for statistics, {time:?}"));
            let asked = timeout(time + GRACE, self.producer.broker_stats(None, time)).await;
            assert!(asked.is_ok(), "a question for statistics is overdue");
        } else {
            note("flushes");
            // No message has more time than four seconds.
            let flushed = timeout(Duration::from_secs(4) + GRACE, self.producer.flush()).await;
            assert!(flushed.is_ok(), "a flush is overdue");
        }
    }

    /// Unpublishes the second topic, if nothing hinders publishing it again.
    async fn publish_again(&mut self) {
        self.heal();
        for index in 0..self.brokers.len() {
            if self.brokers[index].is_none() {
                self.start(index);
            }
        }
        note("unpublishes a topic, and publishes it again");
        assert!(self.producer.unpublish_topic(&named(TOPICS[1])));
        sleep(Duration::from_millis(self.rng.u64(..50))).await;
        self.producer.publish_topic(&named(TOPICS[1])).await.unwrap();
    }

    async fn send(&mut self) {
        for _ in 0..self.rng.usize(1..8) {
            let (payload, message) = self.next_message();
            let time = Duration::from_millis(self.rng.u64(1..4000));
            let deadline = Instant::now() + time;
            let accepted = match self.rng.u8(..4) {
                0 => {
                    let accepted = self.producer.try_send(message);
                    let deadline = Instant::now() + Duration::from_secs(3);
                    self.accepted(payload, deadline, accepted);
                    continue;
                }
                // Given up after a while, wherever it is then.
                1 => {
                    let patience = Duration::from_millis(self.rng.u64(..50));
                    let send = self.producer.send_with_timeout(message, time);
                    match timeout(patience, send).await {
                        Ok(outcome) => self.ended(payload, outcome),
                        Err(_) => {
                            self.given_up += 1;
                            note(format_args!("{} is given up", payload.trim_end()));
                        }
                    }
                    continue;
                }
                _ => {
                    let patience = Duration::from_millis(self.rng.u64(..200));
                    timeout(patience, self.producer.enqueue_with_timeout(message, time)).await
                }
            };
            match accepted {
                Ok(accepted) => self.accepted(payload, deadline, accepted),
                Err(_) => self.given_up += 1,
            }
        }
    }

    fn accepted(&mut self, payload: String, deadline: Instant, accepted: Result<SendHandle, SendError>) {
        match accepted {
            Ok(handle) => self.watched.push((payload, deadline, handle)),
            Err(error) => {
                assert_eq!(error.outcome(), Outcome::NotSent, "it was not accepted");
                self.ended(payload, Err(error));
            }
        }
    }

    /// A message has its outcome.
    fn ended(&mut self, payload: String, outcome: Result<SendReceipt, SendError>) {
        let name = payload.trim_end();
        match &outcome {
            Ok(receipt) => note(format_args!("{name} is stored: {receipt:?}")),
            Err(error) => note(format_args!("{name} is {:?}: {error}", error.outcome())),
        }
        self.outcomes.insert(payload, outcome);
    }

    fn drop_handle(&mut self) {
        if !self.watched.is_empty() {
            let index = self.rng.usize(..self.watched.len());
            let (payload, ..) = self.watched.swap_remove(index);
            note(format_args!("the handle of {} is dropped", payload.trim_end()));
        }
    }

    fn fault(&mut self) {
        let index = self.rng.usize(..self.brokers.len());
        let Some(broker) = &self.brokers[index] else { return };
        let faults = broker.faults();
        let some = Requests::puts().with_chance(self.rng.f64());
        let plan = |requests: Requests, fault: Fault| {
            note(format_args!("broker {index}: {requests:?} meet {fault:?}"));
            faults.plan(requests, fault);
        };
        let said = |what: &str| note(format_args!("broker {index} {what}"));
        match self.rng.u8(..12) {
            0 => {
                said("is frozen");
                faults.freeze();
            }
            1 => {
                said("goes on");
                faults.thaw();
            }
            2 => {
                said("closes its connections");
                faults.close_connections();
            }
            3 => {
                let refuses = self.rng.bool();
                said(if refuses { "refuses connections" } else { "takes connections" });
                faults.refuse_connections(refuses);
            }
            4 => {
                let after = self.rng.u64(..2000);
                said(&format!("cuts connections after {after} bytes"));
                faults.cut(None, after);
            }
            5 => plan(some, Fault::refuse(*self.rng.choice(&[403, 404, 500, 503, 999]).unwrap(), "no")),
            6 => plan(some, Fault::Swallow),
            7 => plan(some, Fault::Ignore),
            8 => plan(some, Fault::Late(Duration::from_millis(self.rng.u64(..5000)))),
            9 => plan(some.first(1), Fault::Garbage(self.rng.usize(1..50))),
            10 => plan(some, Fault::Twice),
            _ => plan(some.first(2), Fault::Cut(self.rng.usize(..30))),
        }
    }

    fn change_broker(&mut self) {
        let index = self.rng.usize(..self.brokers.len());
        match self.brokers[index].take() {
            Some(broker) if self.rng.bool() => {
                // What is in partitions that are taken away is not shown while they are.
                self.remember(&broker);
                let partitions = self.rng.u32(1..4);
                note(format_args!("broker {index} has {partitions} partitions"));
                broker.set_topic(&named(TOPICS[0]), partitions);
                self.brokers[index] = Some(broker);
            }
            Some(broker) => {
                note(format_args!("broker {index} is killed"));
                // Its tasks may come to run once more before they are stopped.
                broker.faults().freeze();
                self.remember(&broker);
                self.lives[index] += 1;
            }
            None => self.start(index),
        }
    }

    /// Waits until all brokers are connected, and has nothing that can go wait.
    async fn check_progress(&mut self) {
        for broker in self.brokers.iter().flatten() {
            for topic in TOPICS {
                broker.set_topic(&named(topic), 2);
            }
            // Requests that were swallowed keep their capacity as long as their connection.
            broker.faults().close_connections();
        }
        // By then that is noticed.
        sleep(PROMPTLY).await;
        let (producer, partitions) = (self.producer.clone(), 2 * self.brokers.len());
        until(async || TOPICS.iter().all(|topic| producer.partitions(&named(topic)).len() == partitions))
            .await;
        // A message that was refused waits for its next attempt, one in order for the late answer to the one before it.
        until(async || producer.stats().await.unacknowledged == 0).await;
        let mut handles = Vec::new();
        for _ in 0..50 {
            let (payload, message) = self.next_message();
            let deadline = Instant::now() + Duration::from_secs(3);
            let accepted =
                timeout(PROMPTLY, self.producer.enqueue(message)).await.expect("there is capacity");
            handles.push((payload, deadline, accepted.unwrap()));
        }
        let offered = Instant::now();
        for (payload, _, handle) in handles {
            let outcome = handle.await;
            let took = offered.elapsed();
            assert!(took <= PROMPTLY && outcome.is_ok(), "{} {took:?}: {outcome:?}", payload.trim_end());
            self.ended(payload, outcome);
        }
    }

    fn start(&mut self, index: usize) {
        note(format_args!("broker {index} starts"));
        self.brokers[index] = Some(broker(&self.registry, index as i32));
    }

    fn remember(&mut self, broker: &Broker) {
        let life = self.lives[broker.id().0 as usize];
        for stored in TOPICS.iter().flat_map(|topic| broker.messages(topic)) {
            let key = (life, broker.addr().clone(), stored.id);
            if let Some(known) = self.stored.insert(key, stored.clone()) {
                assert_eq!(known, stored, "an id is given once");
            }
        }
    }

    fn change_registry(&mut self) {
        let id = metaq_producer::BrokerId(self.rng.i32(..self.brokers.len() as i32));
        let fault = match self.rng.u8(..6) {
            0 => RegistryFault::Slow(Duration::from_millis(self.rng.u64(..2000))),
            1 => RegistryFault::Empty,
            2 => RegistryFault::Gone,
            3 => RegistryFault::Missing(id),
            4 => RegistryFault::WrongAddress(id),
            _ => RegistryFault::WrongPartitions(id, self.rng.u32(1..9)),
        };
        note(format_args!("the registry: {fault:?}"));
        self.registry.add_fault(fault);
    }

    fn heal(&mut self) {
        note("all faults end");
        self.registry.heal();
        self.brokers.iter().flatten().for_each(|broker| broker.faults().heal());
    }

    async fn check(&mut self) {
        let stats = self.producer.stats().await;
        let counts = stats.messages;
        // How often connections read and wrote tells the slightest difference between two runs.
        for (broker, connection) in &stats.connections {
            // Not by how many bytes: names of transactions hold the number of the process.
            let ConnectionStats { established, requests, answered, writes, reads, .. } = connection;
            let counts = (established, requests, answered, writes, reads);
            note(format_args!("{broker}: established, requests, answered, writes, reads {counts:?}"));
        }
        note(format_args!("{counts:?}"));
        check_sums(&stats);
        // Messages of transactions are counted, too, unless they could not be offered to any broker.
        let (least, most) = (self.offered - self.given_up, self.offered + self.transacting.offered);
        assert!((least..=most).contains(&counts.offered), "{least}..={most} were offered: {counts:?}");
        assert!(stats.unacknowledged <= self.max_in_flight, "{} are accepted", stats.unacknowledged);
        let mut index = 0;
        while index < self.watched.len() {
            let (payload, deadline, handle) = &mut self.watched[index];
            match handle.now_or_never() {
                Some(outcome) => {
                    let payload = std::mem::take(payload);
                    drop(self.watched.swap_remove(index));
                    self.ended(payload, outcome);
                }
                None => {
                    assert!(Instant::now() <= *deadline + GRACE, "message {} is overdue", payload.trim_end());
                    index += 1;
                }
            }
        }
    }

    pub(crate) async fn finish(mut self) -> [usize; 4] {
        self.heal();
        for index in 0..self.brokers.len() {
            if self.brokers[index].is_none() {
                self.start(index);
            }
        }
        let mended = Instant::now();
        let works = async {
            loop {
                let (payload, message) = self.next_message();
                let outcome = self.producer.send_with_timeout(message, Duration::from_secs(1)).await;
                let worked = outcome.is_ok();
                self.ended(payload, outcome);
                if worked {
                    break;
                }
            }
        };
        timeout(MENDED, works).await.expect("sending works again when everything is mended");
        assert!(mended.elapsed() <= MENDED);
        let producer = self.producer.clone();
        until(async || producer.stats().await.unacknowledged == 0).await;
        self.check().await;
        assert!(self.watched.is_empty(), "every handle is resolved");
        self.transacting.finish().await;
        self.check_progress().await;
        self.check().await;
        let report = self.producer.close(Duration::from_secs(1)).await;
        assert_eq!((report.unknown, report.unsent.len()), (0, 0), "nothing was left");
        let counts = counts(&self.producer).await;
        assert_eq!((counts.queued, counts.in_flight), (0, 0), "{counts:?}");
        for broker in std::mem::take(&mut self.brokers).iter().flatten() {
            self.remember(broker);
        }
        self.compare()
    }

    /// What was promised is compared with what is stored; returns how many messages ended in which way.
    fn compare(&self) -> [usize; 4] {
        self.compare_transactions();
        if self.is_pinned && !self.at_least_once {
            self.compare_order();
        }
        let mut stored: BTreeMap<&[u8], usize> = BTreeMap::new();
        self.stored.values().for_each(|one| *stored.entry(&one.payload[..]).or_default() += 1);
        let mut ended = [0; 4];
        for (payload, outcome) in &self.outcomes {
            let times = stored.get(payload.as_bytes()).copied().unwrap_or(0);
            let name = payload.trim_end();
            match outcome.as_ref().map_err(SendError::outcome) {
                Ok(receipt) => {
                    ended[0] += 1;
                    let once = times == 1 || (self.at_least_once && receipt.attempts > 1 && times > 1);
                    assert!(once, "{name} was acknowledged by {receipt:?} and is stored {times} times");
                    let place = |stored: &Stored| {
                        (stored.id, stored.offset) == (receipt.message_id, receipt.offset)
                            && stored.payload == payload.as_bytes()
                    };
                    let is_there = self
                        .stored
                        .iter()
                        .any(|((_, broker, _), stored)| *broker == receipt.broker && place(stored));
                    assert!(is_there, "{name} is where it was said to be");
                }
                Err(Outcome::Unknown) => {
                    ended[1] += 1;
                    assert!(times <= 1 || self.at_least_once, "{name} is stored {times} times");
                }
                Err(Outcome::Rejected) => {
                    ended[2] += 1;
                    assert_eq!(times, 0, "{name} was rejected");
                }
                Err(Outcome::NotSent) => {
                    ended[3] += 1;
                    assert_eq!(times, 0, "{name} was not sent");
                }
            }
        }
        ended
    }

    /// The messages of each transaction are stored as it was told.
    fn compare_transactions(&self) {
        let mut stored: BTreeMap<&[u8], usize> = BTreeMap::new();
        self.stored.values().for_each(|one| *stored.entry(&one.payload[..]).or_default() += 1);
        for (parts, fate) in &self.transacting.ended {
            let times = parts.iter().map(|part| stored.get(part.as_bytes()).copied().unwrap_or(0));
            let times: Vec<_> = times.collect();
            let all = |wanted: usize| times.iter().all(|times| *times == wanted);
            let is_exact = match fate {
                Fate::Stored => all(1),
                Fate::NotStored => all(0),
                Fate::AllOrNothing => all(0) || all(1),
                Fate::Any => times.iter().all(|times| *times <= 1),
            };
            let names: Vec<_> = parts.iter().map(|part| part.trim_end()).collect();
            assert!(is_exact, "{names:?} are to be {fate:?}, and are stored {times:?} times");
        }
    }

    /// In each partition, what was acknowledged is stored in the order in which it was accepted. What is unknown may have been on
    /// a connection that was given up, and stored when its broker came to it.
    fn compare_order(&self) {
        let acknowledged = |payload: &[u8]| {
            let payload = std::str::from_utf8(payload).ok()?;
            self.outcomes.get(payload)?.as_ref().ok()
        };
        let mut partitions: BTreeMap<_, Vec<(i64, u64)>> = BTreeMap::new();
        for ((life, broker, _), stored) in &self.stored {
            let Some(receipt) = acknowledged(&stored.payload) else { continue };
            let text = std::str::from_utf8(&stored.payload).unwrap();
            let number = text.trim_end().parse().unwrap();
            let is_second = number_of_topic(&self.topics, number);
            let place = (*life, broker.clone(), stored.partition, is_second);
            assert_eq!(receipt.partition, stored.partition);
            partitions.entry(place).or_default().push((stored.offset, number));
        }
        for (place, mut stored) in partitions {
            stored.sort_unstable();
            let passed: Vec<_> = stored.windows(2).filter(|pair| pair[0].1 >= pair[1].1).collect();
            assert!(passed.is_empty(), "{place:?} holds pairs out of order: {passed:?}");
        }
    }
}

/// The topic of a message.
fn number_of_topic(topics: &BTreeMap<u64, usize>, number: u64) -> usize {
    topics.get(&number).copied().unwrap_or_default()
}

/// Counts of producer, topics and brokers agree.
fn check_sums(stats: &ProducerStats) {
    assert_eq!(stats.messages.offered, sum(stats.messages), "{:?}", stats.messages);
    let mut total = stats.other_topics;
    for topic in &stats.topics {
        let messages = topic.messages;
        assert_eq!(messages.offered, sum(messages), "{}: {messages:?}", topic.topic);
        let of_brokers =
            |count: fn(&metaq_producer::BrokerStats) -> u64| topic.brokers.iter().map(count).sum::<u64>();
        let other = &topic.other_brokers;
        assert_eq!(messages.acknowledged, of_brokers(|broker| broker.acknowledged) + other.acknowledged);
        assert_eq!(messages.rejected, of_brokers(|broker| broker.rejected) + other.rejected);
        assert_eq!(messages.unknown, of_brokers(|broker| broker.unknown) + other.unknown);
        add(&mut total, messages);
    }
    assert_eq!(total, stats.messages, "the sum of all topics");
}

fn add(total: &mut MessageCounts, more: MessageCounts) {
    total.offered += more.offered;
    total.queued += more.queued;
    total.in_flight += more.in_flight;
    total.acknowledged += more.acknowledged;
    total.rejected += more.rejected;
    total.unknown += more.unknown;
    total.not_sent += more.not_sent;
}
