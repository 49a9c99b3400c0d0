//! A partition selector of one's own: messages of one customer stay in order, because they all go to one
//! partition, and each is awaited before the next.
//!
//! ```text
//! cargo run -p metaq-examples --example custom_selector
//! ```
//!
//! prints the partition of each order, which is the same for all orders of a customer, and how a message
//! without a customer is refused.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use anyhow::{Result, bail};
use metaq_producer::{
    Message, Outcome, Partition, PartitionSelector, Producer, SendErrorKind, Topic,
    discovery::{StaticDiscovery, TopicView},
    selector::key_hash,
};
use metaq_testkit::Broker;

/// Selects a partition by the hash of the attribute, which names the customer.
struct ByCustomer;

impl PartitionSelector for ByCustomer {
    fn select(&self, _: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        // A message without a customer is refused: its send fails with `SendErrorKind::NoPartition`.
        let customer = message.attribute()?;
        // Other partitions, as when a broker comes or goes, move most customers to others of them.
        // `RendezvousSelector` moves only those that have to.
        let index = key_hash(customer.as_bytes()) % (partitions.len() as u64).max(1);
        partitions.get(index as usize).copied()
    }

    // Refuses another partition even if the broker is cooling down or has no capacity, since a customer's
    // messages must not be reordered.
    fn reselect(&self, _: &Topic, _: &[Partition], _: &Message, _: Partition) -> Option<Partition> {
        None
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let broker = Broker::builder().topic("orders", 4).start().await?;
    let topic: Topic = "orders".parse()?;
    let view = TopicView::new(topic.clone()).with_broker(broker.id(), broker.addr().clone(), 4);
    let producer =
        Producer::builder().discovery(StaticDiscovery::new([view])).selector(ByCustomer).build()?;
    producer.publish_topic(&topic).await?;

    for (customer, order) in
        [("ann", "tea"), ("bob", "coffee"), ("ann", "cake"), ("bob", "water"), ("ann", "bill")]
    {
        match producer.send(Message::new(topic.clone(), order).with_attribute(customer)).await {
            Ok(receipt) => println!("{customer}'s {order} -> partition {}", receipt.partition),
            // Whatever happens to it, what comes next must not overtake it.
            Err(error) if error.outcome() == Outcome::Unknown => bail!("{order} may be stored: {error}"),
            Err(error) => bail!("{order} is not stored: {error}"),
        }
    }

    match producer.send(Message::new(topic, "lost")).await {
        Err(error) if error.kind() == SendErrorKind::NoPartition => {
            println!("without a customer: {error}");
            Ok(())
        }
        other => bail!("the selector was not asked: {other:?}"),
    }
}
