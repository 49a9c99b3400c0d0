//! The statistics of a producer.
//!
//! Here are the figures as they are read, `counts` is what counts them, and `remote` asks a broker for its
//! own.

pub(crate) mod counts;
pub(crate) mod remote;

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use metaq_protocol::{BrokerAddr, Topic};

pub use metaq_transport::ConnectionStats;
pub use remote::RemoteBrokerStats;

use counts::{Counts, TopicBrokerCounts, TopicCounts, TransactionTotals};

/// The statistics of a producer since it was built. The figures of messages always add up:
/// `offered = queued + in_flight + acknowledged + rejected + unknown + not_sent`.
///
/// # Sums
/// The producer's messages are those of its [`topics`](Self::topics) and of the
/// [`other_topics`](Self::other_topics). What a topic has acknowledged, rejected and unknown is what its
/// [`brokers`](TopicStats::brokers) and its [`other_brokers`](TopicStats::other_brokers) have. Only what a
/// broker has certainly not taken part in is in none of them: messages that were not sent.
///
/// A message counts once, however many attempts it took: where it may be stored, for the broker of the last
/// attempt whose outcome is unknown; else for the broker of its last attempt. The others count as
/// [`retried`](BrokerStats::retried).
///
/// # Messages of transactions
/// They are counted like any other, by what the broker answered to the message itself: it is acknowledged
/// when the broker has taken it, although it is stored only by the commit, and stays so if the transaction is
/// rolled back. It is unknown when its answer didn't come or wasn't waited for.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ProducerStats {
    /// The messages of all topics together, those to topics that were not published included.
    pub messages: MessageCounts,
    /// The number of messages that are accepted and have no outcome yet.
    pub unacknowledged: usize,
    /// The bytes of those messages.
    pub unacknowledged_bytes: usize,
    /// Each topic that is published, and the last 100 that were published before, sorted by name.
    pub topics: Vec<TopicStats>,
    /// The messages of all other topics: those that were published earlier, and those that were not published
    /// at all. A topic that is published again after that begins at zero.
    pub other_topics: MessageCounts,
    /// Those messages of `other_topics` that were refused because their topic was not published, or the
    /// producer was closed.
    pub unpublished: u64,
    /// Local transactions.
    pub transactions: TransactionCounts,
    /// Each broker that is connected or being connected to, sorted by address.
    pub connections: Vec<(BrokerAddr, ConnectionStats)>,
}

/// Counts of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageCounts {
    /// Were given to the producer.
    pub offered: u64,
    /// Wait for capacity, for a broker, for their turn, or for their next attempt.
    pub queued: u64,
    /// Were handed to a connection, and await their answer.
    pub in_flight: u64,
    /// Are stored, or taken as part of a transaction.
    pub acknowledged: u64,
    /// Were refused by a broker, and are not stored.
    pub rejected: u64,
    /// Were written, and may be stored.
    pub unknown: u64,
    /// Were never written, and are not stored.
    pub not_sent: u64,
}

/// Counts of local transactions: `begun = open + committed + rolled_back + unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionCounts {
    /// A broker was asked to begin them.
    pub begun: u64,
    /// Have not ended yet.
    pub open: u64,
    /// Were committed, as the broker confirmed.
    pub committed: u64,
    /// Nothing of them is stored: they were rolled back, dropped, or ended by an error.
    pub rolled_back: u64,
    /// Their commit was sent, and its outcome is not known.
    pub unknown: u64,
}

/// The statistics of one topic.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopicStats {
    /// The topic.
    pub topic: Topic,
    /// Its messages.
    pub messages: MessageCounts,
    /// Its brokers, and the last 16 that it had before, sorted by address.
    pub brokers: Vec<BrokerStats>,
    /// All brokers that it had earlier, together.
    pub other_brokers: OtherBrokerStats,
}

/// The statistics of one topic at the brokers that are not listed any more.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct OtherBrokerStats {
    /// Messages that they stored.
    pub acknowledged: u64,
    /// Messages that they refused.
    pub rejected: u64,
    /// Messages that they may have stored.
    pub unknown: u64,
    /// Attempts that failed and were followed by another.
    pub retried: u64,
    /// The latencies of acknowledged messages.
    pub latencies: LatencyStats,
}

/// The statistics of one topic at one broker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BrokerStats {
    /// The broker.
    pub broker: BrokerAddr,
    /// Messages that it stored.
    pub acknowledged: u64,
    /// Messages that it refused.
    pub rejected: u64,
    /// Messages that it may have stored.
    pub unknown: u64,
    /// Attempts that failed and were followed by another, here or elsewhere.
    pub retried: u64,
    /// The latencies of acknowledged messages.
    pub latencies: LatencyStats,
}

/// The latencies of acknowledged messages, from when they were offered until their answer was read, to about
/// 3 % and one microsecond.
#[derive(Clone, Debug, Default)]
pub struct LatencyStats {
    /// Pairs of microseconds and counts, ascending.
    counts: Vec<(u64, u64)>,
}

