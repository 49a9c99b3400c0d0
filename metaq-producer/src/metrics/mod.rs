//! The figures of a producer for the `metrics` facade.

mod series;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use metaq_discovery::RegistryState;
use metaq_transport::ConnectionStats;
use metrics::{Unit, describe_counter, describe_gauge};
use series::{Exported, Labels, Series, Single};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    Producer, deadline,
    health::{ConnectionHealth, ConnectionPhase, EventCounts, ProducerHealth},
    stats::{LatencyStats, ProducerStats, TransactionCounts},
};

impl ProducerStats {
    /// Writes the figures to the recorder of the `metrics` facade that the program has installed. Messages
    /// cost nothing by it: it takes what the producer counts anyway. The names, and their labels:
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
    /// | `metaq_latency_seconds_bucket` | `topic`, `broker`, `le` | acknowledged messages that took at most `le` seconds |
    /// | `metaq_latency_seconds_count` | `topic`, `broker` | acknowledged messages |
    /// | `metaq_latency_seconds_sum` | `topic`, `broker` | the seconds that they took, to about 3 % |
    /// | `metaq_transactions_begun_total` | — | local transactions that a broker was asked to begin |
    /// | `metaq_transactions_committed_total` | — | those that were committed |
    /// | `metaq_transactions_rolled_back_total` | — | those of which nothing is stored |
    /// | `metaq_transactions_unknown_total` | — | those whose commit has no known outcome |
    /// | `metaq_unacknowledged_messages` | — | messages that hold capacity |
    /// | `metaq_unacknowledged_bytes` | — | their bytes |
    /// | `metaq_connections_established_total` | `broker` | how often a connection was established |
    /// | `metaq_requests_total` | `broker` | requests that connections accepted |
    /// | `metaq_requests_answered_total` | `broker` | those that were answered in time |
    /// | `metaq_answers_ignored_total` | `broker` | answers that came too late |
    /// | `metaq_writes_total`, `metaq_reads_total` | `broker` | calls of the operating system |
    /// | `metaq_written_bytes_total`, `metaq_read_bytes_total` | `broker` | bytes of those calls |
    ///
    /// The counts of connections are sums over those that a broker has; they begin at zero when its
    /// connections are replaced. [`export_metrics`](Producer::export_metrics) goes on from the former count
    /// then.
    ///
    /// The buckets count all latencies up to their limit, as those of a histogram in Prometheus do: they can
    /// be added up over topics, brokers and producers, and `histogram_quantile` takes their rates.
    ///
    /// Of each topic the offered messages are those that are queued, in flight or not sent, and those that
    /// its brokers acknowledged, rejected or may have stored. Messages to topics that were not published have
    /// `not published` in place of the topic, and are all not sent.
    ///
    /// Topics and brokers that the statistics [list no more](Self::other_topics) keep the values that were
    /// recorded last: they are not added to anything else, so that sums over all topics or brokers stay right
    /// in a recorder that keeps them. Such a topic begins at zero when it is published again; a recorder
    /// whose counters only grow shows it once it has passed its former value, unless `export_metrics` writes
    /// it, which goes on from there.
    ///
    /// Where several producers of a program send to the same topic, give each its own recorder, or a label by
    /// a layer: else the last one that writes is seen.
    pub fn record_metrics(&self) {
        self.write(&mut Single);
    }

    fn write(&self, to: &mut impl Series) {
        to.count(OFFERED, &[("topic", UNPUBLISHED)], self.unpublished);
        to.count(NOT_SENT, &[("topic", UNPUBLISHED)], self.unpublished);
        for stats in &self.topics {
            let messages = &stats.messages;
            let labels = [("topic", stats.topic.as_str())];
            to.count(OFFERED, &labels, messages.offered);
            to.count(NOT_SENT, &labels, messages.not_sent);
            to.level(QUEUED, &labels, messages.queued as f64);
            to.level(IN_FLIGHT, &labels, messages.in_flight as f64);
            for broker in &stats.brokers {
                let addr = broker.broker.to_string();
                let labels = [("topic", stats.topic.as_str()), ("broker", &addr)];
                to.count(ACKNOWLEDGED, &labels, broker.acknowledged);
                to.count(REJECTED, &labels, broker.rejected);
                to.count(UNKNOWN, &labels, broker.unknown);
                to.count(RETRIED, &labels, broker.retried);
                write_latencies(&broker.latencies, labels, to);
            }
        }
        let TransactionCounts { begun, open: _, committed, rolled_back, unknown } = self.transactions;
        to.count(BEGUN, &[], begun);
        to.count(COMMITTED, &[], committed);
        to.count(ROLLED_BACK, &[], rolled_back);
        to.count(UNKNOWN_TRANSACTIONS, &[], unknown);
        to.level(UNACKNOWLEDGED, &[], self.unacknowledged as f64);
        to.level(UNACKNOWLEDGED_BYTES, &[], self.unacknowledged_bytes as f64);
        let mut brokers = BTreeMap::<_, [u64; CONNECTIONS.len()]>::new();
        for (broker, stats) in &self.connections {
            let counts = brokers.entry(broker).or_default();
            counts.iter_mut().zip(connection_counts(stats)).for_each(|(sum, count)| *sum += count);
        }
        for (broker, counts) in brokers {
            let broker = broker.to_string();
            for ((name, _), count) in CONNECTIONS.into_iter().zip(counts) {
                to.count(name, &[("broker", &broker)], count);
            }
        }
    }
}

