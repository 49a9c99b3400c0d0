//! One run: what happens at each step, and what has to hold.

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;
use futures_util::FutureExt as _;
use metaq_producer::{
    BrokerAddr, Jitter, Message, Outcome, Producer, RandomSelector, SendError, SendHandle, SendReceipt,
};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, RegistryFault, Requests, Stored};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    cluster::{broker, builder, counts, message, sum, topic, until},
    log::note,
};

/// What a message may take longer than its timeout.
const GRACE: Duration = Duration::from_millis(100);

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
    offered: u64,
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
        let (ordered, at_least_once) = (rng.u8(..4) == 0, rng.u8(..4) == 0);
        let config = builder(&registry, |config| {
            config.max_in_flight = max_in_flight;
            config.ordered = ordered;
            config.retry.at_least_once = at_least_once;
            config.retry.jitter = Jitter::seeded(seed);
        });
        note(format_args!(
            "{count} brokers, max_in_flight={max_in_flight} ordered={ordered} at_least_once={at_least_once}"
        ));
        let producer = if rng.bool() { config } else { config.selector(RandomSelector::new()) };
        let producer = producer.build().unwrap();
        producer.publish_topic(&topic()).await.unwrap();
        Self {
            rng,
            registry,
            brokers,
            producer,
            max_in_flight,
            at_least_once,
            offered: 0,
            watched: Vec::new(),
            outcomes: BTreeMap::new(),
            stored: BTreeMap::new(),
            lives: vec![0; count],
        }
    }

    pub(crate) async fn step(&mut self) {
        match self.rng.u8(..20) {
            0..10 => self.send().await,
            10..12 => self.fault(),
            12 => self.change_broker(),
            13 => self.change_registry(),
            14 => self.heal(),
            15 => self.drop_handle(),
            _ => sleep(Duration::from_millis(self.rng.u64(..400))).await,
        }
        self.check().await;
    }

    fn next_message(&mut self) -> (String, Message) {
        self.offered += 1;
        let payload = format!("{}{}", self.offered, " ".repeat(self.rng.usize(..3) * 5000));
        (payload.clone(), message(payload))
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
                        Err(_) => note(format_args!("{} is given up", payload.trim_end())),
                    }
                    continue;
                }
                _ => {
                    let patience = Duration::from_millis(self.rng.u64(..200));
                    timeout(patience, self.producer.enqueue_with_timeout(message, time)).await
                }
            };
            if let Ok(accepted) = accepted {
                self.accepted(payload, deadline, accepted);
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
                broker.set_topic(&topic(), partitions);
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

    fn start(&mut self, index: usize) {
        note(format_args!("broker {index} starts"));
        self.brokers[index] = Some(broker(&self.registry, index as i32));
    }

    fn remember(&mut self, broker: &Broker) {
        let life = self.lives[broker.id().0 as usize];
        for stored in broker.messages("t") {
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
        note(format_args!("{counts:?} {:?}", stats.connections));
        assert_eq!((counts.offered, sum(counts)), (self.offered, self.offered), "{counts:?}");
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
}
