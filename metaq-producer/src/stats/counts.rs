//! The counts of messages.

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

use crate::{Outcome, error::FailedAttempt, stats, stats::MessageCounts};

/// The number of topics that are no longer published and keep their own figures. Those of others are only in
/// the sums.
pub(crate) const MAX_FORMER_TOPICS: usize = 100;

/// The number of brokers that a topic no longer uses and that keep their own figures.
pub(crate) const MAX_FORMER_BROKERS: usize = 16;

/// The counts of all topics, and of transactions.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    topics: Mutex<Kept<Topic, TopicCounts>>,
    /// The sums of topics that are not kept any more.
    folded: Mutex<MessageCounts>,
    /// Messages to topics that were not published; they are counted together, whatever their names.
    pub(crate) unpublished: AtomicU64,
    pub(crate) transactions: Arc<TransactionTotals>,
}

/// The numbers of local transactions by their outcomes.
#[derive(Debug, Default)]
pub(crate) struct TransactionTotals {
    pub(crate) begun: AtomicU64,
    pub(crate) committed: AtomicU64,
    pub(crate) rolled_back: AtomicU64,
    pub(crate) unknown: AtomicU64,
}

impl Counts {
    /// The counts of `topic`, which outlive its being published.
    pub(crate) fn topic(&self, topic: &Topic) -> Arc<TopicCounts> {
        let mut topics = self.topics.lock();
        let counts = topics.get(topic);
        self.fold(topics.over(MAX_FORMER_TOPICS, false));
        counts
    }

    /// The counts of the topics that are kept, and the sums of the others.
    pub(crate) fn all(&self) -> (Vec<(Topic, Arc<TopicCounts>)>, MessageCounts) {
        let mut topics = self.topics.lock();
        self.fold(topics.over(MAX_FORMER_TOPICS, true));
        (topics.all(), *self.folded.lock())
    }

    /// Called under the lock of the topics, so that no topic is missing in between.
    fn fold(&self, former: Vec<(Topic, TopicCounts)>) {
        for (topic, counts) in former {
            let mut folded = self.folded.lock();
            *folded = folded.plus(stats::topic_stats(topic, &counts).messages);
        }
    }
}

/// Counts by name, of which those out of use are removed when they become many.
#[derive(Debug)]
struct Kept<K, V> {
    entries: BTreeMap<K, Entry<V>>,
    /// The number of times that counts were asked for.
    uses: u64,
    /// The number of entries from which on unused ones are looked for.
    limit: usize,
}

#[derive(Debug)]
struct Entry<V> {
    counts: Arc<V>,
    last_use: u64,
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), uses: 0, limit: 0 }
    }
}

impl<K: Ord + Clone, V: Default> Kept<K, V> {
    fn get(&mut self, key: &K) -> Arc<V> {
        self.uses += 1;
        if let Some(entry) = self.entries.get_mut(key) {
            entry.last_use = self.uses;
            return Arc::clone(&entry.counts);
        }
        let counts = Arc::<V>::default();
        let entry = Entry { counts: Arc::clone(&counts), last_use: self.uses };
        self.entries.insert(key.clone(), entry);
        counts
    }

    fn find(&self, key: &K) -> Option<Arc<V>> {
        self.entries.get(key).map(|entry| Arc::clone(&entry.counts))
    }

    fn all(&self) -> Vec<(K, Arc<V>)> {
        self.entries.iter().map(|(key, entry)| (key.clone(), Arc::clone(&entry.counts))).collect()
    }

    /// Removes the counts that are held nowhere any more, except the `most` that were asked for last. Unless
    /// it has to be `now`, that is put off until there are twice as many entries, so that each costs little.
    fn over(&mut self, most: usize, now: bool) -> Vec<(K, V)> {
        if !now && self.entries.len() <= self.limit.max(2 * most) {
            return Vec::new();
        }
        // They can't be taken meanwhile: that would need this lock.
        let unused = self.entries.iter().filter(|(_, entry)| Arc::strong_count(&entry.counts) == 1);
        let mut unused: Vec<_> = unused.map(|(key, entry)| (entry.last_use, key.clone())).collect();
        let excess = unused.len().saturating_sub(most);
        unused.sort_unstable_by_key(|(last_use, _)| *last_use);
        let mut over = Vec::new();
        for (_, key) in unused.into_iter().take(excess) {
            let Some(entry) = self.entries.remove(&key) else { continue };
            if let Some(counts) = Arc::into_inner(entry.counts) {
                over.push((key, counts));
            }
        }
        self.limit = 2 * self.entries.len();
        over
    }
}

/// The counts of one topic.
#[derive(Debug, Default)]
pub(crate) struct TopicCounts {
    pub(crate) offered: AtomicU64,
    /// The number of messages that wait now: for capacity, for a broker, for their turn.
    pub(crate) queued: AtomicU64,
    not_sent: AtomicU64,
    topic_brokers: Mutex<Kept<BrokerAddr, TopicBrokerCounts>>,
    /// The sums of brokers that are not kept any more.
    folded: TopicBrokerCounts,
}

impl TopicCounts {
    /// The counts of what is sent to `broker`.
    pub(crate) fn topic_broker(&self, broker: &BrokerAddr) -> Arc<TopicBrokerCounts> {
        let mut topic_brokers = self.topic_brokers.lock();
        let counts = topic_brokers.get(broker);
        self.fold(topic_brokers.over(MAX_FORMER_BROKERS, false));
        counts
    }

