//! A registry for tests: method calls add and remove brokers, and the producer follows, without ZooKeeper or
//! waiting.
//!
//! ```text
//! cargo run --example mock_discovery
//! ```
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use metaq_producer::{
    Message, Producer, Topic,
    discovery::{MockDiscovery, TopicView},
};
use metaq_testkit::Broker;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let topic: Topic = "orders".parse()?;
    let (old, new) = (
        Broker::builder().id(0).topic("orders", 1).start().await?,
        Broker::builder().id(1).topic("orders", 1).start().await?,
    );
    let with =
        |broker: &Broker| TopicView::new(topic.clone()).with_broker(broker.id(), broker.addr().clone(), 1);

    let registry = MockDiscovery::new();
    registry.set(with(&old));
    let producer = Producer::builder().discovery(registry.clone()).build()?;
    producer.publish_topic(&topic).await?;
    let receipt = producer.send(Message::new(topic.clone(), "first")).await?;
    println!("first -> broker {}", receipt.broker);

    // The cluster changes while the producer is in use.
    registry.set(with(&new));
    loop {
        let receipt = producer.send(Message::new(topic.clone(), "next")).await?;
        println!("next -> broker {}", receipt.broker);
        if receipt.broker == *new.addr() {
            break;
        }
    }
    println!(
        "the old broker got {} messages, the new one {}",
        old.messages("orders").len(),
        new.messages("orders").len()
    );
    Ok(())
}
