//! Transactions that are dropped while they are open. One test in a process of its own: an event of
//! `tracing` on one thread may be missed when other threads emit the same one for the first time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use metaq_producer::{
    Message, Producer, Topic,
    transaction::TransactionOptions,
    xa::{UniqueQualifier, XaProducer, XaStart},
};
use metaq_protocol::TransactionAction;
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use tokio::time::timeout;

use crate::common::{lines::Lines, until};

#[tokio::test]
async fn what_is_dropped_is_rolled_back_in_the_background_and_told() {
    let told = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(told.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let registry = EmbeddedRegistry::new();
    let broker = Broker::builder().topic("t", 1).register_with(&registry).start().await.unwrap();
    let producer = Producer::builder().discovery(registry.discovery()).build().unwrap();
    let topic: Topic = "t".parse().unwrap();
    producer.publish_topic(&topic).await.unwrap();
    let message = || Message::new(topic.clone(), "x");
    // It does no harm, and counts.
    let harmless = Fault::Late(Duration::ZERO);
    let rollbacks = broker.faults().plan(Requests::transactions(Some(TransactionAction::Rollback)), harmless);

    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(message()).await.unwrap();
    transaction.rollback().await.unwrap();
    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(message()).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!((rollbacks.met(), told.take()), (1, vec![]), "nothing is told of proper ends");

    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(message()).await.unwrap();
    let id = transaction.id().unwrap().to_owned();
    drop(transaction);
    let warning = told.take().join("\n");
    assert!(warning.contains("WARN") && warning.contains(&id), "K-14: {warning}");
    assert!(warning.contains("an open transaction was dropped and is rolled back"), "{warning}");
    until(async || rollbacks.met() == 2).await;

    // Dropped before its beginning was answered: the rollback must not overtake that.
    let late = Fault::Late(Duration::from_millis(600));
    broker.faults().plan(Requests::transactions(Some(TransactionAction::Begin)).first(1), late);
    let mut transaction = producer.begin(TransactionOptions::new());
    assert!(timeout(Duration::from_millis(20), transaction.send(message())).await.is_err());
    drop(transaction);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(rollbacks.met(), 2, "not before the beginning was answered");
    until(async || rollbacks.met() == 3).await;
    told.take();

    let xa = XaProducer::new(&producer, UniqueQualifier::new("dropped").unwrap());
    xa.publish_topic(&topic).await.unwrap();
    let xid = xa.xid(1, b"g", b"b").unwrap();
    let (mut begun, mut joined) = (xa.resource().unwrap(), xa.resource().unwrap());
    begun.start(&xid, XaStart::New).await.unwrap();
    joined.start(&xid, XaStart::Join).await.unwrap();
    drop(joined);
    let warning = told.take().join("\n");
    assert!(warning.contains("it was begun elsewhere, and is left"), "{warning}");
    begun.send(message()).await.unwrap();
    drop(begun);
    let warning = told.take().join("\n");
    assert!(warning.contains(xid.as_str()) && warning.contains("is rolled back"), "K-14: {warning}");
    until(async || rollbacks.met() == 4).await;
    assert_eq!(broker.messages("t").len(), 1);
}
