//! Messages to two topics that are stored together, or not at all:
//!
//! ```text
//! cargo run --example local_transaction
//! ```
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use metaq_producer::{
    Message, Producer, Topic,
    transaction::{TransactionError, TransactionOptions, TransactionOutcome},
};
use metaq_testkit::Broker;

struct Shop {
    producer: Producer,
    orders: Topic,
    stock: Topic,
}

/// Books a sale: an order, and what it takes from the stock. True when both are stored, false when neither is; of an error its
/// `outcome` says whether that is known.
async fn book(shop: &Shop, order: &str, pieces: u32) -> Result<bool, TransactionError> {
    let mut transaction = shop.producer.begin(TransactionOptions::new());
    // Whatever fails before the commit: the transaction is dropped, and so rolled back.
    transaction.send(Message::new(shop.orders.clone(), order.to_owned())).await?;
    if pieces > 10 {
        // We have changed our mind. Returning would do, too: what is dropped is rolled back, with a warning to `tracing`.
        transaction.rollback().await?;
        return Ok(false);
    }
    transaction.send(Message::new(shop.stock.clone(), format!("-{pieces}"))).await?;
    match transaction.commit().await {
        Ok(_) => Ok(true),
        // No answer came: both are stored, or neither; or the broker failed on the way, and one is. Only a look at the topics
        // tells. An XA transaction, as in the example `two_phase`, can be asked for and committed again.
        Err(error) if error.outcome() == TransactionOutcome::Unknown => Err(error),
        Err(_) => Ok(false),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::builder().topic("orders", 2).topic("stock", 2).start().await?;
    let producer = Producer::builder().broker(broker.addr().clone()).build()?;
    let shop = Shop { producer, orders: "orders".parse()?, stock: "stock".parse()? };
    for topic in [&shop.orders, &shop.stock] {
        shop.producer.publish_topic(topic).await?;
    }
    for (order, pieces) in [("two cups", 2), ("a thousand cups", 1000), ("three cups", 3)] {
        let booked = if book(&shop, order, pieces).await? { "booked" } else { "not booked" };
        println!("{order}: {booked}");
    }
    for topic in ["orders", "stock"] {
        let stored = broker.messages(topic);
        let payloads: Vec<_> = stored.iter().map(|stored| String::from_utf8_lossy(&stored.payload)).collect();
        println!("{topic}: {}", payloads.join(", "));
    }
    Ok(())
}
