//! How a service that publishes is tested: against embedded brokers, without ports, and with the faults that it has to
//! stand. Time is paused, so that waiting takes none.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{io, time::Duration};

use async_trait::async_trait;
use metaq_producer::{BrokerAddr, Message, Outcome, Producer, SendError, Topic};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, RegistryFault, Requests};
use metaq_transport::{ConnectionConfig, Dialer, StreamTransport};
use tokio::{io::DuplexStream, time::Instant};

// --- What is tested: a service of yours. --------------------------------------------------------------------------------

struct Shop {
    producer: Producer,
    orders: Topic,
}

#[derive(Debug, PartialEq, Eq)]
enum Placed {
    Yes,
    /// The customer may try again: nothing was stored.
    No,
    /// Somebody has to look after it.
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

// --- What the tests need: a transport that reaches the brokers of an embedded registry. ---------------------------------

#[derive(Debug)]
struct WithoutPorts(EmbeddedRegistry);

#[async_trait]
impl Dialer for WithoutPorts {
    type Stream = DuplexStream;

    async fn dial(&self, broker: &BrokerAddr) -> io::Result<DuplexStream> {
        self.0.connect(broker)
    }
}

/// A shop, the registry that it looks into, and the broker that it finds there.
async fn open() -> (Shop, EmbeddedRegistry, Broker) {
    let registry = EmbeddedRegistry::new();
    let broker = Broker::builder().topic("orders", 2).register_with(&registry).start_without_port().unwrap();
    let producer = Producer::builder()
        .discovery(registry.discovery())
        .transport(StreamTransport::new(WithoutPorts(registry.clone()), ConnectionConfig::default()))
        .send_timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    let orders: Topic = "orders".parse().unwrap();
    producer.publish_topic(&orders).await.unwrap();
    (Shop { producer, orders }, registry, broker)
}

// --- The tests. ---------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn an_order_is_stored_with_its_customer() {
    let (shop, _registry, broker) = open().await;
    assert_eq!(shop.place("one coffee", "table 7").await, Placed::Yes);
    let stored = broker.messages("orders");
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].payload, "one coffee");
    assert_eq!(stored[0].attribute.as_deref(), Some("table 7"));
}

#[tokio::test(start_paused = true)]
async fn an_order_that_is_refused_can_be_placed_again() {
    let (shop, _registry, broker) = open().await;
    broker.faults().plan(Requests::puts().only(2), Fault::refuse(500, "the disk is full"));
    assert_eq!(shop.place("one coffee", "table 7").await, Placed::Yes);
    assert_eq!(shop.place("one tea", "table 7").await, Placed::No);
    assert_eq!(shop.place("one tea", "table 7").await, Placed::Yes);
    assert_eq!(broker.messages("orders").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_nobody_answers_ends_in_time_and_is_looked_after() {
    let (shop, _registry, broker) = open().await;
    broker.faults().plan(Requests::puts(), Fault::Swallow);
    let started = Instant::now();
    assert_eq!(shop.place("one coffee", "table 7").await, Placed::Perhaps);
    assert!(started.elapsed() <= Duration::from_millis(2_100), "{:?}", started.elapsed());
    assert_eq!(broker.messages("orders").len(), 1, "it was stored: sending it again would serve two");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_is_made_anew() {
    let (shop, _registry, broker) = open().await;
    assert_eq!(shop.place("one coffee", "table 7").await, Placed::Yes);
    broker.faults().close_connections();
    // The shop is told at once, or the order waits for the new connection.
    while shop.place("one tea", "table 7").await != Placed::Yes {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(broker.accepted_connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn orders_are_taken_while_the_registry_is_away() {
    let (shop, registry, broker) = open().await;
    registry.add_fault(RegistryFault::Gone);
    for n in 0..100 {
        assert_eq!(shop.place(&format!("coffee {n}"), "table 7").await, Placed::Yes);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(broker.messages("orders").len(), 100);
}
