//! The figures of a spool for the `metrics` facade.

use std::{collections::BTreeSet, time::Duration};

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use tokio::time::{MissedTickBehavior, interval};

use crate::{SpoolStats, SpoolingProducer, events::queue_name, shared::closed};

type Field = fn(&SpoolStats) -> u64;

/// The counters, and what they count.
const COUNTERS: [(&str, &str, Field); 11] = [
    ("metaq_spool_offered_total", "Messages that were offered", |stats| stats.offered),
    ("metaq_spool_stored_total", "Messages that were stored without being spooled", |stats| stats.stored),
    ("metaq_spool_spooled_total", "Messages that were spooled", |stats| stats.spooled),
    ("metaq_spool_failed_total", "Messages that were neither stored nor spooled", |stats| stats.failed),
    ("metaq_spool_replayed_total", "Spooled messages that were stored", |stats| stats.replayed),
    ("metaq_spool_set_aside_total", "Messages that were set aside", |stats| stats.set_aside),
    ("metaq_spool_dropped_total", "Messages that were dropped", |stats| stats.dropped),
    ("metaq_spool_damaged_total", "Messages that could not be read any more", |stats| stats.damaged),
    ("metaq_spool_maybe_duplicates_total", "Replayed messages that may be stored twice", |stats| {
        stats.maybe_duplicates
    }),
    ("metaq_spool_unknown_attempts_total", "Attempts to replay with an unknown outcome", |stats| {
        stats.unknown_attempts
    }),
    ("metaq_spool_files_set_aside_total", "Damaged files that were set aside", |stats| stats.files_set_aside),
];

/// The gauges of the whole spool.
const GAUGES: [(&str, Unit, &str, Field); 4] = [
    ("metaq_spool_in_flight", Unit::Count, "Messages without an outcome", |stats| stats.in_flight),
    ("metaq_spool_waiting_bytes", Unit::Bytes, "Bytes of the messages that wait", |stats| {
        stats.waiting_bytes
    }),
    ("metaq_spool_held_aside", Unit::Count, "Messages in the folder that were set aside", |stats| {
        stats.held_aside
    }),
    ("metaq_spool_held_aside_bytes", Unit::Bytes, "Bytes of these messages", |stats| stats.held_aside_bytes),
];

const WAITING: &str = "metaq_spool_waiting";

impl SpoolStats {
    /// Writes the figures to the recorder of the `metrics` facade that the program has installed.
    ///
    /// Counters are named after the fields, as `metaq_spool_spooled_total`, gauges as
    /// `metaq_spool_waiting_bytes`. The gauge `metaq_spool_waiting` has the messages of each queue that holds
    /// some, with the label `queue`: the topic, or `topic@partition`.
    pub fn record_metrics(&self) {
        for (name, _, field) in COUNTERS {
            counter!(name).absolute(field(self));
        }
        for (name, _, _, field) in GAUGES {
            gauge!(name).set(field(self) as f64);
        }
        for queue in &self.queues {
            gauge!(WAITING, "queue" => queue_name(&queue.topic, queue.partition)).set(queue.waiting as f64);
        }
    }
}

impl SpoolingProducer {
    /// Writes the figures of [`SpoolStats::record_metrics`] now and after each interval of `every`, and a
    /// last time when the spool is closed or its last clone is dropped. Queues that are empty are set to 0.
    /// To be spawned.
    ///
    /// An interval below 10 ms is taken as 10 ms.
    ///
    /// # Cancel safety
    /// Safe: dropping the future ends the export.
    pub fn export_metrics(&self, every: Duration) -> impl Future<Output = ()> + Send + 'static {
        let shared = self.weak();
        async move {
            for (name, text, _) in COUNTERS {
                describe_counter!(name, Unit::Count, text);
            }
            for (name, unit, text, _) in GAUGES {
                describe_gauge!(name, unit, text);
            }
            describe_gauge!(WAITING, Unit::Count, "Messages that wait to be replayed");
            let Some(mut closing) = shared.upgrade().map(|shared| shared.closing.subscribe()) else { return };
            let mut ticks = interval(every.clamp(Duration::from_millis(10), Duration::from_secs(86_400)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut before = BTreeSet::new();
            loop {
                let is_last = tokio::select! {
                    biased;
                    _ = ticks.tick() => false,
                    () = closed(&mut closing) => true,
                };
                let Some(shared) = shared.upgrade() else { return };
                let stats = shared.stats();
                drop(shared);
                stats.record_metrics();
                let names = stats.queues.iter().map(|queue| queue_name(&queue.topic, queue.partition));
                let names: BTreeSet<_> = names.collect();
                for gone in before.difference(&names) {
                    gauge!(WAITING, "queue" => gone.clone()).set(0.0);
                }
                before = names;
                if is_last {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::*;
    use crate::QueueStats;

    #[test]
    fn figures_are_written_under_their_names() {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let queue = QueueStats { topic: "t".parse().unwrap(), partition: None, waiting: 3, failing: None };
        let stats = SpoolStats { spooled: 7, waiting_bytes: 9, queues: vec![queue], ..SpoolStats::default() };
        metrics::with_local_recorder(&recorder, || stats.record_metrics());
        let found: Vec<_> = snapshotter.snapshot().into_vec();
        assert_eq!(found.len(), COUNTERS.len() + GAUGES.len() + 1);
        let value = |name: &str| {
            let found = found.iter().find(|(key, ..)| key.key().name() == name);
            found.map(|(key, _, _, value)| (key.key().labels().count(), value))
        };
        assert!(matches!(value("metaq_spool_spooled_total"), Some((0, DebugValue::Counter(7)))));
        assert!(
            matches!(value("metaq_spool_waiting_bytes"), Some((0, DebugValue::Gauge(bytes))) if bytes.0 == 9.0)
        );
        assert!(matches!(value(WAITING), Some((1, DebugValue::Gauge(count))) if count.0 == 3.0));
    }
}
