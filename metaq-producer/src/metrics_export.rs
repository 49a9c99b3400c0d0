//! The figures of a producer for the `metrics` facade.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use tokio::time::{MissedTickBehavior, interval};

use crate::{LatencyStats, Producer, ProducerStats, TransactionCounts, deadline};

impl ProducerStats {
    /// Writes the figures to the recorder of the `metrics` facade that the program has installed. Messages cost nothing by it:
    /// it takes what the producer counts anyway. The names, and their labels:
    ///
    /// | name | labels | is |
    /// |---|---|---|
    /// | `metaq_messages_offered_total` | `topic` | messages that were given to the producer |
    /// | `metaq_messages_queued` | `topic` | messages that wait |
    /// | `metaq_messages_in_flight` | `topic` | messages that await their answer |
    /// | `metaq_messages_not_sent_total` | `topic` | messages that were never written |
    /// | `metaq_messages_acknowledged_total` | `topic`, `broker` | messages that are stored, or taken as part of a transaction |
    /// | `metaq_messages_rejected_total` | `topic`, `broker` | messages that the broker refused |
    /// | `metaq_messages_unknown_total` | `topic`, `broker` | messages that may be stored |
    /// | `metaq_attempts_retried_total` | `topic`, `broker` | attempts that failed and were followed by another |
    /// | `metaq_latency_seconds` | `topic`, `broker`, `quantile` | how long acknowledged messages took, since the start |
    /// | `metaq_transactions_begun_total` | — | local transactions that a broker was asked to begin |
    /// | `metaq_transactions_committed_total` | — | those that were committed |
    /// | `metaq_transactions_rolled_back_total` | — | those of which nothing is stored |
    /// | `metaq_transactions_unknown_total` | — | those whose commit has no known outcome |
    /// | `metaq_unacknowledged_messages` | — | messages that hold room |
    /// | `metaq_unacknowledged_bytes` | — | their bytes |
    ///
    /// Of each topic the offered messages are those that are queued, in flight or not sent, and those that its brokers
    /// acknowledged, rejected or may have stored. Messages to topics that were not published have `not published` in place of
    /// the topic, and are all not sent.
    ///
    /// Topics and brokers that the statistics [list no more](Self::other_topics) keep the values that were recorded last: they
    /// are not added to anything else, so that sums over all topics or brokers stay right in a recorder that keeps them. Such a
    /// topic begins at zero when it is published again; a recorder whose counters only grow shows it once it has passed its
    /// former value.
    ///
    /// Where several producers of a program send to the same topic, give each its own recorder, or a label by a layer: else the
    /// last one that writes is seen.
    pub fn record_metrics(&self) {
        counter!(OFFERED, "topic" => UNPUBLISHED).absolute(self.unpublished);
        counter!(NOT_SENT, "topic" => UNPUBLISHED).absolute(self.unpublished);
        for stats in &self.topics {
            let topic = stats.topic.as_str().to_owned();
            let messages = &stats.messages;
            counter!(OFFERED, "topic" => topic.clone()).absolute(messages.offered);
            counter!(NOT_SENT, "topic" => topic.clone()).absolute(messages.not_sent);
            gauge!(QUEUED, "topic" => topic.clone()).set(messages.queued as f64);
            gauge!(IN_FLIGHT, "topic" => topic.clone()).set(messages.in_flight as f64);
            for broker in &stats.brokers {
                let labels = [("topic", topic.clone()), ("broker", broker.broker.to_string())];
                counter!(ACKNOWLEDGED, &labels).absolute(broker.acknowledged);
                counter!(REJECTED, &labels).absolute(broker.rejected);
                counter!(UNKNOWN, &labels).absolute(broker.unknown);
                counter!(RETRIED, &labels).absolute(broker.retried);
                record_latencies(&broker.latencies, &labels);
            }
        }
        let TransactionCounts { begun, open: _, committed, rolled_back, unknown } = self.transactions;
        for (name, count) in [
            (BEGUN, begun),
            (COMMITTED, committed),
            (ROLLED_BACK, rolled_back),
            (UNKNOWN_TRANSACTIONS, unknown),
        ] {
            counter!(name).absolute(count);
        }
        gauge!(UNACKNOWLEDGED).set(self.unacknowledged as f64);
        gauge!(UNACKNOWLEDGED_BYTES).set(self.unacknowledged_bytes as f64);
    }
}

