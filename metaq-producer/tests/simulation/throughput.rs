//! The cost of a fault of one broker for the others: a steady load is offered for a fixed time, with and
//! without the fault, and what the healthy brokers store of it is compared.
//!
//! The load is open: a message is offered at its time, whatever became of those before it. Some messages are
//! free to go to any broker, the others are for one partition of each broker in turn. In some runs the limits
//! are so small that the messages which insist on the broker that fails would fill them several times over
//! until their timeout.

use std::{collections::BTreeMap, fmt, time::Duration};

use fastrand::Rng;
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use metaq_producer::{
    Message, Partition, PartitionSelector, SendError, SendReceipt, Topic, config::Jitter,
    selector::RoundRobinSelector,
};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use tokio::time::{Instant, sleep_until};

use crate::{
    common::cluster::{Pinned, broker_with, builder},
    number, runtime,
};

/// The default number of seeds.
const SEEDS: u64 = 1;

const BROKERS: i32 = 3;
const PARTITIONS: u32 = 2;

/// The load: one message for each broker and some free ones, its interval, and its duration.
const PERIOD: Duration = Duration::from_millis(20);
const TICKS: u32 = 150;

/// The fault begins and ends with these ticks.
const BEGINS: u32 = 25;
const ENDS: u32 = 115;

/// A broker whose connections were lost without a word stores messages again by this tick, 1.4 s afterwards.
const USED_AGAIN: u32 = BEGINS + 70;

/// The added latency of messages that go to healthy brokers at their first attempt.
const ADDED: Duration = Duration::from_millis(50);

/// The fault of broker 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BrokerFault {
    Frozen,
    Slow,
    /// Never answers puts, so that it has all messages that it may have.
    Full,
    RefusesPartition,
    Busy,
    Killed,
    /// Its connections are lost without notice. It is used again long before the fault ends.
    HalfOpen,
}

const FAULTS: [BrokerFault; 7] = [
    BrokerFault::HalfOpen,
    BrokerFault::Frozen,
    BrokerFault::Slow,
    BrokerFault::Full,
    BrokerFault::RefusesPartition,
    BrokerFault::Busy,
    BrokerFault::Killed,
];

/// Sends messages with a key to the partition that it names, and others in turns.
struct Mixed(RoundRobinSelector);

impl PartitionSelector for Mixed {
    fn select(&self, topic: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        match message.key() {
            Some(_) => Pinned.select(topic, partitions, message),
            None => self.0.select(topic, partitions, message),
        }
    }

    fn reselect(
        &self,
        topic: &Topic,
        partitions: &[Partition],
        message: &Message,
        unfit: Partition,
    ) -> Option<Partition> {
        match message.key() {
            Some(_) => None,
            None => self.0.reselect(topic, partitions, message, unfit),
        }
    }
}

/// The settings of a run, all drawn from its seed.
#[derive(Clone, Copy, Debug)]
struct Settings {
    seed: u64,
    is_ordered: bool,
    /// Whether the limits are smaller than what is offered to a broker until its messages time out.
    is_tight: bool,
}

/// The results of the healthy brokers.
struct Totals {
    /// The messages that each broker has stored, those for one of its partitions and free ones.
    stored: BTreeMap<(i32, bool), usize>,
    /// The free messages that were stored by any broker.
    free: usize,
    /// The longest time that a message took which went to a healthy broker at its first attempt.
    slowest: Duration,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} free ones, at most {:?}", self.stored, self.free, self.slowest)
    }
}

fn broker(registry: &EmbeddedRegistry) -> Broker {
    broker_with(registry, 0, &[("t", PARTITIONS)])
}

impl BrokerFault {
    fn begin(self, failing: &mut Option<Broker>) {
        let Some(broker) = failing else { return };
        let faults = broker.faults();
        match self {
            Self::Frozen => faults.freeze(),
            Self::Slow => drop(faults.plan(Requests::puts(), Fault::Late(Duration::from_millis(700)))),
            Self::Full => drop(faults.plan(Requests::puts(), Fault::Swallow)),
            Self::RefusesPartition => {
                drop(faults.plan(Requests::puts().of_partition(1), Fault::refuse(403, "closed")));
            }
            Self::Busy => drop(faults.plan(Requests::puts(), Fault::refuse(503, "busy"))),
            Self::Killed => *failing = None,
            Self::HalfOpen => faults.strand_connections(),
        }
    }

    fn end(self, failing: &mut Option<Broker>, registry: &EmbeddedRegistry) {
        match failing {
            Some(failing) => failing.faults().heal(),
            None => *failing = Some(broker(registry)),
        }
    }
}

