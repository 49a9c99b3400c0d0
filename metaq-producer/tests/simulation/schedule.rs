//! One run: its cluster and producer, and what is done at each step.

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;
use futures_util::{FutureExt as _, future::join_all};
use metaq_producer::{
    BrokerAddr, Message, Outcome, Partition, Producer, SendError, SendErrorKind, SendHandle, SendReceipt,
    Topic, config::Jitter, selector::RandomSelector, stats::ConnectionStats,
};
use metaq_testkit::{Broker, EmbeddedRegistry, Stored};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    accounts::check_sums,
    common::cluster::{Pinned, broker_with, builder},
    faults::Standing,
    log::note,
    offers::Offers,
    progress::{LARGEST, Progress},
    transacting::Transacting,
};

/// The topics, each with two partitions on every broker. The second is unpublished and published again now
/// and then.
pub(crate) const TOPICS: [&str; 2] = ["t", "u"];

pub(crate) fn broker(registry: &EmbeddedRegistry, id: i32) -> Broker {
    let broker = broker_with(registry, id, &TOPICS.map(|topic| (topic, 2)));
    let _ = broker.monitor_puts();
    broker
}

pub(crate) fn named(topic: &str) -> Topic {
    topic.parse().unwrap()
}

/// The allowance for a message beyond its timeout.
const GRACE: Duration = Duration::from_millis(100);

/// The time within which what can go goes.
pub(crate) const PROMPTLY: Duration = Duration::from_millis(10);

/// The destination of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) topic: usize,
    /// The partition that its key names.
    pub(crate) partition: Option<Partition>,
}

