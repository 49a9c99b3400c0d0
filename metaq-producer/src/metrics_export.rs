//! The figures of a producer for the `metrics` facade.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use tokio::time::{MissedTickBehavior, interval};

use crate::{LatencyStats, Producer, ProducerStats};

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
    /// | `metaq_messages_acknowledged_total` | `topic`, `broker` | messages that are stored |
    /// | `metaq_messages_rejected_total` | `topic`, `broker` | messages that the broker refused |
    /// | `metaq_messages_unknown_total` | `topic`, `broker` | messages that may be stored |
    /// | `metaq_attempts_retried_total` | `topic`, `broker` | attempts that failed and were followed by another |
    /// | `metaq_latency_seconds` | `topic`, `broker`, `quantile` | how long acknowledged messages took, since the start |
    /// | `metaq_unacknowledged_messages` | — | messages that hold room |
    /// | `metaq_unacknowledged_bytes` | — | their bytes |
    ///
    /// Where several producers of a program send to the same topic, give each its own recorder, or a label by a layer: else the
    /// last one that writes is seen. Messages to topics that were not published are in none of them.
    pub fn record_metrics(&self) {
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
        gauge!(UNACKNOWLEDGED).set(self.unacknowledged as f64);
        gauge!(UNACKNOWLEDGED_BYTES).set(self.unacknowledged_bytes as f64);
    }
}

impl Producer {
    /// Writes the figures of [`ProducerStats::record_metrics`] now, and again `every` so often, the last time when the producer
    /// was closed; or until its last clone is dropped. To be spawned:
    ///
    /// ```no_run
    /// # async fn example(producer: metaq_producer::Producer) {
    /// tokio::spawn(producer.export_metrics(std::time::Duration::from_secs(10)));
    /// # }
    /// ```
    ///
    /// It doesn't keep the producer from ending. An interval below 10 ms is taken as 10 ms.
    ///
    /// # Cancel safety
    /// Safe: dropping the future ends the export.
    pub fn export_metrics(&self, every: Duration) -> impl Future<Output = ()> + Send + 'static {
        let inner = Arc::downgrade(&self.inner);
        async move {
            describe_metrics();
            let mut ticks = interval(every.max(Duration::from_millis(10)));
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

const OFFERED: &str = "metaq_messages_offered_total";
const QUEUED: &str = "metaq_messages_queued";
const IN_FLIGHT: &str = "metaq_messages_in_flight";
const NOT_SENT: &str = "metaq_messages_not_sent_total";
const ACKNOWLEDGED: &str = "metaq_messages_acknowledged_total";
const REJECTED: &str = "metaq_messages_rejected_total";
const UNKNOWN: &str = "metaq_messages_unknown_total";
const RETRIED: &str = "metaq_attempts_retried_total";
const LATENCY: &str = "metaq_latency_seconds";
const UNACKNOWLEDGED: &str = "metaq_unacknowledged_messages";
const UNACKNOWLEDGED_BYTES: &str = "metaq_unacknowledged_bytes";

fn describe_metrics() {
    for (name, text) in [
        (OFFERED, "Messages that were given to the producer"),
        (NOT_SENT, "Messages that were never written, and are not stored"),
        (ACKNOWLEDGED, "Messages that are stored"),
        (REJECTED, "Messages that a broker refused, and that are not stored"),
        (UNKNOWN, "Messages that were written, and may be stored"),
        (RETRIED, "Attempts that failed and were followed by another"),
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
