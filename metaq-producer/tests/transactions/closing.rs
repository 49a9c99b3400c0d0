//! Local transactions that are open while their producer is closed: they are rolled back as long as there are
//! connections.

use std::time::Duration;

use metaq_producer::transaction::{TransactionErrorKind, TransactionOptions, TransactionOutcome};
use metaq_protocol::TransactionAction;
use metaq_testkit::{Broker, Fault, PlannedFault, Requests};
use tokio::time::Instant;

use crate::common::{
    cluster::Cluster,
    message, payloads,
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn closing_rolls_back_what_is_open_and_nothing_else() {
    let (broker, producer) = one().await;
    let rolled_back = count_rollbacks(&broker);
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut transaction = begun(&producer);
        transaction.send(message("open")).await.unwrap();
        open.push(transaction);
    }
    let mut committed = begun(&producer);
    committed.send(message("committed")).await.unwrap();
    committed.commit().await.unwrap();
    let never_begun = begun(&producer);
    let started = Instant::now();
    producer.close(Duration::from_secs(5)).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(rolled_back.met(), 20, "each is rolled back once");
    let error = open.pop().unwrap().commit().await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::Closed, TransactionOutcome::RolledBack));
    open.pop().unwrap().rollback().await.unwrap();
    let error = open.pop().unwrap().send(message("late")).await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::Closed, TransactionOutcome::RolledBack));
    drop((open, never_begun));
    assert_eq!(rolled_back.met(), 20);
    assert_eq!(payloads(&broker, "t"), ["committed"]);
}

#[tokio::test(start_paused = true)]
async fn closing_repeats_a_rollback_that_is_refused() {
    let cluster = Cluster::new(1, |_| {}).await;
    let (broker, producer) = (&cluster.brokers[0], &cluster.producer);
    let refused = broker.faults().plan(rollbacks().first(3), Fault::refuse(503, "busy"));
    let mut transaction = begun(producer);
    transaction.send(message("x")).await.unwrap();
    let close = tokio::spawn({
        let producer = producer.clone();
        async move { producer.close(Duration::from_secs(30)).await }
    });
    until(async || refused.met() == 3).await;
    refused.cancel();
    let confirmed = count_rollbacks(broker);
    until(async || confirmed.met() == 1).await;
    let started = Instant::now();
    close.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "it closes when it is confirmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_any_time_the_rollbacks_are_written_at_least() {
    for _ in 0..20 {
        let (broker, producer) = one().await;
        let rolled_back = count_rollbacks(&broker);
        let mut transaction = begun(&producer);
        transaction.send(message("x")).await.unwrap();
        producer.close(Duration::ZERO).await;
        until(async || rolled_back.met() >= 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn closing_sees_to_rollbacks_in_the_background() {
    let cluster = Cluster::new(1, |_| {}).await;
    let (broker, producer) = (&cluster.brokers[0], &cluster.producer);
    let refused = broker.faults().plan(rollbacks().first(4), Fault::refuse(503, "busy"));
    let mut transaction = begun(producer);
    transaction.send(message("x")).await.unwrap();
    drop(transaction);
    until(async || refused.met() == 1).await;
    producer.close(Duration::from_secs(30)).await;
    refused.cancel();
    assert!(refused.met() >= 4, "{}: it was confirmed after that", refused.met());
}

#[tokio::test(start_paused = true)]
async fn unconfirmed_rollback_does_not_block_close() {
    let cluster = Cluster::new(1, |_| {}).await;
    let (broker, producer) = (&cluster.brokers[0], &cluster.producer);
    broker.faults().plan(rollbacks(), Fault::Ignore);
    let mut transaction = begun(producer);
    transaction.send(message("x")).await.unwrap();
    let started = Instant::now();
    producer.close(Duration::from_millis(200)).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_lost_connection_tells_what_the_broker_keeps() {
    for (options, kept) in [
        (TransactionOptions::new(), "drops its messages when the transaction's timeout has passed"),
        (TransactionOptions::new().without_timeout(), "keeps its messages in memory until it is restarted"),
    ] {
        let (broker, producer) = one().await;
        let mut transaction = producer.begin(options.clone());
        transaction.send(message("x")).await.unwrap();
        let accepted = broker.accepted_connections();
        broker.faults().close_connections();
        until(async || broker.accepted_connections() > accepted).await;
        let error = transaction.commit().await.unwrap_err();
        assert_eq!(error.outcome(), TransactionOutcome::RolledBack);
        // The broker may report it, in case the loss wasn't noticed.
        if error.kind() == TransactionErrorKind::ConnectionLost {
            assert!(error.to_string().contains(kept), "{error}");
        }
        broker.faults().plan(Requests::puts().first(1), Fault::Close);
        let mut transaction = producer.begin(options);
        let error = transaction.send(message("y")).await.unwrap_err();
        assert_eq!(told(&error), (TransactionErrorKind::ConnectionLost, TransactionOutcome::RolledBack));
        assert!(error.to_string().contains(kept), "{error}");
    }
}
