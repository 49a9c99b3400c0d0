//! A local transaction: messages to two topics, which one broker stores together, or not at all.
//!
//! ```text
//! cargo run -p metaq-examples --example transactions
//! ```
//!
//! books three sales, of which one is taken back. It prints what became of each, and what the broker has
//! stored.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::time::Duration;

use anyhow::{Context as _, Result};
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

impl Shop {
    /// Books a sale: an order, and its removal from the stock. Returns true if both are stored, and false if
    /// neither is. The `outcome` of an error says whether the result is known.
    async fn book(&self, order: &'static str, pieces: u32) -> Result<bool, TransactionError> {
        let mut transaction = self.producer.begin(TransactionOptions::new());
        // An error before the commit drops the transaction, which rolls it back.
        transaction.send(Message::new(self.orders.clone(), order)).await?;
        if pieces > 10 {
            // Rolls back explicitly. Dropping the transaction would do so as well, with a warning to
            // `tracing`.
            transaction.rollback().await?;
            return Ok(false);
        }
        transaction.send(Message::new(self.stock.clone(), format!("-{pieces}"))).await?;
        match transaction.commit().await {
            Ok(_) => Ok(true),
            // No answer arrived. Both messages are stored, or neither is, or only one is if the broker failed
            // meanwhile; only the contents of the topics show which. An XA transaction, as in the example
            // `xa_sqlite`, can be looked up and committed again.
            Err(error) if error.outcome() == TransactionOutcome::Unknown => Err(error),
            // Neither is stored.
            Err(error) => {
                println!("{order}: {error}");
                Ok(false)
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let broker = Broker::builder().topic("orders", 2).topic("stock", 2).start().await?;
    let producer = Producer::builder().broker(broker.addr().clone()).build()?;
    let shop = Shop { producer, orders: "orders".parse()?, stock: "stock".parse()? };
    for topic in [&shop.orders, &shop.stock] {
        shop.producer.publish_topic(topic).await?;
    }
    for (order, pieces) in [("two cups", 2), ("a thousand cups", 1000), ("three cups", 3)] {
        let is_booked = shop.book(order, pieces).await.with_context(|| format!("booking {order} failed"))?;
        println!("{order}: {}", if is_booked { "booked" } else { "not booked" });
    }
    for topic in ["orders", "stock"] {
        let mut stored: Vec<_> = broker.messages(topic).into_iter().map(|stored| stored.payload).collect();
        stored.sort_unstable();
        let stored: Vec<_> = stored.iter().map(|payload| String::from_utf8_lossy(payload)).collect();
        println!("stored in {topic}: {}", stored.join(", "));
    }
    shop.producer.close(Duration::from_secs(5)).await;
    Ok(())
}
