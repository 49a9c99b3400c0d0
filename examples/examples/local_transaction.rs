//! Messages to two topics that are stored together, or not at all:
//!
//! ```text
//! cargo run --example local_transaction
//! ```
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use metaq_producer::{Message, Producer, Topic, TransactionError, TransactionOptions, TransactionOutcome};
use metaq_testkit::Broker;

/// Books a sale: an order, and what it takes from the stock. True when both are stored, false when neither is.
async fn book(producer: &Producer, order: &str, pieces: u32) -> Result<bool, TransactionError> {
    let (orders, stock) = ("orders".parse::<Topic>(), "stock".parse::<Topic>());
    let (Ok(orders), Ok(stock)) = (orders, stock) else { return Ok(false) };
    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(Message::new(orders, order.to_owned())).await?;
    if pieces > 10 {
        // We have changed our mind. Returning would do, too: what is dropped is rolled back, with a warning to `tracing`.
        transaction.rollback().await?;
        return Ok(false);
    }
    transaction.send(Message::new(stock, format!("-{pieces}"))).await?;
    match transaction.commit().await {
        Ok(_) => Ok(true),
        // Its answer didn't come: both are stored, or neither. Whoever needs to know uses a two-phase commit.
        Err(error) if error.outcome() == TransactionOutcome::Unknown => Err(error),
        Err(_) => Ok(false),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::builder().topic("orders", 2).topic("stock", 2).start().await?;
    let producer = Producer::builder().broker(broker.addr().clone()).build()?;
    for topic in ["orders", "stock"] {
        producer.publish_topic(&topic.parse()?).await?;
    }
    for (order, pieces) in [("two cups", 2), ("a thousand cups", 1000), ("three cups", 3)] {
        let booked = if book(&producer, order, pieces).await? { "booked" } else { "not booked" };
        println!("{order}: {booked}");
    }
    for topic in ["orders", "stock"] {
        let stored = broker.messages(topic);
        let payloads: Vec<_> = stored.iter().map(|stored| String::from_utf8_lossy(&stored.payload)).collect();
        println!("{topic}: {}", payloads.join(", "));
    }
    Ok(())
}
