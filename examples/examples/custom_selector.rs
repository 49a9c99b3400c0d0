//! A partition selector of one's own: messages of one customer stay in order, because they all go to one partition and
//! each is awaited before the next.
//!
//! ```text
//! cargo run --example custom_selector
//! ```
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use metaq_producer::{
    Message, Partition, PartitionSelector, Producer, Topic,
    discovery::{StaticDiscovery, TopicView},
};
use metaq_testkit::Broker;

/// Takes the attribute for the customer, and hashes it to a partition.
struct ByCustomer;

impl PartitionSelector for ByCustomer {
    fn select(&self, _: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        // A message without a customer is refused: its send fails with `SendErrorKind::NoPartition`.
        let customer = message.attribute()?;
        let mut hasher = DefaultHasher::new();
        customer.hash(&mut hasher);
        partitions.get(hasher.finish() as usize % partitions.len()).copied()
    }

    // Also when that broker failed lately or has no room: another partition would break the customer's order.
    fn reselect(&self, _: &Topic, _: &[Partition], _: &Message, _: Partition) -> Option<Partition> {
        None
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::builder().topic("orders", 4).start().await?;
    let topic: Topic = "orders".parse()?;
    let view = TopicView::new(topic.clone()).with_broker(broker.id(), broker.addr().clone(), 4);
    let producer =
        Producer::builder().discovery(StaticDiscovery::new([view])).selector(ByCustomer).build()?;
    producer.publish_topic(&topic).await?;

    for (customer, order) in
        [("ann", "tea"), ("bob", "coffee"), ("ann", "cake"), ("bob", "water"), ("ann", "bill")]
    {
        let receipt = producer.send(Message::new(topic.clone(), order).with_attribute(customer)).await?;
        println!("{customer}'s {order} -> partition {}", receipt.partition);
    }

    let nobody = producer.send(Message::new(topic, "lost")).await;
    println!("without a customer: {}", nobody.expect_err("the selector refuses it"));
    Ok(())
}
