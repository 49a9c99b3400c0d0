//! The statistics of messages in transactions: each counts once, whatever its outcome.

use std::time::Duration;

use metaq_producer::{
    Message, Producer, Topic,
    selector::select_fn,
    stats::{MessageCounts, ProducerStats},
    transaction::{Transaction, TransactionOptions},
    xa::{UniqueQualifier, XaEnd, XaProducer, XaStart},
};
use metaq_protocol::TransactionAction;
use metaq_testkit::{Fault, Requests};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::time::timeout;

use crate::common::{
    cluster::{Cluster, builder, sum},
    message, topic, until,
};

/// Checks that everything adds up.
#[track_caller]
fn check(stats: &ProducerStats) {
    let balances = |counts: MessageCounts| {
        assert_eq!(counts.offered, sum(counts), "{stats:?}");
    };
    balances(stats.messages);
    balances(stats.other_topics);
    let mut offered = stats.other_topics.offered;
    for topic in &stats.topics {
        balances(topic.messages);
        offered += topic.messages.offered;
        let others = &topic.other_brokers;
        let mut sums = [others.acknowledged, others.rejected, others.unknown];
        for broker in &topic.brokers {
            let of_broker = [broker.acknowledged, broker.rejected, broker.unknown];
            sums.iter_mut().zip(of_broker).for_each(|(sum, count)| *sum += count);
        }
        let MessageCounts { acknowledged, rejected, unknown, .. } = topic.messages;
        assert_eq!(sums, [acknowledged, rejected, unknown], "{stats:?}");
    }
    assert_eq!(offered, stats.messages.offered, "{stats:?}");
    let transactions = stats.transactions;
    assert_eq!(
        transactions.begun,
        transactions.open + transactions.committed + transactions.rolled_back + transactions.unknown
    );
}

/// Queued, in flight, acknowledged, rejected, unknown, not sent.
async fn counts(producer: &Producer) -> [u64; 6] {
    let stats = producer.stats().await;
    check(&stats);
    let MessageCounts { queued, in_flight, acknowledged, rejected, unknown, not_sent, .. } = stats.messages;
    [queued, in_flight, acknowledged, rejected, unknown, not_sent]
}

/// Begun, open, committed, rolled back, unknown.
async fn transactions(producer: &Producer) -> [u64; 5] {
    let counts = producer.stats().await.transactions;
    [counts.begun, counts.open, counts.committed, counts.rolled_back, counts.unknown]
}

fn begin(producer: &Producer) -> Transaction {
    producer.begin(TransactionOptions::new().with_request_timeout(Duration::from_millis(300)))
}

