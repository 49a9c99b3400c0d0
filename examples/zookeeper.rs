//! Finds the brokers of a topic in ZooKeeper, as the Java client does, and sends to them.
//!
//! ```text
//! cargo run -p metaq-examples --features zookeeper --example zookeeper -- zk1:2181,zk2:2181/meta orders
//! ```
//!
//! prints the brokers that ZooKeeper names, and where each of three messages was stored. The embedded broker
//! can take a real one's place: `metaq dev-broker --topic orders:4 --register zk://127.0.0.1:2181/meta`.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use metaq_producer::{
    Message, Outcome, Producer, Topic,
    discovery::{Discovery as _, ZooKeeperDiscovery},
};

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [servers, topic] = &args[..] else {
        bail!("usage: zookeeper HOST:PORT,HOST:PORT/ROOT TOPIC");
    };
    let topic: Topic = topic.parse()?;

    // The servers, and the root below which the brokers register (`zkRoot` of the Java client).
    let zookeeper = ZooKeeperDiscovery::new(servers)?;
    let watch = zookeeper.watch(&topic).await.context("ZooKeeper can't be read")?;
    for broker in watch.current().brokers() {
        let partitions = broker.partitions.unwrap_or_default();
        println!("ZooKeeper names broker {} at {} with {partitions} partitions", broker.id, broker.addr);
    }

    // The producer follows the registry on its own: brokers and partitions may come and go.
    let producer = Producer::builder().discovery(zookeeper).build()?;
    // Fails when no broker of the topic can be reached.
    producer.publish_topic(&topic).await?;
    for n in 1..=3 {
        match producer.send(Message::new(topic.clone(), format!("order {n}"))).await {
            Ok(receipt) => println!("order {n} is stored in partition {}", receipt.partition),
            Err(error) if error.outcome() == Outcome::Unknown => bail!("order {n} may be stored: {error}"),
            Err(error) => bail!("order {n} is not stored: {error}"),
        }
    }
    producer.close(Duration::from_secs(5)).await;
    Ok(())
}
