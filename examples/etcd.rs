//! Finds the brokers of a topic in etcd, under the keys that brokers have in ZooKeeper. Brokers of MetaQ
//! register in ZooKeeper alone, so another program has to write these keys.
//!
//! ```text
//! export PROTOC=$(cargo xtask protoc)    # the client library of etcd is built with it
//! cargo run -p metaq-examples --features etcd --example etcd -- etcd1:2379,etcd2:2379/meta orders
//! ```
//!
//! prints the topics that etcd lists, the brokers of one of them, and where each of three messages was
//! stored. The embedded broker can register in an etcd: `metaq dev-broker --topic orders:4 --register
//! etcd://127.0.0.1:2379/meta`, where `metaq` is built with the feature `etcd`.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use metaq_producer::{
    Message, Outcome, Producer, Topic,
    discovery::{Discovery as _, EtcdConfig, EtcdDiscovery},
};

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [servers, topic] = &args[..] else {
        bail!("usage: etcd HOST:PORT,HOST:PORT/ROOT TOPIC");
    };
    let topic: Topic = topic.parse()?;

    // Credentials and, with the feature `tls` or `tls-ring`, certificates are settings as well.
    let mut config = EtcdConfig::default();
    config.connect_timeout = Duration::from_secs(5);
    let etcd = EtcdDiscovery::with_config(servers, config)?;
    let topics = etcd.topics().await.context("etcd can't be read")?;
    println!(
        "etcd lists {} topic(s): {}",
        topics.len(),
        topics.iter().map(Topic::as_str).collect::<Vec<_>>().join(", ")
    );
    let watch = etcd.watch(&topic).await.context("etcd can't be read")?;
    for broker in watch.current().brokers() {
        let partitions = broker.partitions.unwrap_or_default();
        println!("broker {} at {} has {partitions} partitions of {topic}", broker.id, broker.addr);
    }

    let producer = Producer::builder().discovery(etcd).build()?;
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
