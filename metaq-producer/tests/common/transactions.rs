//! Local transactions with one embedded broker.

use std::time::Duration;

use metaq_producer::{
    Producer, ProducerConfig,
    transaction::{
        Transaction, TransactionError, TransactionErrorKind, TransactionOptions, TransactionOutcome,
    },
};
use metaq_testkit::{Broker, EmbeddedRegistry};

use super::topic;

pub(crate) async fn producer(
    registry: &EmbeddedRegistry,
    config: impl FnOnce(&mut ProducerConfig),
) -> Producer {
    let mut settings = ProducerConfig::default();
    config(&mut settings);
    let producer = Producer::builder().discovery(registry.discovery()).config(settings).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer
}

/// One broker with the topic `t`, and a producer.
pub(crate) async fn one() -> (Broker, Producer) {
    let registry = EmbeddedRegistry::new();
    let broker = Broker::builder().topic("t", 3).register_with(&registry).start().await.unwrap();
    let producer = producer(&registry, |_| {}).await;
    (broker, producer)
}

pub(crate) fn told(error: &TransactionError) -> (TransactionErrorKind, TransactionOutcome) {
    (error.kind(), error.outcome())
}

pub(crate) fn begun(producer: &Producer) -> Transaction {
    producer.begin(TransactionOptions::new().with_request_timeout(Duration::from_millis(300)))
}
