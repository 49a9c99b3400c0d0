//! Brokers that are listed in a file, without any registry. The producer reads the file again when it
//! changes.
//!
//! ```text
//! cargo run -p metaq-examples --features file --example static_file
//! ```
//!
//! sends an order to the one broker that the file lists, writes another broker into the file, and sends again
//! once the producer has followed. It prints which broker each order went to.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use metaq_producer::{BrokerId, Message, Outcome, Producer, Topic, discovery::FileDiscovery};
use metaq_testkit::Broker;

/// Writes the file anew, as a deployment would: into another file, which then takes its name.
fn write_brokers(path: &Path, broker: &Broker) -> Result<()> {
    let (id, addr) = (broker.id(), broker.addr());
    let text = format!("[brokers]\n{id} = \"{addr}\"\n\n[topics.orders]\n{id} = 2\n");
    let new = path.with_extension("new");
    fs::write(&new, text).with_context(|| format!("{} can't be written", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("{} can't be replaced", path.display()))
}

/// Sends an order, and returns the id of the broker that has stored it.
async fn send(producer: &Producer, orders: &Topic, order: &'static str) -> Result<BrokerId> {
    match producer.send(Message::new(orders.clone(), order)).await {
        Ok(receipt) => Ok(receipt.partition.broker),
        Err(error) if error.outcome() == Outcome::Unknown => bail!("{order} may be stored: {error}"),
        Err(error) => bail!("{order} is not stored: {error}"),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let old = Broker::builder().id(0).topic("orders", 2).start().await?;
    let new = Broker::builder().id(1).topic("orders", 2).start().await?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("brokers.toml");
    write_brokers(&path, &old)?;
    print!("{}", fs::read_to_string(&path)?);

    let producer = Producer::builder().discovery(FileDiscovery::new(&path)).build()?;
    let orders: Topic = "orders".parse()?;
    producer.publish_topic(&orders).await?;
    println!("\"one coffee\" went to broker {}", send(&producer, &orders, "one coffee").await?);

    // The file is looked at twice a second, and the broker is used once it is connected.
    let mut events = producer.events();
    write_brokers(&path, &new)?;
    println!("broker {} takes the place of broker {} in the file", new.id(), old.id());
    while producer.partitions(&orders).iter().any(|partition| partition.broker == old.id()) {
        events.next().await.context("the producer was closed")?;
    }
    println!("\"one tea\" went to broker {}", send(&producer, &orders, "one tea").await?);
    producer.close(Duration::from_secs(5)).await;
    Ok(())
}
