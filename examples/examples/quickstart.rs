//! Publishes a few messages to an embedded broker and prints the messages that it stored. Needs only the Rust
//! toolchain:
//!
//! ```text
//! cargo run --release --example quickstart
//! ```
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use metaq_producer::{
    Message, Producer, Topic,
    discovery::{StaticDiscovery, TopicView},
};
use metaq_testkit::Broker;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A broker in this process. In production, a program names a ZooKeeper instead:
    // ZooKeeperDiscovery::new("zk1:2181,zk2:2181/meta")?
    let broker = Broker::builder().topic("orders", 4).start().await?;
    println!("embedded broker on {}", broker.addr());
    let topic: Topic = "orders".parse()?;
    let view = TopicView::new(topic.clone()).with_broker(broker.id(), broker.addr().clone(), 4);

    let producer = Producer::builder().discovery(StaticDiscovery::new([view])).build()?;
    producer.publish_topic(&topic).await?;

    for n in 1..=6 {
        let message = Message::new(topic.clone(), format!("order {n}")).with_attribute("quickstart");
        let receipt = producer.send(message).await?;
        println!(
            "order {n} -> partition {}, offset {}, id {}",
            receipt.partition, receipt.offset, receipt.message_id
        );
    }
    producer.close(std::time::Duration::from_secs(3)).await;

    println!("the broker holds:");
    for stored in broker.messages("orders") {
        println!("  {} at {}: {}", stored.partition, stored.offset, String::from_utf8_lossy(&stored.payload));
    }
    Ok(())
}
