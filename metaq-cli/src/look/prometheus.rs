//! Brokers' statistics in the text format of Prometheus.

use std::{collections::BTreeMap, fmt::Write as _, mem};

use futures_util::future::join_all;
use metaq_producer::inspect::ListedBroker;

use super::{Failure, Look, known_id};
use crate::{
    exit_status::of_inspect_error,
    stderr::{describe, print_message},
};

/// The figures of a broker that only grow while it runs.
const COUNTERS: [&str; 9] = [
    "cmd_put",
    "cmd_get",
    "cmd_offset",
    "tx_begin",
    "tx_xa_begin",
    "tx_commit",
    "tx_rollback",
    "get_miss",
    "put_failed",
];

/// The samples by the name of their metric, since those of one metric have to stand together.
#[derive(Debug, Default)]
struct Metrics(BTreeMap<String, Vec<String>>);

impl Metrics {
    fn add(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let mut line = format!("{name}{{");
        for (n, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            // Writing to a string can't fail.
            let _ = write!(line, "{}{label}=\"{text}\"", if n > 0 { "," } else { "" });
        }
        let _ = write!(line, "}} {value}");
        self.0.entry(name.to_owned()).or_default().push(line);
    }

    fn format(&self) -> String {
        let mut text = String::new();
        for (name, lines) in &self.0 {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            let _ = writeln!(text, "# TYPE {name} {kind}\n{}", lines.join("\n"));
        }
        text
    }
}

/// Prints the figures of all brokers, their topics and partitions. Returns the status of the first failure.
pub(super) async fn print(look: &mut Look, brokers: &[ListedBroker]) -> Result<Option<u8>, Failure> {
    let mut failed = None;
    let mut metrics = Metrics::default();
    let mut brokers: Vec<_> = brokers.iter().collect();
    for item in [None, Some("topics"), Some("offsets")] {
        let asked = brokers.iter().map(|broker| look.inspector.stats(&broker.addr, item));
        let answers = join_all(asked).await;
        for (broker, answer) in mem::take(&mut brokers).into_iter().zip(answers) {
            // An empty label is the same as none.
            let id = known_id(broker.id).map(|id| id.to_string()).unwrap_or_default();
            let addr = broker.addr.to_string();
            if answer.is_ok() {
                // The others would fail once more for the same reason.
                brokers.push(broker);
            }
            let broker = [("broker", &*id), ("addr", &*addr)];
            if item.is_none() {
                metrics.add("metaq_broker_up", &broker, f64::from(u8::from(answer.is_ok())));
            }
            match answer {
                Ok(stats) => {
                    stats.iter().filter_map(|(name, value)| Some((name, value?))).for_each(|(name, value)| {
                        match item {
                            None => add_broker(&mut metrics, &broker, name, value),
                            Some(_) => add_topic(&mut metrics, &broker, name, value),
                        }
                    })
                }
                Err(error) => {
                    print_message(&describe(&error));
                    failed.get_or_insert_with(|| of_inspect_error(&error));
                }
            }
        }
    }
    look.text(&metrics.format());
    Ok(failed)
}

/// Adds a figure of the broker as a whole.
fn add_broker(metrics: &mut Metrics, broker: &[(&str, &str)], name: &str, value: &str) {
    match name {
        // An identity, no figure.
        "broker_id" | "port" | "config_checksum" => {}
        "uptime" => {
            if let Ok(value) = value.parse() {
                metrics.add("metaq_broker_uptime_seconds", broker, value);
            }
        }
        "version" | "slave" => {
            let labels = [broker, &[(name, value)]].concat();
            metrics.add(&format!("metaq_broker_{name}_info"), &labels, 1.0);
        }
        _ => {
            if let Ok(value) = value.parse() {
                let suffix = if COUNTERS.contains(&name) { "_total" } else { "" };
                // The text is the broker's.
                let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
                let name: String =
                    name.chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect();
                metrics.add(&format!("metaq_broker_{name}{suffix}"), broker, value);
            }
        }
    }
}

/// Adds the figures of a topic or partition: pairs of a name and a value.
fn add_topic(metrics: &mut Metrics, broker: &[(&str, &str)], topic: &str, figures: &str) {
    let words: Vec<_> = figures.split(' ').collect();
    let mut labels = [broker, &[("topic", topic)]].concat();
    for pair in words.chunks_exact(2) {
        match (pair[0], pair[1].parse()) {
            ("part", Ok::<f64, _>(_)) => labels.push(("partition", pair[1])),
            (name @ ("min_offset" | "max_offset"), Ok(value)) => {
                metrics.add(&format!("metaq_partition_{name}_bytes"), &labels, value);
            }
            (name @ ("partitions" | "message_count" | "message_bytes"), Ok(value)) => {
                metrics.add(&format!("metaq_topic_{name}"), &labels, value);
            }
            _ => {}
        }
    }
}
