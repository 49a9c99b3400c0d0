//! What is counted of every message.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use metaq_protocol::{BrokerAddr, Topic};
use parking_lot::Mutex;

use crate::Outcome;

/// The counts of all topics that were ever sent to.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    topics: Mutex<BTreeMap<Topic, Arc<TopicCounts>>>,
    /// Messages to topics that were not published; they are counted together, whatever names somebody thinks of.
    pub(crate) unpublished: AtomicU64,
}

impl Counts {
    /// The counts of `topic`, which outlive its being published.
    pub(crate) fn topic(&self, topic: &Topic) -> Arc<TopicCounts> {
        Arc::clone(self.topics.lock().entry(topic.clone()).or_default())
    }

    pub(crate) fn all(&self) -> Vec<(Topic, Arc<TopicCounts>)> {
        let topics = self.topics.lock();
        topics.iter().map(|(topic, counts)| (topic.clone(), Arc::clone(counts))).collect()
    }
}

/// The counts of one topic.
#[derive(Debug, Default)]
pub(crate) struct TopicCounts {
    pub(crate) offered: AtomicU64,
    /// How many wait now: for room, for a broker, for their turn.
    pub(crate) queued: AtomicU64,
    rejected: AtomicU64,
    unknown: AtomicU64,
    not_sent: AtomicU64,
    lanes: Mutex<BTreeMap<BrokerAddr, Arc<LaneCounts>>>,
}

impl TopicCounts {
    /// The counts of what is sent to `broker`.
    pub(crate) fn lane(&self, broker: &BrokerAddr) -> Arc<LaneCounts> {
        Arc::clone(self.lanes.lock().entry(broker.clone()).or_default())
    }

    pub(crate) fn lanes(&self) -> Vec<(BrokerAddr, Arc<LaneCounts>)> {
        let lanes = self.lanes.lock();
        lanes.iter().map(|(broker, counts)| (broker.clone(), Arc::clone(counts))).collect()
    }

    /// One message ended that was not acknowledged; `lane` is the way of its last attempt, if that was the end of it.
    pub(crate) fn failed(&self, outcome: Outcome, lane: Option<&LaneCounts>) {
        match outcome {
            Outcome::Rejected => &self.rejected,
            Outcome::Unknown => &self.unknown,
            Outcome::NotSent => &self.not_sent,
        }
        .fetch_add(1, Relaxed);
        match (outcome, lane) {
            (Outcome::Rejected, Some(lane)) => drop(lane.rejected.fetch_add(1, Relaxed)),
            (Outcome::Unknown, Some(lane)) => drop(lane.unknown.fetch_add(1, Relaxed)),
            _ => {}
        }
    }

    /// How many messages ended each way: rejected, unknown, not sent.
    pub(crate) fn ended(&self) -> [u64; 3] {
        [&self.rejected, &self.unknown, &self.not_sent].map(|count| count.load(Relaxed))
    }
}

/// The counts of what is sent to one broker for one topic.
#[derive(Debug, Default)]
pub(crate) struct LaneCounts {
    /// The latencies of all messages that were acknowledged, and thereby their number.
    pub(crate) latencies: Latencies,
    pub(crate) rejected: AtomicU64,
    pub(crate) unknown: AtomicU64,
    /// Attempts that were followed by another.
    pub(crate) retried: AtomicU64,
}

/// How long messages took, in microseconds, in buckets at most 1/32 wide: one addition a message, and no lock.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    // Only allocated once there is something to count.
    buckets: OnceLock<Box<[AtomicU64]>>,
}

const LINEAR: u64 = 64;
const STEPS: u64 = 32;

/// The largest number that has a bucket of its own: more than a day.
const LARGEST: u64 = (1 << 37) - 1;

const BUCKETS: usize = bucket(LARGEST) + 1;

const fn bucket(micros: u64) -> usize {
    if micros < LINEAR {
        return micros as usize;
    }
    let log = micros.ilog2() as u64;
    (LINEAR + (log - 6) * STEPS + ((micros >> (log - 5)) & (STEPS - 1))) as usize
}

/// The largest number in a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < LINEAR {
        return bucket;
    }
    let (log, step) = ((bucket - LINEAR) / STEPS + 6, (bucket - LINEAR) % STEPS);
    (1 << log) + ((step + 1) << (log - 5)) - 1
}

impl Latencies {
    pub(crate) fn record(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).min(LARGEST);
        let buckets = self.buckets.get_or_init(|| (0..BUCKETS).map(|_| AtomicU64::new(0)).collect());
        buckets[bucket(micros)].fetch_add(1, Relaxed);
    }

    /// Every latency in microseconds that occurred, rounded up to its bucket, and how often.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let buckets = self.buckets.get().map_or(&[][..], |buckets| buckets);
        let counts = buckets.iter().enumerate().map(|(n, count)| (upper(n), count.load(Relaxed)));
        counts.filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_known_to_a_thirty_second_of_it() {
        let mut before = 0;
        for micros in (0..200_000).chain((1..37).flat_map(|log| [(1 << log) - 1, 1 << log, (1 << log) + 1])) {
            let upper = upper(bucket(micros));
            assert!(
                upper >= micros && upper - micros <= micros / 32,
                "{micros} is in the bucket up to {upper}"
            );
        }
        for n in 0..BUCKETS {
            assert_eq!(bucket(upper(n)), n);
            assert!(n == 0 || upper(n) > before);
            before = upper(n);
        }
    }

    #[test]
    fn every_latency_is_counted() {
        let latencies = Latencies::default();
        assert_eq!(latencies.counts().count(), 0);
        for millis in [1, 1, 50, 3_000, u64::MAX / 1000] {
            latencies.record(Duration::from_millis(millis));
        }
        let counts: Vec<_> = latencies.counts().collect();
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 5);
        assert_eq!(counts[0].1, 2);
        assert_eq!(counts.last().unwrap().0, LARGEST);
    }
}
