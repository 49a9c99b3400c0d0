//! Sends six messages to a broker, and looks at what it has stored. The broker runs within this program, so
//! nothing has to be installed or started before.
//!
//! ```text
//! cargo run -p metaq-examples --example quickstart
//! ```
//!
//! prints step by step what happens: the broker's address, and the partition and the offset of each message.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use metaq_producer::{Message, Outcome, Producer, Topic};
use metaq_testkit::Broker;

#[tokio::main]
async fn main() -> Result<()> {
    let broker = Broker::builder().topic("orders", 4).start().await.context("no broker can be started")?;
    println!("1. This program has started a broker of its own, at {}.", broker.addr());

    // With brokers that are registered in ZooKeeper, this is
    // `.discovery(ZooKeeperDiscovery::new("zk1:2181,zk2:2181/meta")?)`, as in the example `zookeeper`.
    let producer = Producer::builder().broker(broker.addr().clone()).build()?;
    let orders: Topic = "orders".parse()?;
    producer.publish_topic(&orders).await?;
    let partitions = producer.partitions(&orders).len();
    println!(
        "2. The producer is connected, and ready to send to the topic \"orders\", which has {partitions} partitions."
    );

    println!("3. It sends six messages. The broker stores each one, and answers where:");
    for n in 1..=6 {
        let text = format!("order {n}");
        match producer.send(Message::new(orders.clone(), text.clone())).await {
            Ok(receipt) => {
                println!("   \"{text}\" is in partition {}, at byte {}", receipt.partition, receipt.offset);
            }
            // The broker may have stored it and its answer was lost: to send it again may store it twice.
            Err(error) if error.outcome() == Outcome::Unknown => bail!("\"{text}\" may be stored: {error}"),
            Err(error) => bail!("\"{text}\" is not stored: {error}"),
        }
    }

    // What is still under way gets five seconds; here, nothing is.
    let report = producer.close(Duration::from_secs(5)).await;
    println!("4. The producer is closed. Messages that it could not send: {}.", report.unsent.len());

    let mut stored: Vec<_> = broker.messages("orders").into_iter().map(|stored| stored.payload).collect();
    stored.sort_unstable();
    let stored: Vec<_> = stored.iter().map(|payload| String::from_utf8_lossy(payload)).collect();
    println!("5. The broker has {} messages: {}.", stored.len(), stored.join(", "));
    println!("That was metaq. The other examples are listed in examples/README.md.");
    Ok(())
}