impl LatencyStats {
    /// The number of messages.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    /// The latency at `quantile`, of which 0.5 is the median. Zero when there were no messages.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        let count = self.count();
        let rank = ((quantile.clamp(0.0, 1.0) * count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let reached = self.counts.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        });
        Duration::from_micros(reached.map_or(0, |(micros, _)| *micros))
    }

    /// The latencies that occurred, ascending, each with the number of messages that took it.
    pub fn counts(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.counts.iter().map(|(micros, count)| (Duration::from_micros(*micros), *count))
    }

    /// The latency of the slowest one.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.counts.last().map_or(0, |(micros, _)| *micros))
    }

    /// The same with what `other` holds, for instance another broker's.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Self {
        let mut counts = std::collections::BTreeMap::new();
        for (micros, count) in self.counts.iter().chain(&other.counts) {
            *counts.entry(*micros).or_default() += count;
        }
        Self { counts: counts.into_iter().collect() }
    }
}

impl MessageCounts {
    /// Adds up, so that what is missing to the offered messages is in flight.
    fn balanced(mut self) -> Self {
        let ended = self.acknowledged + self.rejected + self.unknown + self.not_sent;
        self.in_flight = self.offered.saturating_sub(ended + self.queued);
        // Counts go on while they are read.
        self.offered = ended + self.queued + self.in_flight;
        self
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            offered: self.offered + other.offered,
            queued: self.queued + other.queued,
            in_flight: self.in_flight + other.in_flight,
            acknowledged: self.acknowledged + other.acknowledged,
            rejected: self.rejected + other.rejected,
            unknown: self.unknown + other.unknown,
            not_sent: self.not_sent + other.not_sent,
        }
    }
}

fn count(count: &AtomicU64) -> u64 {
    count.load(Relaxed)
}

pub(crate) fn topic_stats(topic: Topic, counts: &TopicCounts) -> TopicStats {
    // The end of a message's way first: what ended was offered before.
    let (brokers, other_brokers) = counts.topic_brokers(|topic_brokers, folded| {
        let brokers =
            topic_brokers.into_iter().map(|(broker, topic_broker)| broker_stats(broker, &topic_broker));
        (brokers.collect::<Vec<_>>(), other_broker_stats(folded))
    });
    let sum = |of: fn(&BrokerStats) -> u64| brokers.iter().map(of).sum::<u64>();
    let messages = MessageCounts {
        acknowledged: sum(|broker| broker.acknowledged) + other_brokers.acknowledged,
        rejected: sum(|broker| broker.rejected) + other_brokers.rejected,
        unknown: sum(|broker| broker.unknown) + other_brokers.unknown,
        not_sent: counts.not_sent(),
        queued: count(&counts.queued),
        offered: count(&counts.offered),
        in_flight: 0,
    };
    TopicStats { topic, messages: messages.balanced(), brokers, other_brokers }
}

fn broker_stats(broker: BrokerAddr, topic_broker: &TopicBrokerCounts) -> BrokerStats {
    let OtherBrokerStats { acknowledged, rejected, unknown, retried, latencies } =
        other_broker_stats(topic_broker);
    BrokerStats { broker, acknowledged, rejected, unknown, retried, latencies }
}

fn other_broker_stats(topic_broker: &TopicBrokerCounts) -> OtherBrokerStats {
    let latencies = LatencyStats { counts: topic_broker.latencies.counts().collect() };
    OtherBrokerStats {
        acknowledged: latencies.count(),
        rejected: count(&topic_broker.rejected),
        unknown: count(&topic_broker.unknown),
        retried: count(&topic_broker.retried),
        latencies,
    }
}

fn transaction_counts(totals: &TransactionTotals) -> TransactionCounts {
    // Their ends first, as with messages.
    let (committed, rolled_back, unknown) =
        (count(&totals.committed), count(&totals.rolled_back), count(&totals.unknown));
    let ended = committed + rolled_back + unknown;
    let begun = count(&totals.begun).max(ended);
    TransactionCounts { begun, open: begun - ended, committed, rolled_back, unknown }
}

impl ProducerStats {
    /// The counts of messages and transactions.
    pub(crate) fn of(counts: &Counts) -> Self {
        let (topics, folded) = counts.all();
        let unpublished = count(&counts.unpublished);
        let refused =
            MessageCounts { offered: unpublished, not_sent: unpublished, ..MessageCounts::default() };
        let other_topics = folded.plus(refused);
        let topics: Vec<_> = topics.into_iter().map(|(topic, counts)| topic_stats(topic, &counts)).collect();
        let messages = topics.iter().map(|topic| topic.messages).fold(other_topics, MessageCounts::plus);
        let transactions = transaction_counts(&counts.transactions);
        Self { messages, topics, other_topics, unpublished, transactions, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_counts() {
        let latencies = LatencyStats { counts: vec![(10, 90), (100, 9), (1000, 1)] };
        let at = |quantile| latencies.quantile(quantile).as_micros();
        assert_eq!(
            (at(0.0), at(0.5), at(0.9), at(0.95), at(0.99), at(0.999), at(1.0)),
            (10, 10, 10, 100, 100, 1000, 1000)
        );
        assert_eq!((latencies.count(), latencies.max()), (100, Duration::from_millis(1)));
        assert_eq!(LatencyStats::default().quantile(0.5), Duration::ZERO);
        let both = latencies.merged(&latencies);
        assert_eq!((both.count(), both.quantile(0.5)), (200, Duration::from_micros(10)));
    }
}
