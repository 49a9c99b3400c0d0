//! A service whose log events go to a topic as JSON, through a `tracing` layer, beside those on its terminal.
//!
//! ```text
//! cargo run -p metaq-examples --features log --example log_to_topic
//! ```
//!
//! starts to log before there is a broker, starts one, and prints the warnings that the service shows itself,
//! then what the broker has stored, and what became of the events. docs of the crate `metaq-tracing` have the
//! form of the JSON and what is promised.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::{io, time::Duration};

use anyhow::Result;
use metaq_producer::Producer;
use metaq_testkit::{Broker, EmbeddedRegistry};
use metaq_tracing::MetaqLayer;
use tracing_subscriber::{filter::LevelFilter, prelude::*};

fn take_order(table: u32, order: &str) {
    let _request = tracing::info_span!("request", table).entered();
    tracing::info!(order, "an order");
    if order == "one cake" {
        tracing::warn!(left = 0, "there is no cake");
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // A registry within this program; a service names its ZooKeeper.
    let registry = EmbeddedRegistry::new();
    let producer = Producer::builder().discovery(registry.discovery()).transport(registry.transport());
    // The producer is the layer's own. Nothing is connected to yet.
    let (layer, guard) =
        MetaqLayer::builder(producer.build()?, "logs".parse()?).attribute("json").key("host-7").build()?;
    let terminal = tracing_subscriber::fmt::layer()
        // A real program keeps the time.
        .without_time()
        .with_ansi(false)
        .with_writer(io::stdout)
        .with_filter(tracing_subscriber::EnvFilter::new("log_to_topic=warn"));
    tracing_subscriber::registry().with(terminal).with(layer.with_filter(LevelFilter::INFO)).init();

    // Events wait while there is no broker.
    take_order(7, "one coffee");
    println!("buffered: {}", guard.stats().buffered);

    let broker = Broker::builder().topic("logs", 1).register_with(&registry).start_without_port()?;
    take_order(8, "one cake");

    // Without this, what is buffered at the end of the program is lost.
    let stats = guard.shutdown(Duration::from_secs(30)).await;
    for message in broker.messages("logs") {
        let mut event: serde_json::Value = serde_json::from_slice(&message.payload)?;
        // It differs from run to run.
        event.as_object_mut().map(|event| event.remove("timestamp"));
        println!("stored: {event}");
    }
    println!("sent {}, dropped {}, failed {}", stats.sent, stats.dropped.total(), stats.failed.total());
    Ok(())
}
