//! Unit tests of a program with a registry that they control: `MockDiscovery` adds, moves and hides brokers
//! by method calls. Brokers are embedded and have no ports, and time is paused, so nothing waits.
//!
//! ```text
//! cargo test -p metaq-examples --test mock_in_unit_test
//! ```
//!
//! prints the names of the tests, each of which is ok.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use metaq_producer::{
    Message, Producer, PublishError, SendError, Topic,
    discovery::{Discovery, DiscoveryError, DiscoveryErrorKind, MockDiscovery, TopicView},
    error::PublishErrorKind,
    transport::Transport,
};
use metaq_testkit::{Broker, EmbeddedRegistry};

// --- The unit under test. ----------------------------------------------------------------------------------

struct Shop {
    producer: Producer,
    orders: Topic,
}

impl Shop {
    /// In the program itself, these are a `ZooKeeperDiscovery` and a `TcpTransport`.
    async fn open(
        discovery: impl Discovery + 'static,
        transport: impl Transport + 'static,
    ) -> Result<Self, PublishError> {
        let producer = Producer::builder().discovery(discovery).transport(transport).build().unwrap();
        let orders = Topic::new("orders").unwrap();
        producer.publish_topic(&orders).await?;
        Ok(Self { producer, orders })
    }

    /// Places an order; returns the number of the broker that has stored it.
    async fn place(&self, order: &'static str) -> Result<i32, SendError> {
        let receipt = self.producer.send(Message::new(self.orders.clone(), order)).await?;
        Ok(receipt.partition.broker.0)
    }
}

// --- The tests. --------------------------------------------------------------------------------------------

/// Two brokers, and the registry by which a transport reaches them.
fn brokers() -> (Broker, Broker, EmbeddedRegistry) {
    let reachable = EmbeddedRegistry::new();
    let broker = |id| {
        let broker = Broker::builder().id(id).topic("orders", 1).register_with(&reachable);
        broker.start_without_port().unwrap()
    };
    (broker(0), broker(1), reachable)
}

/// The view in which a broker has the topic.
fn view(broker: &Broker) -> TopicView {
    TopicView::new("orders".parse().unwrap()).with_broker(broker.id(), broker.addr().clone(), 1)
}

#[tokio::test(start_paused = true)]
async fn orders_follow_the_topic_to_another_broker() {
    let (old, new, reachable) = brokers();
    let registry = MockDiscovery::new();
    registry.set(view(&old));
    let shop = Shop::open(registry.clone(), reachable.transport()).await.unwrap();
    assert_eq!(shop.place("one coffee").await.unwrap(), 0);

    registry.set(view(&new));
    while shop.place("one tea").await.unwrap() != 1 {}
    assert_eq!(new.messages("orders")[0].payload, "one tea");
}

#[tokio::test(start_paused = true)]
async fn orders_are_placed_while_the_registry_is_away() {
    let (old, _, reachable) = brokers();
    let registry = MockDiscovery::new();
    registry.set(view(&old));
    let shop = Shop::open(registry.clone(), reachable.transport()).await.unwrap();

    registry.set_away(true);
    assert_eq!(shop.place("one coffee").await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_shop_stays_closed_without_brokers_or_a_registry() {
    let (_, _, reachable) = brokers();
    let registry = MockDiscovery::new();
    let closed = Shop::open(registry.clone(), reachable.transport()).await.err().unwrap();
    assert_eq!(closed.kind(), PublishErrorKind::NoSuchTopic);

    registry.fail_next(DiscoveryError::new(DiscoveryErrorKind::Unreachable, "the registry is down"));
    let closed = Shop::open(registry, reachable.transport()).await.err().unwrap();
    assert_eq!(closed.kind(), PublishErrorKind::Discovery);
}