impl ProducerHealth {
    /// Writes the health to the recorder of the `metrics` facade that the program has installed. The names,
    /// and their labels:
    ///
    /// | name | labels | is |
    /// |---|---|---|
    /// | `metaq_registry_connected` | — | 1 while the registry answers, 0 while it doesn't; missing where that isn't known |
    /// | `metaq_topic_partitions` | `topic` | partitions that messages can go to now |
    /// | `metaq_topic_brokers_missing` | `topic` | brokers that the registry names and that are not connected |
    /// | `metaq_topic_view_age_seconds` | `topic` | how long ago the registry was read |
    /// | `metaq_connection_state` | `broker`, `state` | connections in this state: `connecting`, `ready`, `stalled`, `closing` or `closed` |
    /// | `metaq_connection_requests` | `broker` | requests that the broker has not answered yet |
    /// | `metaq_connection_bytes` | `broker` | bytes of those requests |
    /// | `metaq_events_total` | `event` | [events](crate::health::ProducerEvent): `connected`, `unreachable`, `connection_lost`, `stalled`, `recovered`, `closed`, `route_changed` or `registry_lost` |
    ///
    /// A broker or topic that isn't used any more keeps the values that were recorded last;
    /// [`export_metrics`](Producer::export_metrics) sets them to 0.
    pub fn record_metrics(&self) {
        self.write(&mut Single);
    }

    fn write(&self, to: &mut impl Series) {
        let registry = match self.registry.state {
            RegistryState::Connected => Some(1.0),
            RegistryState::Lost => Some(0.0),
            _ => None,
        };
        if let Some(connected) = registry {
            to.level(REGISTRY, &[], connected);
        }
        for health in &self.topics {
            let labels = [("topic", health.topic.as_str())];
            to.level(PARTITIONS, &labels, health.partitions as f64);
            to.level(MISSING, &labels, health.missing.len() as f64);
            if let Some(age) = health.view_age {
                to.level(VIEW_AGE, &labels, age.as_secs_f64());
            }
        }
        for health in &self.brokers {
            let broker = health.addr.to_string();
            for phase in ConnectionPhase::ALL {
                let count = health.connections.iter().filter(|connection| connection.phase == phase).count();
                let labels = [("broker", broker.as_str()), ("state", &phase.to_string())];
                to.level(CONNECTION_STATE, &labels, count as f64);
            }
            let labels = [("broker", broker.as_str())];
            let sum = |of: fn(&ConnectionHealth) -> usize| health.connections.iter().map(of).sum::<usize>();
            to.level(CONNECTION_REQUESTS, &labels, sum(|connection| connection.in_flight) as f64);
            to.level(CONNECTION_BYTES, &labels, sum(|connection| connection.in_flight_bytes) as f64);
        }
        for (event, count) in event_counts(&self.events) {
            to.count(EVENTS, &[("event", event)], count);
        }
    }
}

