//! Messages in transactions that name their partition.

use std::time::Duration;

use metaq_producer::{
    Message, Partition, Producer, config::PartitionSet, transaction::TransactionErrorKind,
    transaction::TransactionOptions, transaction::TransactionOutcome,
};
use metaq_protocol::TransactionAction;
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};

use crate::common::{
    cluster::{broker, builder, in_partition},
    message, topic,
    transactions::{begun, told},
    until,
};

fn to(partition: &str, payload: &str) -> Message {
    message(payload).with_partition(partition.parse().unwrap())
}

/// Two brokers with two partitions each, and a producer that has published their topic.
async fn two(partitions: Option<&str>) -> (EmbeddedRegistry, Vec<Broker>, Producer) {
    let registry = EmbeddedRegistry::new();
    registry.session_timeout(Duration::from_secs(600));
    let brokers = (0..2).map(|id| broker(&registry, id)).collect();
    let mut builder = builder(&registry, |config| {
        config.retry.max_attempts = 1;
        config.send_timeout = Duration::from_secs(5);
    });
    if let Some(set) = partitions {
        builder = builder.partitions(topic(), set.parse::<PartitionSet>().unwrap());
    }
    let producer = builder.build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    until(async || producer.partitions(&topic()).len() == 4).await;
    (registry, brokers, producer)
}

#[tokio::test(start_paused = true)]
async fn own_partition_is_taken_while_its_broker_cools_down() {
    let (_registry, brokers, producer) = two(None).await;
    for refused in ["0-0", "1-1"] {
        let id = refused.parse::<Partition>().unwrap().broker.0 as usize;
        brokers[id].faults().plan(Requests::puts().first(1), Fault::refuse(503, "busy"));
        producer.send(to(refused, "refused")).await.unwrap_err();
        let mut transaction = begun(&producer);
        let receipt = transaction.send(to(refused, "stored")).await.unwrap();
        assert_eq!(receipt.partition, refused.parse().unwrap());
        transaction.send(message("anywhere")).await.unwrap();
        transaction.commit().await.unwrap();
        assert!(brokers[id].messages("t").iter().any(|stored| stored.payload == "stored"));
    }
}

#[tokio::test(start_paused = true)]
async fn own_partition_of_a_broker_that_is_away_is_waited_for() {
    for set in [None, Some("0:2;1:2")] {
        let (registry, mut brokers, producer) = two(set).await;
        drop(brokers.pop());
        until(async || producer.partitions(&topic()).len() == 2).await;
        let error = begun(&producer).send(to("1-0", "late")).await.unwrap_err();
        assert_eq!(told(&error), (TransactionErrorKind::NotConnected, TransactionOutcome::Open));
        assert!(error.to_string().contains("for partition 1-0, which was not there in time"), "{error}");
        let mut transaction = producer.begin(TransactionOptions::new());
        let (sent, ()) = tokio::join!(transaction.send(to("1-0", "in time")), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            brokers.push(broker(&registry, 1));
        });
        assert_eq!(sent.unwrap().partition, Partition::new(1, 0));
        transaction.commit().await.unwrap();
        assert_eq!(in_partition(&brokers[1], "t", 0), ["in time"]);
    }
}

#[tokio::test(start_paused = true)]
async fn transaction_with_own_partition_begins_at_no_other_broker() {
    let (_registry, brokers, producer) = two(None).await;
    let begins = || Requests::transactions(Some(TransactionAction::Begin)).first(1);
    let begin = brokers[1].faults().plan(begins(), Fault::Close);
    let mut transaction = begun(&producer);
    assert_eq!(transaction.send(to("1-1", "stored")).await.unwrap().partition, Partition::new(1, 1));
    transaction.commit().await.unwrap();
    assert_eq!((begin.met(), brokers[0].messages("t").len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn own_partition_that_cannot_be_is_refused() {
    let (_registry, mut brokers, producer) = two(None).await;
    let mut transaction = begun(&producer);
    let refused = (TransactionErrorKind::NoPartition, TransactionOutcome::Open);
    for partition in ["7-0", "1-2"] {
        let error = transaction.send(to(partition, "x")).await.unwrap_err();
        assert_eq!(told(&error), refused);
        let text = format!("it is for partition {partition}, which the topic doesn't have");
        assert!(error.to_string().ends_with(&text), "{error}");
    }
    transaction.send(to("0-1", "first")).await.unwrap();
    let elsewhere = format!("and the transaction is on broker {}", brokers[0].addr());
    for (partition, text) in [
        ("1-0", &*elsewhere),
        ("7-0", &*elsewhere),
        ("0-2", "it is for partition 0-2, which the topic doesn't have"),
    ] {
        let error = transaction.send(to(partition, "x")).await.unwrap_err();
        assert_eq!(told(&error), refused);
        assert!(error.to_string().ends_with(text), "{error}");
    }
    drop(brokers.pop());
    until(async || producer.partitions(&topic()).len() == 2).await;
    let error = transaction.send(to("1-0", "x")).await.unwrap_err();
    assert!(error.to_string().ends_with(&elsewhere), "{error}");
    transaction.send(to("0-0", "second")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(
        (in_partition(&brokers[0], "t", 1), in_partition(&brokers[0], "t", 0)),
        (vec!["first".to_owned()], vec!["second".to_owned()])
    );
}
