//! Checks at each step that what can go goes immediately.

use std::{collections::BTreeSet, time::Duration};

use metaq_producer::{Partition, Topic, stats::ProducerStats};
use tokio::time::{Instant, sleep};

use crate::{
    log::note,
    schedule::{PROMPTLY, Simulation, TOPICS, named},
};

/// The largest size of a message on a connection, in bytes.
pub(crate) const LARGEST: usize = 10_200;

/// The longest pause before the last attempt of a message with the default settings: the pause before the
/// second is at most 10 ms, and doubles with each of five.
const LONGEST_PAUSE: Duration = Duration::from_millis(80);

/// The most partitions that a broker is ever named with.
const MOST_PARTITIONS: i32 = 8;

/// The interval of checks that something which waited has gone.
const PERIOD: Duration = Duration::from_millis(1);

/// The attempts that failed so far.
pub(crate) struct Progress {
    retried: u64,
    /// The time of the last failure of another one.
    last: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { retried: 0, last: Instant::now() - LONGEST_PAUSE }
    }

    fn look(&mut self, stats: &ProducerStats) {
        let of_topic = |topic: &metaq_producer::stats::TopicStats| {
            topic.brokers.iter().map(|broker| broker.retried).sum::<u64>() + topic.other_brokers.retried
        };
        let retried = stats.topics.iter().map(of_topic).sum();
        if std::mem::replace(&mut self.retried, retried) != retried {
            self.last = Instant::now();
        }
    }
}

impl Simulation {
    /// Fails if something waits on that could go. Messages that wait for their next attempt have the time for
    /// that.
    pub(crate) async fn check_waiting(&mut self) {
        let started = Instant::now();
        let stats = self.producer.stats().await;
        self.progress.look(&stats);
        self.take_outcomes();
        let mut waiting = self.waiting(&stats);
        while !waiting.is_empty() {
            let until = started.max(self.progress.last + LONGEST_PAUSE) + PROMPTLY;
            let seen = self.producer.stats().await;
            assert!(Instant::now() <= until, "{waiting:?} could go and waits on: {seen:?}");
            sleep(PERIOD).await;
            let stats = self.producer.stats().await;
            self.progress.look(&stats);
            self.take_outcomes();
            let still = self.waiting(&stats);
            waiting.retain(|waits| still.contains(waits));
        }
        self.check_recovered();
    }

    /// Whether the broker is there, reads what is sent, and has capacity for any message.
    pub(crate) fn has_capacity(&self, index: usize, stats: &ProducerStats) -> bool {
        let Some(broker) = &self.brokers[index] else { return false };
        let connection = stats.connections.iter().find(|(addr, _)| addr == broker.addr());
        let Some((_, connection)) = connection else { return false };
        let (requests, bytes) = ((self.max_in_flight / 2).max(1), self.max_in_flight_bytes / 2);
        !self.standings[index].is_frozen
            && !self.is_stranded(index)
            && connection.in_flight < requests
            && (connection.in_flight == 0 || connection.in_flight_bytes + LARGEST <= bytes)
    }

    /// Whether the broker's connections were lost without a word, and no other one was made since.
    fn is_stranded(&self, index: usize) -> bool {
        let accepted = self.brokers[index].as_ref().map_or(0, |broker| broker.accepted_connections());
        self.standings[index].stranded.is_some_and(|before| accepted <= before)
    }

    /// Whether answers that the broker has sent may not have been understood.
    pub(crate) fn is_garbled(&self, index: usize) -> bool {
        let accepted = self.brokers[index].as_ref().map_or(0, |broker| broker.accepted_connections());
        self.standings[index].garbled.is_some_and(|before| accepted <= before)
    }

    /// Whether the broker has no unanswered put of a partition, so that the next in order can go.
    pub(crate) fn is_free(&self, index: usize, topic: &str, partition: i32) -> bool {
        let Some(broker) = &self.brokers[index] else { return false };
        !self.is_ordered
            || (!self.is_garbled(index) && broker.monitor_puts().unanswered(topic, partition) == 0)
    }