#[tokio::test(start_paused = true)]
async fn transactional_messages_count_by_the_brokers_answer() {
    let cluster = Cluster::new(1, |_| {}).await;
    let (producer, faults) = (&cluster.producer, cluster.brokers[0].faults());
    let mut transaction = begin(producer);
    assert_eq!(transactions(producer).await, [0; 5]);
    transaction.send(message("a")).await.unwrap();
    assert_eq!(counts(producer).await, [0, 0, 1, 0, 0, 0]);
    assert_eq!(transactions(producer).await, [1, 1, 0, 0, 0]);
    faults.plan(Requests::puts().first(1), Fault::refuse(500, "full"));
    transaction.send(message("b")).await.unwrap_err();
    assert_eq!(counts(producer).await, [0, 0, 1, 1, 0, 0]);
    transaction.send(Message::new(topic(), vec![0; 2_000_000])).await.unwrap_err();
    assert_eq!(counts(producer).await, [0, 0, 1, 1, 0, 1], "too large");
    transaction.send(Message::new(Topic::new("nowhere").unwrap(), "c")).await.unwrap_err();
    assert_eq!(counts(producer).await, [0, 0, 1, 1, 0, 2], "not published");
    assert_eq!(producer.stats().await.unpublished, 1);
    transaction.commit().await.unwrap();
    assert_eq!(transactions(producer).await, [1, 0, 1, 0, 0]);

    // Rolled back, they stay acknowledged.
    let mut transaction = begin(producer);
    transaction.send_all((0..10).map(|n| message(n.to_string()))).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(counts(producer).await, [0, 0, 11, 1, 0, 2]);
    assert_eq!(transactions(producer).await, [2, 0, 1, 1, 0]);
    let stats = producer.stats().await;
    let of_broker = &stats.topics[0].brokers[0];
    assert_eq!((of_broker.acknowledged, of_broker.latencies.count(), of_broker.rejected), (11, 11, 1));

    // Without an answer.
    faults.plan(Requests::puts().first(1), Fault::Ignore);
    let mut transaction = begin(producer);
    transaction.send(message("d")).await.unwrap_err();
    assert_eq!(counts(producer).await, [0, 0, 11, 1, 1, 2]);
    assert_eq!(transactions(producer).await, [3, 0, 1, 2, 0]);
    transaction.send(message("e")).await.unwrap_err();
    assert_eq!(counts(producer).await, [0, 0, 11, 1, 1, 3], "it was over");

    // A commit without an answer.
    faults.plan(Requests::transactions(Some(TransactionAction::CommitOnePhase)).first(2), Fault::Ignore);
    let mut transaction = begin(producer);
    transaction.send(message("f")).await.unwrap();
    transaction.commit().await.unwrap_err();
    assert_eq!(transactions(producer).await, [4, 0, 1, 2, 1]);
    let mut transaction = begin(producer);
    transaction.send(message("g")).await.unwrap();
    assert!(timeout(Duration::from_millis(10), transaction.commit()).await.is_err());
    assert_eq!(transactions(producer).await, [5, 0, 1, 2, 2], "nobody waited for the answer");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_sending_counts_whatever_it_waited_for() {
    let mut cluster = Cluster::new(1, |_| {}).await;
    let producer = cluster.producer.clone();
    let moment = Duration::from_millis(10);
    // For the answer, which the next call looks at.
    cluster.brokers[0].faults().plan(Requests::puts().first(1), Fault::Late(Duration::from_millis(50)));
    let mut transaction = begin(&producer);
    assert!(timeout(moment, transaction.send(message("a"))).await.is_err());
    assert_eq!(counts(&producer).await, [0, 1, 0, 0, 0, 0]);
    transaction.send(message("b")).await.unwrap();
    assert_eq!(counts(&producer).await, [0, 0, 2, 0, 0, 0]);
    // Or no call looks at.
    cluster.brokers[0].faults().plan(Requests::puts().first(1), Fault::Ignore);
    assert!(timeout(moment, transaction.send(message("c"))).await.is_err());
    assert_eq!(counts(&producer).await, [0, 1, 2, 0, 0, 0]);
    drop(transaction);
    assert_eq!(counts(&producer).await, [0, 0, 2, 0, 1, 0]);
    // For the beginning.
    let begins = Requests::transactions(Some(TransactionAction::Begin)).first(1);
    cluster.brokers[0].faults().plan(begins, Fault::Ignore);
    let mut transaction = begin(&producer);
    assert!(timeout(moment, transaction.send(message("d"))).await.is_err());
    assert_eq!(counts(&producer).await, [0, 0, 2, 0, 1, 1]);
    drop(transaction);
    // For a broker.
    drop(cluster.brokers.pop());
    until(async || producer.partitions(&topic()).is_empty()).await;
    let mut transaction = begin(&producer);
    {
        let mut sending = Box::pin(transaction.send(message("e")));
        assert!(timeout(moment, &mut sending).await.is_err());
        assert_eq!(counts(&producer).await, [1, 0, 2, 0, 1, 1]);
    }
    assert_eq!(counts(&producer).await, [0, 0, 2, 0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn messages_of_xa_transactions_count_too() {
    let cluster = Cluster::new(1, |_| {}).await;
    let (producer, faults) = (&cluster.producer, cluster.brokers[0].faults());
    let xa = XaProducer::new(producer, UniqueQualifier::new("q").unwrap());
    xa.publish_topic(&topic()).await.unwrap();
    let mut resource = xa.resource().unwrap();
    let xid = xa.xid(1, b"g", b"b").unwrap();
    resource.send(message("not taken up")).await.unwrap_err();
    assert_eq!(counts(producer).await, [0, 0, 0, 0, 0, 1]);
    resource.start(&xid, XaStart::New).await.unwrap();
    resource.send(message("a")).await.unwrap();
    faults.plan(Requests::puts().first(1), Fault::refuse(500, "full"));
    resource.send(message("b")).await.unwrap_err();
    assert_eq!(counts(producer).await, [0, 0, 1, 1, 0, 1]);
    faults.plan(Requests::puts().first(2), Fault::Ignore);
    resource.send(message("c")).await.unwrap_err();
    assert!(timeout(Duration::from_millis(10), resource.send(message("d"))).await.is_err());
    assert_eq!(counts(producer).await, [0, 1, 1, 1, 1, 1]);
    resource.end(&xid, XaEnd::Fail).await.unwrap();
    assert_eq!(counts(producer).await, [0, 0, 1, 1, 2, 1]);
    drop(resource);
    assert_eq!(counts(producer).await, [0, 0, 1, 1, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_panics_costs_a_transaction_the_message_only() {
    let cluster = Cluster::new(1, |_| {}).await;
    let selector = select_fn(|_, partitions, message| match message.attribute() {
        Some("panic") => panic!("no idea"),
        _ => partitions.first().copied(),
    });
    let producer = builder(&cluster.registry, |_| {}).selector(selector).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let mut transaction = begin(&producer);
    for _ in 0..2 {
        let error = transaction.send(message("x").with_attribute("panic")).await.unwrap_err();
        assert_eq!(error.kind(), metaq_producer::transaction::TransactionErrorKind::NoPartition);
        assert!(error.to_string().contains("no idea"), "{error}");
        transaction.send(message("y")).await.unwrap();
    }
    assert_eq!(transaction.commit().await.unwrap().messages, 2);
    assert_eq!(counts(&producer).await, [0, 0, 2, 0, 0, 2]);
}

/// The next step.
#[derive(Clone, Debug)]
enum Step {
    Send { impatient: bool },
    SendPlain,
    Commit,
    RollBack,
    Drop,
    Fault(u8, bool),
    CloseConnections,
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => any::<bool>().prop_map(|impatient| Step::Send { impatient }),
        2 => Just(Step::SendPlain),
        2 => Just(Step::Commit),
        1 => Just(Step::RollBack),
        1 => Just(Step::Drop),
        2 => (0..5_u8, any::<bool>()).prop_map(|(fault, puts)| Step::Fault(fault, puts)),
        1 => Just(Step::CloseConnections),
        1 => (0..500_u64).prop_map(Step::Wait),
    ]
}

#[test]
fn whatever_happens_everything_adds_up() {
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let steps = prop::collection::vec(any_step(), 1..30);
    runner
        .run(&steps, |steps| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().start_paused(true).build().unwrap().block_on(take(steps));
            Ok(())
        })
        .unwrap();
}

async fn take(steps: Vec<Step>) {
    let cluster = Cluster::new(2, |config| config.send_timeout = Duration::from_millis(500)).await;
    let producer = &cluster.producer;
    let mut transaction = begin(producer);
    let mut given = 0;
    for step in steps {
        given += u64::from(matches!(step, Step::Send { .. } | Step::SendPlain));
        match step {
            Step::Send { impatient } => {
                let patience = if impatient { Duration::from_micros(10) } else { Duration::from_secs(60) };
                let _ = timeout(patience, transaction.send(message("x"))).await;
            }
            Step::SendPlain => drop(producer.send(message("plain")).await),
            Step::Commit => drop(std::mem::replace(&mut transaction, begin(producer)).commit().await),
            Step::RollBack => drop(std::mem::replace(&mut transaction, begin(producer)).rollback().await),
            Step::Drop => transaction = begin(producer),
            Step::Fault(number, puts) => {
                let requests = if puts { Requests::puts() } else { Requests::transactions(None) };
                let fault = match number {
                    0 => Fault::refuse(503, "busy"),
                    1 => Fault::Ignore,
                    2 => Fault::Close,
                    3 => Fault::Late(Duration::from_millis(100)),
                    _ => Fault::Swallow,
                };
                cluster.brokers.iter().for_each(|broker| {
                    broker.faults().plan(requests.clone().first(1), fault.clone());
                });
            }
            Step::CloseConnections => {
                cluster.brokers.iter().for_each(|broker| broker.faults().close_connections());
            }
            Step::Wait(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
        }
        let stats = producer.stats().await;
        check(&stats);
        assert_eq!(stats.messages.offered, given);
    }
    drop(transaction);
    producer.close(Duration::from_secs(10)).await;
    let stats = producer.stats().await;
    check(&stats);
    assert_eq!((stats.messages.queued, stats.messages.in_flight), (0, 0), "{stats:?}");
    assert_eq!(stats.transactions.open, 0);
}
