//! Tests of a service that publishes: against embedded brokers, without ports, and with the faults that the
//! service must tolerate. Time is paused, so that waiting takes none.
//!
//! ```text
//! cargo test -p metaq-examples --test service_test
//! ```
//!
//! prints the names of the tests, each of which is ok.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use metaq_producer::{Message, Outcome, Producer, SendError, Topic};
use metaq_testkit::{Broker, Fault, RegistryFault, Requests};
use tokio::time::Instant;

// --- The service under test. -------------------------------------------------------------------------------

struct Shop {
    producer: Producer,
    orders: Topic,
}

#[derive(Debug, PartialEq, Eq)]
enum Placed {
    Yes,
    /// The customer may try again: nothing was stored.
    No,
    /// The order may be stored; a person must check.
    Perhaps,
}

impl Shop {
    async fn place(&self, order: &str, customer: &str) -> Placed {
        let message = Message::new(self.orders.clone(), order.to_owned()).with_attribute(customer);
        match self.producer.send(message).await {
            Ok(_) => Placed::Yes,
            Err(error) => Self::explain(&error),
        }
    }

    fn explain(error: &SendError) -> Placed {
        match error.outcome() {
            Outcome::Unknown => Placed::Perhaps,
            _ => Placed::No,
        }
    }
}

// --- Helpers of the tests. ---------------------------------------------------------------------------------

/// Opens a shop, and the broker that it sends to.
async fn open() -> (Shop, Broker) {
    let broker = Broker::builder().topic("orders", 2).start_without_port().unwrap();
    let producer = Producer::builder()
        .discovery(broker.discovery())
        .transport(broker.transport())
        .send_timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    let orders: Topic = "orders".parse().unwrap();
    producer.publish_topic(&orders).await.unwrap();
    (Shop { producer, orders }, broker)
}

// --- The tests. --------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn an_order_is_stored_with_its_customer() {
    let (shop, broker) = open().await;
    assert_eq!(shop.place("one coffee", "table 7").await, Placed::Yes);
    let stored = broker.messages("orders");
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].payload, "one coffee");
    assert_eq!(stored[0].attribute.as_deref(), Some("table 7"));
}

#[tokio::test(start_paused = true)]
async fn an_order_that_is_refused_can_be_placed_again() {
    let (shop, broker) = open().await;
    broker.faults().plan(Requests::puts().only(2), Fault::refuse(500, "the disk is full"));
    assert_eq!(shop.place("one coffee", "table 7").await, Placed::Yes);
    assert_eq!(shop.place("one tea", "table 7").await, Placed::No);
    assert_eq!(shop.place("one tea", "table 7").await, Placed::Yes);
    assert_eq!(broker.messages("orders").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_order_without_an_answer_fails_in_time() {
    let (shop, broker) = open().await;
    broker.faults().plan(Requests::puts(), Fault::Swallow);
    let started = Instant::now();
    assert_eq!(shop.place("one coffee", "table 7").await, Placed::Perhaps);
    assert!(started.elapsed() <= Duration::from_millis(2_100), "{:?}", started.elapsed());
    assert_eq!(broker.messages("orders").len(), 1, "it was stored: sending it again would serve two");
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_replaced() {
    let (shop, broker) = open().await;
    assert_eq!(shop.place("one coffee", "table 7").await, Placed::Yes);
    broker.faults().close_connections();
    // The shop gets an error immediately, or the order waits for the new connection.
    while shop.place("one tea", "table 7").await != Placed::Yes {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(broker.accepted_connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn orders_are_taken_while_the_registry_is_away() {
    let (shop, broker) = open().await;
    broker.registry().add_fault(RegistryFault::Unreachable);
    for n in 0..100 {
        assert_eq!(shop.place(&format!("coffee {n}"), "table 7").await, Placed::Yes);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(broker.messages("orders").len(), 100);
}

#[tokio::test(start_paused = true)]
async fn wait_for_returns_an_order_placed_by_another_task() {
    let (shop, broker) = open().await;
    let puts = broker.record(Requests::puts());
    let placing = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        shop.place("one coffee", "table 7").await
    });
    let stored = broker.wait_for("orders", 1).await.unwrap();
    assert_eq!(stored[0].payload, "one coffee");
    assert_eq!(puts.count(), 1, "it was sent once");
    assert_eq!(placing.await.unwrap(), Placed::Yes);
}

#[tokio::test]
async fn a_broker_that_is_killed_and_comes_back_takes_orders_again() {
    let broker = Broker::builder().topic("orders", 2).start().await.unwrap();
    // Over TCP this time, and without a registry.
    let producer = Producer::builder().broker(broker.addr().clone()).build().unwrap();
    let orders: Topic = "orders".parse().unwrap();
    producer.publish_topic(&orders).await.unwrap();
    let shop = Shop { producer, orders };
    assert_eq!(shop.place("one coffee", "table 7").await, Placed::Yes);
    let killed = broker.kill().await;
    let broker = killed.start().await.unwrap();
    while shop.place("one tea", "table 7").await != Placed::Yes {}
    assert_eq!(broker.wait_for("orders", 1).await.unwrap()[0].payload, "one tea");
}
