//! What a running producer shows: figures for the `metrics` facade, log lines, and a span for each message.
//!
//! ```text
//! cargo run -p metaq-examples --features metrics --example metrics_and_tracing
//! ```
//!
//! sends three orders, of which the broker refuses one. It prints the log, with the end of each message's
//! span, and the counts of messages. docs/operations.md has alerts on such figures, and the meaning of each
//! log line.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::{io, time::Duration};

use anyhow::Result;
use metaq_producer::{Message, Producer, ProducerConfig, Topic};
use metaq_testkit::{Broker, Fault, Requests};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tracing::Instrument as _;
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

/// Prints the counts of messages, in the form in which Prometheus reads them.
fn print_counts(figures: &Snapshotter) {
    let mut lines = Vec::new();
    for (name, _, _, value) in figures.snapshot().into_vec() {
        let (name, DebugValue::Counter(count)) = (name.key(), value) else { continue };
        let labels: Vec<_> =
            name.labels().map(|label| format!("{}={:?}", label.key(), label.value())).collect();
        lines.push(format!("{}{{{}}} {count}", name.name(), labels.join(",")));
    }
    lines.sort_unstable();
    for line in lines.iter().filter(|line| line.starts_with("metaq_messages_")) {
        println!("{line}");
    }
}

// On one thread, so that lines come in order.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // A real program installs an exporter here, such as that of the crate `metrics-exporter-prometheus`.
    let recorder = DebuggingRecorder::new();
    let figures = recorder.snapshotter();
    recorder.install()?;
    // Connections log as well, as `metaq_transport`, and registries as `metaq_discovery`.
    let default = || EnvFilter::new("metaq_producer=info,metrics_and_tracing=info");
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| default()))
        .with_span_events(FmtSpan::CLOSE)
        // A real program keeps the time.
        .without_time()
        .with_ansi(false)
        .with_writer(io::stdout)
        .init();

    let broker = Broker::builder().topic("orders", 1).start().await?;
    let mut config = ProducerConfig::default();
    config.span_per_send = true;
    let producer = Producer::builder().broker(broker.addr().clone()).config(config).build()?;
    let orders: Topic = "orders".parse()?;
    producer.publish_topic(&orders).await?;

    broker.faults().plan(Requests::puts().only(2), Fault::refuse(500, "the disk is full"));
    for order in ["one coffee", "one tea", "one cake"] {
        // The span of the message is within the span of the request that sends it.
        let request = tracing::info_span!("request", order);
        let sent = producer.send(Message::new(orders.clone(), order)).instrument(request).await;
        if let Err(error) = sent {
            // Of a message that is not stored the error says so; `Outcome::Unknown` may be stored.
            tracing::error!(order, outcome = ?error.outcome(), %error, "an order failed");
        }
    }

    // Or every ten seconds: `tokio::spawn(producer.export_metrics(Duration::from_secs(10)))`.
    producer.stats().await.record_metrics();
    print_counts(&figures);
    producer.close(Duration::from_secs(5)).await;
    Ok(())
}
