//! Rollbacks in the background: what is dropped is rolled back as long as that can be done.

use std::{thread, time::Duration};

use metaq_producer::{
    Producer,
    transaction::{TransactionErrorKind, TransactionOptions, TransactionOutcome},
    xa::{UniqueQualifier, XaProducer, XaStart},
};
use metaq_protocol::TransactionAction;
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, PlannedFault, Requests};
use tokio::{runtime::Runtime, time::Instant};

use crate::common::{
    cluster::Cluster,
    message, topic,
    transactions::{begun, one, told},
    until,
};

fn rollbacks() -> Requests {
    Requests::transactions(Some(TransactionAction::Rollback))
}

/// Counts rollbacks, and does no harm.
fn count_rollbacks(broker: &Broker) -> PlannedFault {
    broker.faults().plan(rollbacks(), Fault::Late(Duration::ZERO))
}

#[tokio::test(start_paused = true)]
async fn a_rollback_that_is_refused_or_not_answered_is_repeated() {
    let cluster = Cluster::new(1, |_| {}).await;
    let (broker, producer) = (&cluster.brokers[0], &cluster.producer);
    for (fault, times) in [(Fault::refuse(503, "busy"), 4), (Fault::Ignore, 3)] {
        let failing = broker.faults().plan(rollbacks().first(times), fault);
        let mut transaction = begun(producer);
        transaction.send(message("x")).await.unwrap();
        drop(transaction);
        until(async || failing.met() == times).await;
        failing.cancel();
        let repeated = count_rollbacks(broker);
        until(async || repeated.met() == 1).await;
        tokio::time::sleep(Duration::from_secs(70)).await;
        assert_eq!(repeated.met(), 1, "it is not repeated any more");
        broker.faults().heal();
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollback_that_is_never_confirmed_is_given_up() {
    let cluster = Cluster::new(1, |_| {}).await;
    let refused = cluster.brokers[0].faults().plan(rollbacks(), Fault::refuse(503, "busy"));
    let mut transaction = begun(&cluster.producer);
    transaction.send(message("x")).await.unwrap();
    drop(transaction);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let met = refused.met();
    assert!((10..40).contains(&met), "{met} attempts");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(refused.met(), met);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_that_was_waited_for_in_vain_goes_on() {
    let cluster = Cluster::new(1, |_| {}).await;
    let (broker, producer) = (&cluster.brokers[0], &cluster.producer);
    let ignored = broker.faults().plan(rollbacks().first(1), Fault::Ignore);
    let mut transaction = begun(producer);
    transaction.send(message("x")).await.unwrap();
    let error = transaction.rollback().await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::TimedOut, TransactionOutcome::RolledBack));
    ignored.cancel();
    let repeated = count_rollbacks(broker);
    until(async || repeated.met() == 1).await;

    // The same if it isn't waited for any longer.
    broker.faults().heal();
    let ignored = broker.faults().plan(rollbacks().first(1), Fault::Ignore);
    let mut transaction = begun(producer);
    transaction.send(message("x")).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(10), transaction.rollback()).await.is_err());
    until(async || ignored.met() == 1).await;
    ignored.cancel();
    let repeated = count_rollbacks(broker);
    until(async || repeated.met() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_local_rollback_ends_with_its_connection() {
    let cluster = Cluster::new(1, |_| {}).await;
    let (broker, producer) = (&cluster.brokers[0], &cluster.producer);
    let refused = broker.faults().plan(rollbacks(), Fault::refuse(503, "busy"));
    let mut transaction = begun(producer);
    transaction.send(message("x")).await.unwrap();
    drop(transaction);
    until(async || refused.met() == 2).await;
    broker.faults().close_connections();
    let accepted = broker.accepted_connections();
    until(async || broker.accepted_connections() > accepted || !producer.partitions(&topic()).is_empty())
        .await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(refused.met() <= 3, "{}: another connection has no such transaction", refused.met());
}

#[tokio::test(start_paused = true)]
async fn an_xa_rollback_outlives_its_connection() {
    let cluster = Cluster::new(1, |_| {}).await;
    let broker = &cluster.brokers[0];
    let xa = XaProducer::new(&cluster.producer, UniqueQualifier::new("q").unwrap());
    xa.publish_topic(&topic()).await.unwrap();
    let xid = xa.xid(1, b"g", b"b").unwrap();
    let mut resource = xa.resource().unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    resource.send(message("x")).await.unwrap();
    let closing = broker.faults().plan(rollbacks().first(2), Fault::Close);
    drop(resource);
    until(async || closing.met() == 2).await;
    closing.cancel();
    let repeated = count_rollbacks(broker);
    until(async || repeated.met() == 1).await;
    let mut resource = xa.resource().unwrap();
    let error = resource.prepare(&xid).await.unwrap_err();
    assert_eq!(error.code(), metaq_producer::xa::XaErrorCode::NOTA, "it is gone");
}

/// A broker and a producer that live in `of_brokers`, and a transaction that was begun in `runtime`.
fn with_transaction(
    runtime: &Runtime,
) -> (Runtime, Broker, Producer, metaq_producer::transaction::Transaction) {
    let of_brokers = Runtime::new().unwrap();
    let registry = EmbeddedRegistry::new();
    let broker = Broker::builder().topic("t", 3).register_with(&registry).start();
    let broker = of_brokers.block_on(broker).unwrap();
    let producer = Producer::builder().discovery(registry.discovery()).build().unwrap();
    of_brokers.block_on(producer.publish_topic(&topic())).unwrap();
    let mut transaction = producer.begin(TransactionOptions::new());
    runtime.block_on(transaction.send(message("x"))).unwrap();
    (of_brokers, broker, producer, transaction)
}

fn wait_until(condition: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "the condition is not reached");
        thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn outside_of_a_runtime_it_is_rolled_back_where_it_began() {
    let runtime = Runtime::new().unwrap();
    let (_of_brokers, broker, _producer, transaction) = with_transaction(&runtime);
    let refused = broker.faults().plan(rollbacks().first(3), Fault::refuse(503, "busy"));
    thread::spawn(move || drop(transaction)).join().unwrap();
    wait_until(|| refused.met() == 3);
    refused.cancel();
    let repeated = count_rollbacks(&broker);
    wait_until(|| repeated.met() == 1);
}

#[test]
fn without_its_runtime_the_rollback_is_submitted() {
    let runtime = Runtime::new().unwrap();
    let (_of_brokers, broker, _producer, transaction) = with_transaction(&runtime);
    let rollbacks = count_rollbacks(&broker);
    drop(runtime);
    drop(transaction);
    wait_until(|| rollbacks.met() >= 1);

    // The same if the runtime ends while the rollback is under way.
    let runtime = Runtime::new().unwrap();
    let (_of_brokers, broker, _producer, transaction) = with_transaction(&runtime);
    let refused = broker.faults().plan(self::rollbacks(), Fault::refuse(503, "busy"));
    thread::spawn(move || drop(transaction)).join().unwrap();
    wait_until(|| refused.met() >= 2);
    let before = refused.met();
    drop(runtime);
    wait_until(|| refused.met() > before);
}

#[tokio::test]
async fn stuck_transaction_does_not_block_close() {
    let (broker, producer) = one().await;
    broker.faults().plan(rollbacks(), Fault::Ignore);
    let mut transaction = begun(&producer);
    transaction.send(message("x")).await.unwrap();
    drop(transaction);
    let started = Instant::now();
    producer.close(Duration::from_millis(100)).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}
