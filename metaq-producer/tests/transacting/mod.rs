//! Shared code of the tests of local transactions.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::time::Duration;

use metaq_producer::{
    Message, Producer, ProducerConfig, Topic,
    transaction::{
        Transaction, TransactionError, TransactionErrorKind, TransactionOptions, TransactionOutcome,
    },
};
use metaq_testkit::{Broker, EmbeddedRegistry};
use tokio::time::timeout;

pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn topic(name: &str) -> Topic {
    name.parse().unwrap()
}

pub(crate) fn message(payload: &str) -> Message {
    Message::new(topic("t"), payload.to_owned())
}

pub(crate) async fn producer(
    registry: &EmbeddedRegistry,
    config: impl FnOnce(&mut ProducerConfig),
) -> Producer {
    let mut settings = ProducerConfig::default();
    config(&mut settings);
    let producer = Producer::builder().discovery(registry.discovery()).config(settings).build().unwrap();
    producer.publish_topic(&topic("t")).await.unwrap();
    producer
}

/// One broker with the topic `t`, and a producer.
pub(crate) async fn one() -> (Broker, Producer) {
    let registry = EmbeddedRegistry::new();
    let broker = Broker::builder().topic("t", 3).register_with(&registry).start().await.unwrap();
    let producer = producer(&registry, |_| {}).await;
    (broker, producer)
}

pub(crate) fn payloads(broker: &Broker, topic: &str) -> Vec<String> {
    let messages = broker.messages(topic).into_iter();
    let mut payloads: Vec<_> =
        messages.map(|stored| String::from_utf8(stored.payload.to_vec()).unwrap()).collect();
    payloads.sort_unstable();
    payloads
}

pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, reached).await.expect("the condition is reached");
}

pub(crate) fn told(error: &TransactionError) -> (TransactionErrorKind, TransactionOutcome) {
    (error.kind(), error.outcome())
}

pub(crate) fn begun(producer: &Producer) -> Transaction {
    producer.begin(TransactionOptions::new().with_request_timeout(Duration::from_millis(300)))
}