    /// Has `see` look at the counts of all brokers that are kept, and at the sums of the others. Meanwhile
    /// none goes from the ones to the others.
    pub(crate) fn topic_brokers<R>(
        &self,
        see: impl FnOnce(Vec<(BrokerAddr, Arc<TopicBrokerCounts>)>, &TopicBrokerCounts) -> R,
    ) -> R {
        let mut topic_brokers = self.topic_brokers.lock();
        self.fold(topic_brokers.over(MAX_FORMER_BROKERS, true));
        see(topic_brokers.all(), &self.folded)
    }

    fn fold(&self, former: Vec<(BrokerAddr, TopicBrokerCounts)>) {
        former.iter().for_each(|(_, counts)| self.folded.add(counts));
    }

    /// Counts one message that was not acknowledged; `topic_broker` is that of its last attempt, if that was
    /// the end of it.
    pub(crate) fn failed(&self, outcome: Outcome, topic_broker: Option<&TopicBrokerCounts>) {
        // A broker has seen it, so it is in the figures by broker, too.
        let topic_broker = topic_broker.unwrap_or(&self.folded);
        match outcome {
            Outcome::Rejected => &topic_broker.rejected,
            Outcome::Unknown => &topic_broker.unknown,
            Outcome::NotSent => &self.not_sent,
        }
        .fetch_add(1, Relaxed);
    }

    /// Counts one message that was not acknowledged after earlier attempts. One that may be stored counts for
    /// the broker of the last attempt whose outcome is unknown, any other for that of its last attempt.
    pub(crate) fn failed_after(
        &self,
        outcome: Outcome,
        topic_broker: Option<&TopicBrokerCounts>,
        last_attempt: Option<Outcome>,
        attempts: &[FailedAttempt],
    ) {
        if topic_broker.is_some() && last_attempt == Some(outcome) {
            return self.failed(outcome, topic_broker);
        }
        let blamed = attempts.iter().rev().find(|attempt| attempt.outcome == outcome);
        let earlier = blamed.and_then(|attempt| self.topic_brokers.lock().find(&attempt.broker));
        self.failed(outcome, earlier.as_deref().or(topic_broker));
    }

    /// The number of messages that were never written.
    pub(crate) fn not_sent(&self) -> u64 {
        self.not_sent.load(Relaxed)
    }
}

/// The counts of what is sent to one broker for one topic.
#[derive(Debug, Default)]
pub(crate) struct TopicBrokerCounts {
    /// The latencies of all messages that were acknowledged, and thereby their number.
    pub(crate) latencies: Latencies,
    pub(crate) rejected: AtomicU64,
    pub(crate) unknown: AtomicU64,
    /// Attempts that were followed by another.
    pub(crate) retried: AtomicU64,
}

impl TopicBrokerCounts {
    /// Counts a message that the broker stored.
    #[inline]
    pub(crate) fn acknowledged(&self, latency: Duration) {
        self.latencies.record(latency);
    }

    /// Adds what `other` has, which doesn't change any more.
    fn add(&self, other: &Self) {
        self.latencies.add(&other.latencies);
        for (sum, count) in [
            (&self.rejected, &other.rejected),
            (&self.unknown, &other.unknown),
            (&self.retried, &other.retried),
        ] {
            sum.fetch_add(count.load(Relaxed), Relaxed);
        }
    }
}

/// The latencies of messages, in microseconds, in buckets at most 1/32 wide: one addition a message, and no
/// lock.
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
    fn buckets(&self) -> &[AtomicU64] {
        self.buckets.get_or_init(|| (0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }

    pub(crate) fn record(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).min(LARGEST);
        self.buckets()[bucket(micros)].fetch_add(1, Relaxed);
    }

    fn add(&self, other: &Self) {
        for (micros, count) in other.counts() {
            self.buckets()[bucket(micros)].fetch_add(count, Relaxed);
        }
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
    fn sums_never_go_back_while_topics_and_brokers_are_folded() {
        const THREADS: u64 = 4;
        const TOPICS: u64 = 120;
        let counts = Counts::default();
        let (done, counts) = (&AtomicU64::new(0), &counts);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || {
                    for n in 0..TOPICS {
                        let topic = counts.topic(&Topic::new(&format!("{thread}-{n}")).unwrap());
                        for port in 0..24 {
                            topic.offered.fetch_add(2, Relaxed);
                            let topic_broker = topic.topic_broker(&BrokerAddr::new("h", port + 1).unwrap());
                            topic_broker.latencies.record(Duration::from_micros(n));
                            topic.failed(Outcome::Rejected, Some(&topic_broker));
                        }
                    }
                    done.fetch_add(1, Relaxed);
                });
            }
            scope.spawn(move || {
                let mut before = stats::ProducerStats::default();
                loop {
                    let is_over = done.load(Relaxed) == THREADS;
                    let stats = stats::ProducerStats::of(counts);
                    assert!(stats.messages.acknowledged >= before.messages.acknowledged);
                    assert!(stats.messages.rejected >= before.messages.rejected);
                    assert!(stats.messages.offered >= before.messages.offered);
                    if is_over {
                        break;
                    }
                    before = stats;
                }
            });
        });
        let stats = stats::ProducerStats::of(counts);
        let MessageCounts { offered, acknowledged, rejected, in_flight, .. } = stats.messages;
        let each = THREADS * TOPICS * 24;
        assert_eq!((offered, acknowledged, rejected, in_flight), (2 * each, each, each, 0));
        assert_eq!(stats.topics.len(), MAX_FORMER_TOPICS);
        for topic in &stats.topics {
            assert_eq!(topic.brokers.len(), MAX_FORMER_BROKERS);
            assert_eq!((topic.other_brokers.acknowledged, topic.other_brokers.latencies.count()), (8, 8));
        }
        assert!(counts.topics.lock().entries.len() <= 2 * MAX_FORMER_TOPICS);
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
