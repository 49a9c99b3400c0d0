//! The counts of producer, topics and brokers add up.

use metaq_producer::stats::{BrokerStats, MessageCounts, ProducerStats};

use crate::common::cluster::sum;

/// Counts of producer, topics and brokers agree.
pub(crate) fn check_sums(stats: &ProducerStats) {
    assert_eq!(stats.messages.offered, sum(stats.messages), "{:?}", stats.messages);
    let mut total = stats.other_topics;
    for topic in &stats.topics {
        let messages = topic.messages;
        assert_eq!(messages.offered, sum(messages), "{}: {messages:?}", topic.topic);
        let of_brokers = |count: fn(&BrokerStats) -> u64| topic.brokers.iter().map(count).sum::<u64>();
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