/// A run.
pub(crate) struct Simulation {
    pub(crate) rng: Rng,
    pub(crate) registry: EmbeddedRegistry,
    pub(crate) brokers: Vec<Option<Broker>>,
    /// The faults of each broker.
    pub(crate) standings: Vec<Standing>,
    pub(crate) registry_fails: bool,
    pub(crate) producer: Producer,
    pub(crate) max_in_flight: usize,
    pub(crate) max_in_flight_bytes: usize,
    pub(crate) is_ordered: bool,
    pub(crate) at_least_once: bool,
    /// Whether the selector sends each message to the partition that its key names.
    pub(crate) is_pinned: bool,
    /// Whether the first topic has configured partitions, from which the selector chooses.
    pub(crate) is_configured: bool,
    /// Whether the second topic is published by its messages.
    publishes_by_message: bool,
    pub(crate) offers: Offers,
    /// The number of plain messages that were offered, and of those of them that were given up, which may not
    /// be counted.
    offered: u64,
    given_up: u64,
    /// The destination of each message.
    pub(crate) targets: BTreeMap<u64, Target>,
    pub(crate) transacting: Transacting,
    pub(crate) progress: Progress,
    /// Handles that are polled: the message, and its deadline.
    pub(crate) watched: Vec<(String, Instant, SendHandle)>,
    pub(crate) outcomes: BTreeMap<String, Result<SendReceipt, SendError>>,
    /// The messages that brokers have stored: the broker, its address, and the message's id.
    pub(crate) stored: BTreeMap<(u64, BrokerAddr, i64), Stored>,
    /// The number of brokers that preceded each present one.
    pub(crate) lives: Vec<u64>,
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
        let max_in_flight_bytes = if rng.u8(..3) == 0 { rng.usize(25_000..100_000) } else { 64 << 20 };
        let (ordered, at_least_once) = (rng.u8(..3) == 0, rng.u8(..4) == 0);
        let publishes_by_message = rng.bool();
        let config = builder(&registry, |config| {
            config.max_in_flight = max_in_flight;
            config.max_in_flight_bytes = max_in_flight_bytes;
            config.ordered = ordered;
            config.retry.at_least_once = at_least_once;
            config.retry.jitter = Jitter::seeded(seed);
            config.auto_publish = publishes_by_message;
        });
        let (is_random, is_pinned) = (rng.bool(), if ordered { rng.u8(..3) > 0 } else { rng.u8(..4) == 0 });
        let set = match rng.u8(..4) {
            0 => Some((0..count as i32).map(|id| format!("{id}:2;")).collect::<String>()),
            // Random choices would go to partitions that are there no more.
            1 if is_pinned => Some("ever-named".to_owned()),
            _ => None,
        };
        let config = match &set {
            Some(set) => config.partitions(named(TOPICS[0]), set.parse().unwrap()),
            None => config,
        };
        let offers = Offers::default();
        let config = config.failure_handler(offers.handler());
        note(format_args!(
            "{count} brokers, max_in_flight={max_in_flight} ({max_in_flight_bytes} bytes) ordered={ordered} at_least_once={at_least_once}"
        ));
        let producer = match (is_pinned, is_random) {
            (true, _) => config.selector(Pinned),
            (false, true) => config.selector(RandomSelector::new()),
            (false, false) => config,
        };
        let producer = producer.build().unwrap();
        producer.publish_topic(&named(TOPICS[0])).await.unwrap();
        note(format_args!(
            "each partition by its key: {is_pinned}, configured partitions: {set:?}, publishes by messages: \
             {publishes_by_message}"
        ));
        let transacting = Transacting::new(&producer, seed, count, is_pinned).await;
        let mut this = Self {
            rng,
            registry,
            brokers,
            standings: (0..count).map(|_| Standing::default()).collect(),
            registry_fails: false,
            producer,
            max_in_flight,
            max_in_flight_bytes,
            is_ordered: ordered,
            at_least_once,
            is_pinned,
            is_configured: set.is_some(),
            publishes_by_message,
            offers,
            offered: 0,
            given_up: 0,
            targets: BTreeMap::new(),
            transacting,
            progress: Progress::new(),
            watched: Vec::new(),
            outcomes: BTreeMap::new(),
            stored: BTreeMap::new(),
            lives: vec![0; count],
        };
        this.publish_second().await;
        this
    }

    pub(crate) async fn step(&mut self) {
        match self.rng.u8(..26) {
            0..10 => self.send().await,
            10..12 => self.fault(),
            12 => self.change_broker(),
            13 => self.change_registry(),
            14 => self.heal(),
            15 => self.drop_handle(),
            16..19 => {
                let is_calm = self.is_calm().await;
                self.transacting.step(&self.producer, is_calm).await;
            }
            19 => self.ask().await,
            20 => self.publish_again().await,
            _ => sleep(Duration::from_millis(self.rng.u64(..400))).await,
        }
        self.check_waiting().await;
        self.check().await;
    }

    pub(crate) fn next_message(&mut self) -> (String, Message) {
        let topic = usize::from(self.rng.u8(..4) == 0);
        self.next_message_to(topic)
    }

    fn next_message_to(&mut self, topic: usize) -> (String, Message) {
        self.offered += 1;
        let payload = format!("{:05}{}", self.offered, " ".repeat(self.rng.usize(..3) * 5000));
        let mut target = Target { topic, partition: None };
        let mut message = Message::new(named(TOPICS[topic]), payload.clone());
        if self.is_pinned {
            let partition = Partition::new(self.rng.i32(0..self.brokers.len() as i32), self.rng.i32(0..2));
            message = match self.rng.bool() {
                true => message.with_key(partition.to_string()),
                false => message.with_partition(partition),
            };
            target.partition = Some(partition);
        }
        self.targets.insert(self.offered, target);
        (payload, message)
    }

    /// Asks brokers for statistics, or waits for what was accepted.
    async fn ask(&mut self) {
        if self.rng.bool() {
            let time = Duration::from_millis(self.rng.u64(..500));
            note(format_args!("asks for statistics, {time:?}"));
            let (is_calm, asked) = (self.is_calm().await, Instant::now());
            let answers = timeout(time + GRACE, self.producer.broker_stats(None, time)).await;
            let answers = answers.expect("a question for statistics is not overdue");
            if is_calm && time > PROMPTLY {
                let took = asked.elapsed();
                assert!(
                    took <= PROMPTLY && answers.iter().all(|(_, answer)| answer.is_ok()),
                    "{took:?} {answers:?}"
                );
            }
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
        self.publish_second().await;
    }

    /// Publishes the second topic, or has its messages do that.
    async fn publish_second(&mut self) {
        let topic = named(TOPICS[1]);
        if !self.publishes_by_message {
            return self.producer.publish_topic(&topic).await.unwrap();
        }
        note("messages publish a topic");
        let (payload, message) = self.next_message_to(1);
        let refused = self.producer.try_send(message).map(drop).unwrap_err();
        let kinds = [SendErrorKind::NotConnected, SendErrorKind::Full];
        assert!(kinds.contains(&refused.kind()), "{refused}");
        self.ended(payload, Err(refused));
        let messages: Vec<_> = (0..3).map(|_| self.next_message_to(1)).collect();
        // They have their own time, in which a broker comes to be used that was started just now.
        let producer = &self.producer;
        let sent = messages.into_iter().map(|(payload, message)| async {
            (payload, producer.send_with_timeout(message, Duration::from_secs(10)).await)
        });
        for (payload, outcome) in join_all(sent).await {
            let may_fail = self.max_in_flight < 4 || self.max_in_flight_bytes < 8 * LARGEST;
            // Connections whose loss was not noticed are closed when all is mended.
            let is_lost = matches!(&outcome, Err(error) if error.outcome() == Outcome::Unknown);
            assert!(
                outcome.is_ok() || may_fail || is_lost,
                "{} published its topic: {outcome:?}",
                payload.trim_end()
            );
            self.ended(payload, outcome);
        }
        assert!(!self.producer.partitions(&topic).is_empty());
    }

    async fn send(&mut self) {
        for _ in 0..self.rng.usize(1..8) {
            let (payload, message) = self.next_message();
            let time = Duration::from_millis(self.rng.u64(1..4000));
            let deadline = Instant::now() + time;
            let accepted = match self.rng.u8(..5) {
                4 => {
                    let is_accepted = self.producer.offer(message);
                    self.offers.offered(payload, is_accepted);
                    continue;
                }
                0 => {
                    let could_go = self.could_go(message.topic()).await;
                    let accepted = self.producer.try_send(message);
                    if could_go && let Err(error) = &accepted {
                        let waits =
                            [SendErrorKind::Full, SendErrorKind::NotConnected].contains(&error.kind());
                        assert!(!waits, "{} could go: {error}", payload.trim_end());
                    }
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
                    let accepted = timeout(patience, self.producer.enqueue_with_timeout(message, time)).await;
                    if accepted.is_err() && patience > PROMPTLY {
                        let stats = self.producer.stats().await;
                        let is_full = stats.unacknowledged >= self.max_in_flight
                            || stats.unacknowledged_bytes + LARGEST > self.max_in_flight_bytes;
                        // What waits for one broker may take a quarter of the capacity.
                        let most_waiting = 4 * (stats.messages.queued as usize + 1);
                        let much_waits = most_waiting > self.max_in_flight
                            || most_waiting * LARGEST > self.max_in_flight_bytes;
                        assert!(is_full || much_waits, "a message waits to be accepted: {stats:?}");
                    }
                    accepted
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
    pub(crate) fn ended(&mut self, payload: String, outcome: Result<SendReceipt, SendError>) {
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

    pub(crate) async fn check(&mut self) {
        let stats = self.producer.stats().await;
        let counts = stats.messages;
        // The numbers of reads and writes show the slightest difference between two runs.
        for (broker, connection) in &stats.connections {
            // Not by how many bytes: names of transactions hold the number of the process.
            let ConnectionStats { established, requests, answered, writes, reads, .. } = connection;
            let counts = (established, requests, answered, writes, reads);
            note(format_args!("{broker}: established, requests, answered, writes, reads {counts:?}"));
        }
        note(format_args!("{counts:?}"));
        check_sums(&stats);
        self.take_failures();
        // Messages of transactions are counted, too, unless they could not be offered to any broker.
        let (least, most) = (self.offered - self.given_up, self.offered + self.transacting.offered);
        assert!((least..=most).contains(&counts.offered), "{least}..={most} were offered: {counts:?}");
        assert!(stats.unacknowledged <= self.max_in_flight, "{} are accepted", stats.unacknowledged);
        self.take_outcomes();
    }

    /// Takes the outcomes of the messages that have one; the others have time left.
    pub(crate) fn take_outcomes(&mut self) {
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
}
