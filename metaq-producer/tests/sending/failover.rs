//! A broker whose connection is lost without a word: what producers notice of its replacement.

use std::time::Duration;

use futures_util::FutureExt as _;
use metaq_producer::{
    Outcome, Producer,
    health::{ConnectionPhase, ProducerEvent},
    transaction::{TransactionErrorKind, TransactionOptions, TransactionOutcome},
};
use metaq_testkit::{EmbeddedRegistry, Fault, Requests};
use tokio::time::{Instant, sleep};

use crate::common::{
    cluster::{Cluster, Pinned, broker_with, builder, in_partition, pinned},
    message, topic, until,
};

/// By then a connection that lost everything at `Instant::now()` is replaced.
const REPLACED: Duration = Duration::from_millis(1350);

async fn established(producer: &Producer) -> u64 {
    producer.stats().await.connections.iter().map(|(_, connection)| connection.established).sum()
}

#[tokio::test(start_paused = true)]
async fn half_open_connection_is_stalled_then_lost_then_replaced() {
    let Cluster { brokers, producer, .. } = Cluster::new(1, |_| {}).await;
    let mut events = producer.events();
    let began = Instant::now();
    brokers[0].faults().strand_connections();
    let swallowed = producer.enqueue(message("swallowed")).await.unwrap();
    sleep(Duration::from_millis(1100)).await;
    let health = producer.health();
    let connection = &health.brokers[0].connections[0];
    assert_eq!((connection.phase, connection.reconnects), (ConnectionPhase::Stalled, 0));
    let receipt = producer.send(message("waits")).await.unwrap();
    assert_eq!(receipt.attempts, 1);
    assert!(began.elapsed() <= REPLACED, "{:?}", began.elapsed());
    assert_eq!(swallowed.await.unwrap_err().outcome(), Outcome::Unknown);
    let health = producer.health();
    let connection = &health.brokers[0].connections[0];
    assert_eq!((connection.phase, connection.reconnects), (ConnectionPhase::Ready, 1));
    assert!(connection.last_error.is_some());
    let mut seen = Vec::new();
    while let Some(Some(event)) = events.next().now_or_never() {
        match event {
            ProducerEvent::Stalled { .. } => seen.push("stalled".to_owned()),
            ProducerEvent::ConnectionLost { error, .. } => {
                seen.push(std::error::Error::source(&error).unwrap().to_string());
            }
            ProducerEvent::Connected { .. } => seen.push("connected".to_owned()),
            ProducerEvent::Recovered { .. } | ProducerEvent::Unreachable { .. } => panic!("{event:?}"),
            _ => {}
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert_eq!((&*seen[0], &*seen[2]), ("stalled", "connected"));
    assert!(seen[1].contains("answered on a new one"), "{seen:?}");
    assert_eq!(in_partition(&brokers[0], "t", receipt.partition.index), ["waits"]);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_stood_still_recovers_without_a_loss() {
    let Cluster { brokers, producer, .. } = Cluster::new(1, |config| {
        config.send_timeout = Duration::from_secs(10);
    })
    .await;
    let mut events = producer.events();
    for _ in 0..20 {
        brokers[0].faults().freeze();
        let handle = producer.enqueue(message("frozen")).await.unwrap();
        sleep(Duration::from_secs(3)).await;
        let accepted = brokers[0].accepted_connections();
        brokers[0].faults().thaw();
        let thawed = Instant::now();
        assert!(handle.await.is_ok());
        assert!(thawed.elapsed() <= Duration::from_millis(5), "{:?}", thawed.elapsed());
        sleep(Duration::from_millis(500)).await;
        assert!(brokers[0].accepted_connections() <= accepted + 10);
        assert_eq!(brokers[0].open_connections(), 1);
    }
    assert_eq!(established(&producer).await, 1);
    let mut recovered = 0;
    while let Some(Some(event)) = events.next().now_or_never() {
        match event {
            ProducerEvent::Recovered { .. } => recovered += 1,
            ProducerEvent::ConnectionLost { .. } | ProducerEvent::Unreachable { .. } => panic!("{event:?}"),
            _ => {}
        }
    }
    assert_eq!(recovered, 20);
}

#[tokio::test(start_paused = true)]
async fn ordered_message_waits_for_the_end_of_the_old_connection() {
    let registry = EmbeddedRegistry::new();
    let broker = broker_with(&registry, 0, &[("t", 1)]);
    let producer = builder(&registry, |config| {
        config.ordered = true;
        config.send_timeout = Duration::from_secs(10);
    });
    let producer = producer.selector(Pinned).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer.send(pinned("0-0", "first")).await.unwrap();
    broker.faults().strand_connections();
    let began = Instant::now();
    let mut handles = Vec::new();
    for n in 0..20 {
        handles.push(producer.enqueue(pinned("0-0", n.to_string())).await.unwrap());
    }
    let mut outcomes = Vec::new();
    for handle in handles {
        outcomes.push(handle.await);
    }
    // The first was written, and is unknown; the others had not their turn yet.
    assert_eq!(outcomes[0].as_ref().unwrap_err().outcome(), Outcome::Unknown);
    assert!(outcomes[1..].iter().all(Result::is_ok), "{outcomes:?}");
    assert!(began.elapsed() >= Duration::from_millis(1250) && began.elapsed() <= REPLACED);
    let expected: Vec<_> =
        std::iter::once("first".to_owned()).chain((1..20).map(|n| n.to_string())).collect();
    assert_eq!(in_partition(&broker, "t", 0), expected);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_ends_with_the_connection_on_which_it_began() {
    /// The time at which its connection is lost without a word.
    #[derive(Clone, Copy, Debug)]
    enum When {
        Idle,
        InPut,
        InCommit,
        /// It isn't looked at between the answer to its beginning and the replacement.
        InBeginning,
    }
    for when in [When::Idle, When::InPut, When::InCommit, When::InBeginning] {
        let Cluster { brokers, producer, .. } = Cluster::new(1, |config| {
            config.send_timeout = Duration::from_secs(10);
        })
        .await;
        let faults = brokers[0].faults();
        let mut transaction = producer.begin(TransactionOptions::new());
        let told = match when {
            When::Idle => {
                transaction.send(message("a")).await.unwrap();
                faults.strand_connections();
                drop(producer.enqueue(message("plain")).await.unwrap());
                sleep(Duration::from_millis(1500)).await;
                let error = transaction.send(message("b")).await.unwrap_err();
                (error.kind(), error.outcome())
            }
            When::InPut => {
                transaction.send(message("a")).await.unwrap();
                faults.strand_connections();
                let error = transaction.send(message("b")).await.unwrap_err();
                (error.kind(), error.outcome())
            }
            When::InCommit => {
                transaction.send(message("a")).await.unwrap();
                faults.strand_connections();
                let began = Instant::now();
                let error = transaction.commit().await.unwrap_err();
                assert!(began.elapsed() <= REPLACED, "{:?}", began.elapsed());
                assert_eq!(error.outcome(), TransactionOutcome::Unknown, "{error:?}");
                assert!(brokers[0].messages("t").is_empty());
                continue;
            }
            When::InBeginning => {
                let mut sending = Box::pin(transaction.send(message("a")));
                assert!(sending.as_mut().now_or_never().is_none());
                sleep(Duration::from_millis(5)).await;
                faults.strand_connections();
                drop(producer.enqueue(message("plain")).await.unwrap());
                sleep(Duration::from_millis(1500)).await;
                let outcome = sending.await;
                let error = match outcome {
                    Err(error) => error,
                    Ok(_) => transaction.commit().await.unwrap_err(),
                };
                assert_eq!(error.outcome(), TransactionOutcome::RolledBack, "{error:?}");
                assert!(brokers[0].messages("t").iter().all(|stored| stored.payload != "a"));
                continue;
            }
        };
        assert_eq!(told, (TransactionErrorKind::ConnectionLost, TransactionOutcome::RolledBack), "{when:?}");
        assert_eq!(established(&producer).await, 2);
        let error = transaction.commit().await.unwrap_err();
        assert_eq!(error.outcome(), TransactionOutcome::RolledBack, "{when:?}");
        assert!(brokers[0].messages("t").iter().all(|stored| stored.payload != "a" && stored.payload != "b"));
        // Others go on.
        let mut next = producer.begin(TransactionOptions::new());
        next.send(message("next")).await.unwrap();
        next.commit().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn closing_while_a_second_connection_is_under_way_is_bounded() {
    for millis in [900, 1010, 1100, 1299, 1310, 1400] {
        let Cluster { brokers, producer, registry } = Cluster::new(1, |_| {}).await;
        brokers[0].faults().plan(Requests::puts(), Fault::Swallow);
        brokers[0].faults().strand_connections();
        let handle = producer.enqueue(message("swallowed")).await.unwrap();
        sleep(Duration::from_millis(millis)).await;
        let began = Instant::now();
        producer.close(Duration::from_millis(200)).await;
        assert!(began.elapsed() <= Duration::from_millis(300), "{millis} ms: {:?}", began.elapsed());
        assert!(handle.await.is_err());
        until(async || brokers[0].open_connections() == 0).await;
        drop((brokers, registry));
    }
}