    /// Messages that wait and could go: those for one partition, and topics that have any such message.
    fn waiting(&self, stats: &ProducerStats) -> BTreeSet<String> {
        let mut waiting = BTreeSet::new();
        for (number, name) in TOPICS.iter().enumerate() {
            let topic = stats.topics.iter().find(|topic| topic.topic.as_str() == *name);
            if topic.is_none_or(|topic| topic.messages.queued == 0) {
                continue;
            }
            let partitions = self.producer.partitions(&named(name));
            let has_any =
                |index: usize| partitions.iter().any(|partition| partition.broker.0 == index as i32);
            let mut usable =
                (0..self.brokers.len()).map(|index| has_any(index) && self.has_capacity(index, stats));
            let is_configured = number == 0 && self.is_configured;
            let could_go = if self.is_ordered || self.is_pinned || is_configured {
                // Any of them may be what it waits for.
                let free = |index| (0..4).all(|partition| self.is_free(index, name, partition));
                let has_all = !is_configured || self.has_configured();
                usable.all(|usable| usable) && (0..self.brokers.len()).all(free) && has_all
            } else {
                usable.any(|usable| usable)
            };
            if could_go {
                waiting.insert(format!("a message of topic {name}"));
            }
            for (payload, ..) in &self.watched {
                let text = payload.trim_end();
                let target = text.parse().ok().and_then(|number| self.targets.get(&number));
                let Some(partition) =
                    target.filter(|target| target.topic == number).and_then(|to| to.partition)
                else {
                    continue;
                };
                let index = partition.broker.0 as usize;
                if partitions.contains(&partition)
                    && self.has_capacity(index, stats)
                    && self.is_free(index, name, partition.index)
                    && !self.has_arrived(index, payload)
                {
                    waiting.insert(format!("message {text} for {name} {partition}"));
                }
            }
        }
        if !waiting.is_empty() {
            note(format_args!("{waiting:?} could go and waits"));
        }
        waiting
    }

    /// Whether all partitions are there that may be configured.
    fn has_configured(&self) -> bool {
        let there = self.producer.partitions(&named(TOPICS[0]));
        let configured = |id: usize| (0..MOST_PARTITIONS).map(move |index| Partition::new(id as i32, index));
        (0..self.brokers.len()).flat_map(configured).all(|partition| there.contains(&partition))
    }

    fn has_arrived(&self, index: usize, payload: &str) -> bool {
        let broker = self.brokers[index].as_ref();
        broker.is_some_and(|broker| broker.monitor_puts().received_data(payload.as_bytes()) > 0)
    }

    /// Whether a message of a topic that may go anywhere can go at once.
    pub(crate) async fn could_go(&self, topic: &Topic) -> bool {
        let stats = self.producer.stats().await;
        let queued = stats.topics.iter().filter(|one| one.topic == *topic).map(|one| one.messages.queued);
        let partitions = self.producer.partitions(topic);
        !self.is_ordered
            && !self.is_pinned
            && !self.is_configured
            && queued.sum::<u64>() == 0
            && stats.unacknowledged < self.max_in_flight
            && stats.unacknowledged_bytes + LARGEST <= self.max_in_flight_bytes
            && partitions.iter().any(|partition| self.has_capacity(partition.broker.0 as usize, &stats))
    }

    /// Whether nothing is wrong, nothing waits, and every broker is connected and has capacity.
    pub(crate) async fn is_calm(&self) -> bool {
        let stats = self.producer.stats().await;
        let is_sound = |index: usize| {
            let standing = &self.standings[index];
            // Connections that were closed may not have noticed it.
            let is_settled = standing.sound_since.is_some_and(|since| since.elapsed() >= PROMPTLY);
            is_settled && !self.is_garbled(index) && self.has_capacity(index, &stats)
        };
        !self.registry_fails
            && stats.messages.queued == 0
            && (0..self.brokers.len()).all(is_sound)
            && self.missing_broker().is_none()
    }

    /// A broker of which the producer doesn't use all partitions.
    pub(crate) fn missing_broker(&self) -> Option<usize> {
        let used = TOPICS.map(|topic| self.producer.partitions(&named(topic)));
        let all = |index: usize| {
            let of = |topic: usize| used[topic].iter().filter(|one| one.broker.0 == index as i32).count();
            (of(0), of(1)) == (self.standings[index].partitions, 2)
        };
        (0..self.brokers.len()).find(|index| !all(*index))
    }
}
