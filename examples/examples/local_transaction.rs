//! Messages to two topics, which are stored together or not at all:
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

/// Books a sale: an order, and its removal from the stock. Returns true if both are stored, and false if
/// neither is. The `outcome` of an error says whether the result is known.
async fn book(shop: &Shop, order: &str, pieces: u32) -> Result<bool, TransactionError> {
    let mut transaction = shop.producer.begin(TransactionOptions::new());
    // An error before the commit drops the transaction, which rolls it back.
    transaction.send(Message::new(shop.orders.clone(), order.to_owned())).await?;
    if pieces > 10 {
        // Rolls back explicitly. Dropping the transaction would do so as well, with a warning to `tracing`.
        transaction.rollback().await?;
        return Ok(false);
    }
    transaction.send(Message::new(shop.stock.clone(), format!("-{pieces}"))).await?;
    match transaction.commit().await {
        Ok(_) => Ok(true),
        // No answer arrived. Both messages are stored, or neither is, or only one is if the broker failed
        // meanwhile; only the contents of the topics show which. An XA transaction, as in the example
        // `two_phase`, can be looked up and committed again.
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