impl Producer {
    /// Writes the figures of [`ProducerStats::record_metrics`] and [`ProducerHealth::record_metrics`] now and
    /// after each interval of `every`, the last time when [`close`](Self::close) has ended.
    /// Counters never go back, also when a connection is re-established or a topic is published again; gauges
    /// of topics, brokers and addresses that are no more, and at the end all gauges, are set to 0. To be
    /// spawned:
    ///
    /// ```no_run
    /// # async fn example(producer: metaq_producer::Producer) {
    /// tokio::spawn(producer.export_metrics(std::time::Duration::from_secs(10)));
    /// # }
    /// ```
    ///
    /// It doesn't keep the producer from ending; what is counted in the interval in which the last clone is
    /// dropped is not written. An interval below 10 ms is taken as 10 ms.
    ///
    /// Outside of a tokio runtime it returns immediately, and logs an error.
    ///
    /// # Cancel safety
    /// Safe: dropping the future ends the export.
    pub fn export_metrics(&self, every: Duration) -> impl Future<Output = ()> + Send + 'static {
        let inner = Arc::downgrade(&self.inner);
        let mut closed = self.inner.events.closed();
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
            // Sets the gauges to 0 at the end, whatever that is.
            let mut exported = Exported::default();
            loop {
                let is_closed = tokio::select! {
                    biased;
                    // An error means that the last clone was dropped.
                    closed = closed.wait_for(|closed| *closed) => closed.is_ok(),
                    _ = ticks.tick() => false,
                };
                let Some(inner) = inner.upgrade() else { return };
                let producer = Self { inner };
                producer.stats().await.write(&mut exported);
                producer.health().write(&mut exported);
                exported.end_round();
                drop(producer);
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
const LATENCY_BUCKET: &str = "metaq_latency_seconds_bucket";
const LATENCY_COUNT: &str = "metaq_latency_seconds_count";
const LATENCY_SUM: &str = "metaq_latency_seconds_sum";
const BEGUN: &str = "metaq_transactions_begun_total";
const COMMITTED: &str = "metaq_transactions_committed_total";
const ROLLED_BACK: &str = "metaq_transactions_rolled_back_total";
const UNKNOWN_TRANSACTIONS: &str = "metaq_transactions_unknown_total";
const UNACKNOWLEDGED: &str = "metaq_unacknowledged_messages";
const UNACKNOWLEDGED_BYTES: &str = "metaq_unacknowledged_bytes";
const REGISTRY: &str = "metaq_registry_connected";
const PARTITIONS: &str = "metaq_topic_partitions";
const MISSING: &str = "metaq_topic_brokers_missing";
const VIEW_AGE: &str = "metaq_topic_view_age_seconds";
const CONNECTION_STATE: &str = "metaq_connection_state";
const CONNECTION_REQUESTS: &str = "metaq_connection_requests";
const CONNECTION_BYTES: &str = "metaq_connection_bytes";
const EVENTS: &str = "metaq_events_total";

/// The counts of events, each with the value of its label.
fn event_counts(events: &EventCounts) -> [(&'static str, u64); 8] {
    [
        ("connected", events.connected),
        ("unreachable", events.unreachable),
        ("connection_lost", events.connection_lost),
        ("stalled", events.stalled),
        ("recovered", events.recovered),
        ("closed", events.closed),
        ("route_changed", events.route_changed),
        ("registry_lost", events.registry_lost),
    ]
}

/// The counts of connections, in the order of [`connection_counts`].
const CONNECTIONS: [(&str, &str); 8] = [
    ("metaq_connections_established_total", "How often a connection was established"),
    ("metaq_requests_total", "Requests that connections accepted"),
    ("metaq_requests_answered_total", "Requests that were answered in time"),
    ("metaq_answers_ignored_total", "Answers that came too late, or that nobody asked for"),
    ("metaq_writes_total", "Calls of the operating system that wrote"),
    ("metaq_written_bytes_total", "Bytes that were written"),
    ("metaq_reads_total", "Calls of the operating system that read"),
    ("metaq_read_bytes_total", "Bytes that were read"),
];

fn connection_counts(stats: &ConnectionStats) -> [u64; CONNECTIONS.len()] {
    [
        stats.established,
        stats.requests,
        stats.answered,
        stats.ignored_responses,
        stats.writes,
        stats.bytes_written,
        stats.reads,
        stats.bytes_read,
    ]
}

/// The limits of the buckets of latencies, in microseconds, and as labels in seconds.
const BUCKETS: [(u64, &str); 15] = [
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (u64::MAX, "+Inf"),
];

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
    CONNECTIONS.into_iter().for_each(|(name, text)| describe_counter!(name, Unit::Count, text));
    describe_counter!(LATENCY_BUCKET, Unit::Count, "Acknowledged messages that took at most `le` seconds");
    describe_counter!(EVENTS, Unit::Count, "Events of connections, routes and the registry");
    describe_counter!(LATENCY_COUNT, Unit::Count, "Acknowledged messages");
    describe_gauge!(LATENCY_SUM, Unit::Seconds, "How long acknowledged messages took together");
    for (name, unit, text) in [
        (QUEUED, Unit::Count, "Messages that wait for capacity, a broker, their turn or their next attempt"),
        (IN_FLIGHT, Unit::Count, "Messages that were handed to a connection, and await their answer"),
        (UNACKNOWLEDGED, Unit::Count, "Messages that are accepted and have no outcome yet"),
        (UNACKNOWLEDGED_BYTES, Unit::Bytes, "Bytes of the messages that have no outcome yet"),
        (REGISTRY, Unit::Count, "Whether the registry answers"),
        (PARTITIONS, Unit::Count, "Partitions that messages can go to now"),
        (MISSING, Unit::Count, "Brokers that the registry names and that are not connected"),
        (VIEW_AGE, Unit::Seconds, "How long ago the registry was read"),
        (CONNECTION_STATE, Unit::Count, "Connections in this state"),
        (CONNECTION_REQUESTS, Unit::Count, "Requests that the broker has not answered yet"),
        (CONNECTION_BYTES, Unit::Bytes, "Bytes of the requests that the broker has not answered yet"),
    ] {
        describe_gauge!(name, unit, text);
    }
}

fn write_latencies(latencies: &LatencyStats, labels: Labels<'_, 2>, to: &mut impl Series) {
    let mut counts = latencies.counts().peekable();
    let (mut count, mut sum) = (0, 0.0);
    for (limit, name) in BUCKETS {
        while let Some((latency, messages)) =
            counts.next_if(|(latency, _)| latency.as_micros() as u64 <= limit)
        {
            count += messages;
            sum += latency.as_secs_f64() * messages as f64;
        }
        let [topic, broker] = labels;
        to.count(LATENCY_BUCKET, &[topic, broker, ("le", name)], count);
    }
    to.count(LATENCY_COUNT, &labels, count);
    to.sum(LATENCY_SUM, &labels, sum);
}