impl Producer {
    /// Writes the figures of [`ProducerStats::record_metrics`] now, and again `every` so often, the last time at the end of the
    /// interval in which the producer was closed, or its last clone dropped. To be spawned:
    ///
    /// ```no_run
    /// # async fn example(producer: metaq_producer::Producer) {
    /// tokio::spawn(producer.export_metrics(std::time::Duration::from_secs(10)));
    /// # }
    /// ```
    ///
    /// It doesn't keep the producer from ending. An interval below 10 ms is taken as 10 ms. That the producer was closed or
    /// dropped is seen when the interval is over.
    ///
    /// Outside of a tokio runtime it ends at once, which is told to `tracing` as an error.
    ///
    /// # Cancel safety
    /// Safe: dropping the future ends the export.
    pub fn export_metrics(&self, every: Duration) -> impl Future<Output = ()> + Send + 'static {
        let inner = Arc::downgrade(&self.inner);
        async move {
            describe_metrics();
            if deadline::runtime().is_none() {
                tracing::error!(
                    "metrics are not exported: there is no tokio runtime with timers here to wait in"
                );
                return;
            }
            let mut ticks = interval(every.clamp(Duration::from_millis(10), deadline::FAR));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let Some(inner) = inner.upgrade() else { return };
                // Asked before the figures are read, so that the last ones are not older than the end.
                let is_closed = inner.closed.load(Ordering::Acquire);
                Self { inner }.stats().await.record_metrics();
                if is_closed {
                    return;
                }
            }
        }
    }
}

/// In place of the topic, which can't hold a blank.
const UNPUBLISHED: &str = "not published";

const OFFERED: &str = "metaq_messages_offered_total";
const QUEUED: &str = "metaq_messages_queued";
const IN_FLIGHT: &str = "metaq_messages_in_flight";
const NOT_SENT: &str = "metaq_messages_not_sent_total";
const ACKNOWLEDGED: &str = "metaq_messages_acknowledged_total";
const REJECTED: &str = "metaq_messages_rejected_total";
const UNKNOWN: &str = "metaq_messages_unknown_total";
const RETRIED: &str = "metaq_attempts_retried_total";
const LATENCY: &str = "metaq_latency_seconds";
const BEGUN: &str = "metaq_transactions_begun_total";
const COMMITTED: &str = "metaq_transactions_committed_total";
const ROLLED_BACK: &str = "metaq_transactions_rolled_back_total";
const UNKNOWN_TRANSACTIONS: &str = "metaq_transactions_unknown_total";
const UNACKNOWLEDGED: &str = "metaq_unacknowledged_messages";
const UNACKNOWLEDGED_BYTES: &str = "metaq_unacknowledged_bytes";

fn describe_metrics() {
    for (name, text) in [
        (OFFERED, "Messages that were given to the producer"),
        (NOT_SENT, "Messages that were never written, and are not stored"),
        (ACKNOWLEDGED, "Messages that are stored, or taken as part of a transaction"),
        (REJECTED, "Messages that a broker refused, and that are not stored"),
        (UNKNOWN, "Messages that were written, and may be stored"),
        (RETRIED, "Attempts that failed and were followed by another"),
        (BEGUN, "Local transactions that a broker was asked to begin"),
        (COMMITTED, "Local transactions that were committed"),
        (ROLLED_BACK, "Local transactions of which nothing is stored"),
        (UNKNOWN_TRANSACTIONS, "Local transactions whose commit has no known outcome"),
    ] {
        describe_counter!(name, Unit::Count, text);
    }
    for (name, unit, text) in [
        (QUEUED, Unit::Count, "Messages that wait for room, a broker, their turn or their next attempt"),
        (IN_FLIGHT, Unit::Count, "Messages that were handed to a connection, and await their answer"),
        (UNACKNOWLEDGED, Unit::Count, "Messages that are accepted and have no outcome yet"),
        (UNACKNOWLEDGED_BYTES, Unit::Bytes, "Bytes of the messages that have no outcome yet"),
        (LATENCY, Unit::Seconds, "How long acknowledged messages took, since the producer was made"),
    ] {
        describe_gauge!(name, unit, text);
    }
}

fn record_latencies(latencies: &LatencyStats, labels: &[(&'static str, String); 2]) {
    for (name, quantile) in [("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99), ("0.999", 0.999), ("1", 1.0)] {
        let [topic, broker] = labels.clone();
        let labels = [topic, broker, ("quantile", name.to_owned())];
        gauge!(LATENCY, &labels).set(latencies.quantile(quantile).as_secs_f64());
    }
}