/// Offers the load.
async fn offer(settings: Settings, fault: Option<BrokerFault>) -> Totals {
    let Settings { seed, is_ordered, is_tight } = settings;
    fastrand::seed(seed);
    let mut rng = Rng::with_seed(seed);
    let registry = EmbeddedRegistry::new();
    let healthy: Vec<_> = (1..BROKERS).map(|id| broker_with(&registry, id, &[("t", PARTITIONS)])).collect();
    let mut failing = Some(broker(&registry));
    let config = builder(&registry, |config| {
        config.ordered = is_ordered;
        config.retry.jitter = Jitter::seeded(seed);
        if is_tight {
            config.max_in_flight = 60;
        }
    });
    let producer = config.selector(Mixed(RoundRobinSelector::new().starting_at(1))).build().unwrap();
    let topic: Topic = "t".parse().unwrap();
    producer.publish_topic(&topic).await.unwrap();
    let timed = async |message: Message| -> (Duration, Result<SendReceipt, SendError>) {
        let offered = Instant::now();
        let outcome = producer.send(message).await;
        (offered.elapsed(), outcome)
    };
    let (mut under_way, mut ended) = (FuturesUnordered::new(), Vec::new());
    let started = Instant::now();
    let mut stored_before = 0;
    for tick in 0..TICKS {
        if let Some(fault) = fault {
            match tick {
                BEGINS => fault.begin(&mut failing),
                ENDS => fault.end(&mut failing, &registry),
                _ => {}
            }
            let stored = failing.as_ref().map_or(0, |broker| broker.messages("t").len());
            match tick {
                BEGINS => stored_before = stored,
                USED_AGAIN if fault == BrokerFault::HalfOpen => {
                    assert!(stored > stored_before, "{settings:?}: it is used again");
                }
                _ => {}
            }
        }
        for _ in 0..rng.usize(1..6) {
            let payload = format!("free {tick}{}", " ".repeat(rng.usize(..2000)));
            under_way.push(timed(Message::new(topic.clone(), payload)));
        }
        for id in 0..BROKERS {
            let partition = Partition::new(id, rng.i32(0..PARTITIONS as i32));
            let message = Message::new(topic.clone(), format!("keyed {tick}"));
            under_way.push(timed(message.with_key(partition.to_string())));
        }
        let next = started + PERIOD * (tick + 1);
        let until_next = async {
            loop {
                match under_way.next().await {
                    Some(outcome) => ended.push(outcome),
                    None => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = until_next => {}
            () = sleep_until(next) => {}
        }
    }
    while let Some(Some(outcome)) = under_way.next().now_or_never() {
        ended.push(outcome);
    }
    let mut totals = Totals { stored: BTreeMap::new(), free: 0, slowest: Duration::ZERO };
    for broker in &healthy {
        for message in broker.messages("t") {
            *totals.stored.entry((broker.id().0, message.payload.starts_with(b"keyed"))).or_default() += 1;
        }
    }
    totals.free = totals.stored.iter().filter(|((_, keyed), _)| !keyed).map(|(_, count)| count).sum();
    for (took, outcome) in &ended {
        if let Ok(receipt) = outcome
            && receipt.partition.broker.0 != 0
            && receipt.attempts == 1
        {
            totals.slowest = totals.slowest.max(*took);
        }
    }
    totals
}

fn run(settings: Settings, fault: Option<BrokerFault>) -> Totals {
    let runtime = runtime(settings.seed).enable_time().start_paused(true).build().unwrap();
    runtime.block_on(offer(settings, fault))
}

#[test]
fn a_fault_of_one_broker_costs_the_others_nothing() {
    let seeds = match number("METAQ_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("METAQ_SEEDS").map_or(SEEDS, |seeds| seeds.div_ceil(10)),
    };
    for seed in seeds {
        for (is_ordered, is_tight) in [(false, false), (true, false), (false, true), (true, true)] {
            let settings = Settings { seed, is_ordered, is_tight };
            let before = run(settings, None);
            for fault in FAULTS {
                let with = run(settings, Some(fault));
                println!("{settings:?} {fault:?}: {with}; without {before}");
                for (of, count) in &before.stored {
                    let stored = with.stored.get(of).copied().unwrap_or(0);
                    assert!(
                        stored as f64 >= 0.95 * *count as f64,
                        "{settings:?} {fault:?}: {of:?} stored {stored} instead of {count}"
                    );
                }
                assert!(
                    with.slowest <= before.slowest + ADDED,
                    "{settings:?} {fault:?}: {:?} instead of {:?}",
                    with.slowest,
                    before.slowest
                );
            }
        }
    }
}
