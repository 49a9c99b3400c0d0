//! Local transactions with embedded brokers.

use std::collections::BTreeMap;

use metaq_producer::{
    Message, Producer, Topic,
    selector::{RoundRobinSelector, select_fn},
    transaction::{CommitReceipt, TransactionErrorKind, TransactionOptions, TransactionOutcome},
};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};

use crate::common::{
    message, payloads, topic, topic_named,
    transactions::{one, producer, told},
};

#[tokio::test]
async fn transaction_stays_at_one_broker_and_stores_at_commit() {
    let registry = EmbeddedRegistry::new();
    let broker = |id| Broker::builder().id(id).topic("t", 2).topic("u", 2).register_with(&registry).start();
    let brokers = [broker(0).await.unwrap(), broker(1).await.unwrap()];
    let producer = producer(&registry, |_| {}).await;
    producer.publish_topic(&topic_named("u")).await.unwrap();
    let mut used = BTreeMap::<i32, usize>::new();
    for round in 0..8 {
        let mut transaction = producer.begin(TransactionOptions::new());
        assert_eq!((transaction.id(), transaction.broker()), (None, None), "T-2");
        let first = transaction.send(message("a")).await.unwrap();
        let id = transaction.id().unwrap().to_owned();
        assert_eq!(id.split(':').count(), 3, "K-21: {id}");
        assert!(id.starts_with("TX:") && id.ends_with(&format!(":{}", round + 1)), "T-4: {id}");
        assert_eq!(transaction.broker(), Some(&first.broker), "T-6");
        let second = transaction.send(message("b").with_attribute("x")).await.unwrap();
        let third = transaction.send(Message::new(topic_named("u"), "c")).await.unwrap();
        let broker = &brokers[first.partition.broker.0 as usize];
        for receipt in [&first, &second, &third] {
            assert_eq!(receipt.broker, *broker.addr(), "T-8");
            assert_eq!(receipt.partition.broker, broker.id(), "T-15");
        }
        assert!(first.message_id < second.message_id && second.message_id < third.message_id, "T-15");
        let before = broker.messages("t").len();
        assert_eq!(before, 2 * used.get(&broker.id().0).copied().unwrap_or(0), "nothing before the commit");
        let receipt = transaction.commit().await.unwrap();
        let CommitReceipt { transaction, broker: committed, messages, .. } = receipt;
        assert_eq!(
            (transaction.as_ref(), committed.as_ref(), messages),
            (Some(&id), Some(broker.addr()), 3),
            "T-9"
        );
        assert_eq!(broker.messages("t").len(), before + 2, "T-9");
        *used.entry(broker.id().0).or_default() += 1;
    }
    assert_eq!(used, BTreeMap::from([(0, 4), (1, 4)]), "T-6: the partition is chosen over all brokers");
    let stored: usize = brokers.iter().map(|broker| broker.messages("u").len()).sum();
    assert_eq!(stored, 8);
    // T-19: what comes after it is not part of a transaction.
    let receipt = producer.send(message("plain")).await.unwrap();
    assert!(receipt.offset >= 0);
}

#[tokio::test]
async fn a_transaction_without_messages_ends_without_a_broker() {
    let (broker, producer) = one().await;
    let plan = broker.faults().plan(Requests::transactions(None), Fault::Close);
    let receipt = producer.begin(TransactionOptions::new()).commit().await.unwrap();
    assert_eq!((receipt.transaction, receipt.messages), (None, 0), "T-5 is no error");
    producer.begin(TransactionOptions::new()).rollback().await.unwrap();
    drop(producer.begin(TransactionOptions::new()));
    assert_eq!(plan.met(), 0);
}

#[tokio::test]
async fn what_is_rolled_back_is_not_stored() {
    let (broker, producer) = one().await;
    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(message("rolled back")).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(payloads(&broker, "t"), [""; 0], "T-9");
}

#[tokio::test]
async fn topic_missing_at_the_broker_is_refused_and_work_continues() {
    let registry = EmbeddedRegistry::new();
    let one = Broker::builder().id(0).topic("t", 1).register_with(&registry).start().await.unwrap();
    let other = Broker::builder().id(1).topic("u", 1).register_with(&registry).start().await.unwrap();
    let producer = producer(&registry, |_| {}).await;
    producer.publish_topic(&topic_named("u")).await.unwrap();
    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(message("a")).await.unwrap();
    let error = transaction.send(Message::new(topic_named("u"), "b")).await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::NoPartition, TransactionOutcome::Open), "T-8, M-12");
    let text = error.to_string();
    assert!(text.contains("topic u") && text.contains(&one.addr().to_string()), "{text}");
    transaction.send(message("c")).await.unwrap();
    assert_eq!(transaction.commit().await.unwrap().messages, 2);
    assert_eq!(payloads(&one, "t"), ["a", "c"]);
    assert_eq!(payloads(&other, "u"), [""; 0]);
}

#[tokio::test]
async fn a_message_that_is_refused_is_left_out() {
    let (broker, producer) = one().await;
    let mut transaction = producer.begin(TransactionOptions::new());
    let large = Message::new(topic(), vec![0; 2_000_000]);
    let error = transaction.send(large).await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::TooLarge, TransactionOutcome::Open));
    let error = transaction.send(Message::new(topic_named("nowhere"), "x")).await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::NotPublished, TransactionOutcome::Open));
    assert_eq!(transaction.id(), None, "K-16: nothing has begun");
    transaction.send(message("a")).await.unwrap();
    broker.faults().plan(Requests::puts().first(1), Fault::refuse(500, "disk full"));
    let error = transaction.send(message("b")).await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::Rejected, TransactionOutcome::Open), "T-14");
    assert!(error.status().is_some() && error.to_string().contains("disk full"), "{error}");
    transaction.send(message("c")).await.unwrap();
    assert_eq!(transaction.commit().await.unwrap().messages, 2, "T-14");
    assert_eq!(payloads(&broker, "t"), ["a", "c"]);
}

#[tokio::test]
async fn many_messages_at_a_time_have_their_receipts_in_order() {
    let (broker, producer) = one().await;
    let mut transaction = producer.begin(TransactionOptions::new());
    let receipts = transaction.send_all((0..2000).map(|n| message(format!("{n:04}")))).await.unwrap();
    assert_eq!((receipts.len(), transaction.messages()), (2000, 2000));
    assert!(receipts.is_sorted_by_key(|receipt| receipt.message_id));
    transaction.commit().await.unwrap();
    assert_eq!(payloads(&broker, "t"), (0..2000).map(|n| format!("{n:04}")).collect::<Vec<_>>());

    let mut transaction = producer.begin(TransactionOptions::new());
    broker.faults().plan(Requests::puts().only(500), Fault::refuse(500, "full"));
    let error = transaction.send_all((0..2000).map(|n| message(format!("{n:04}")))).await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::Rejected, TransactionOutcome::Open));
    assert!((499..=755).contains(&transaction.messages()), "{}", transaction.messages());
    transaction.rollback().await.unwrap();
    assert_eq!(broker.messages("t").len(), 2000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_and_plain_messages_of_one_producer_do_not_mix() {
    let registry = EmbeddedRegistry::new();
    let broker = |id| Broker::builder().id(id).topic("t", 2).register_with(&registry).start();
    let brokers = [broker(0).await.unwrap(), broker(1).await.unwrap()];
    let producer = producer(&registry, |config| config.connections_per_broker = 2).await;
    let tasks = (0..8).map(|task| {
        let producer = producer.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                let mut transaction = producer.begin(TransactionOptions::new());
                for part in 0..3 {
                    transaction.send(message(format!("{task}-{n}-{part}"))).await.unwrap();
                }
                producer.send(message(format!("plain-{task}-{n}"))).await.unwrap();
                match n % 3 {
                    0 => drop(transaction.commit().await.unwrap()),
                    1 => transaction.rollback().await.unwrap(),
                    _ => drop(transaction),
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let mut expected: Vec<_> = (0..8)
        .flat_map(|task| (0..50).map(move |n| (task, n)))
        .flat_map(|(task, n)| {
            let committed = (0..3).filter(move |_| n % 3 == 0).map(move |part| format!("{task}-{n}-{part}"));
            committed.chain([format!("plain-{task}-{n}")])
        })
        .collect();
    expected.sort_unstable();
    let mut stored: Vec<_> = brokers.iter().flat_map(|broker| payloads(broker, "t")).collect();
    stored.sort_unstable();
    assert_eq!(stored, expected);
    for stored in brokers.iter().map(|broker| payloads(broker, "t")) {
        let mut parts = BTreeMap::<String, usize>::new();
        for payload in stored.iter().filter(|payload| !payload.starts_with("plain")) {
            *parts.entry(payload[..payload.len() - 2].to_owned()).or_default() += 1;
        }
        assert!(parts.values().all(|parts| *parts == 3), "each is on one broker: {parts:?}");
    }
}

#[tokio::test]
async fn broker_without_registry_takes_part_by_its_stats() {
    let broker = Broker::builder().topic("t", 2).topic("any*", 2).start().await.unwrap();
    let producer = Producer::builder().broker(broker.addr().clone()).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer.publish_topic(&topic_named("anything")).await.unwrap();
    let mut transaction = producer.begin(TransactionOptions::new());
    let error = transaction.send(Message::new(topic_named("anything"), "x")).await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::NoPartition, TransactionOutcome::Open), "K-23, B-11");
    transaction.send(message("a")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["a"], "K-23");
}

#[tokio::test]
async fn a_selector_that_refuses_is_told() {
    let registry = EmbeddedRegistry::new();
    let _broker = Broker::builder().topic("t", 2).register_with(&registry).start().await.unwrap();
    let build =
        |selector| Producer::builder().discovery(registry.discovery()).selector(select_fn(selector)).build();
    let refuses: fn(&Topic, &[_], &Message) -> Option<_> = |_, _, _| None;
    let invents: fn(&Topic, &[_], &Message) -> Option<_> =
        |_, _, _| Some(metaq_producer::Partition::new(7, 7));
    for selector in [refuses, invents] {
        let producer = build(selector).unwrap();
        producer.publish_topic(&topic()).await.unwrap();
        let error = producer.begin(TransactionOptions::new()).send(message("x")).await.unwrap_err();
        assert_eq!(told(&error), (TransactionErrorKind::NoPartition, TransactionOutcome::Open), "L-6");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_bound_to_no_task() {
    let (broker, producer) = one().await;
    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(message("here")).await.unwrap();
    let mut transaction = tokio::spawn(async move {
        transaction.send(message("there")).await.unwrap();
        transaction
    })
    .await
    .unwrap();
    // T-2: another one at the same time; what is sent beside them is in neither.
    let mut other = producer.begin(TransactionOptions::new());
    other.send(message("other")).await.unwrap();
    producer.send(message("plain")).await.unwrap();
    transaction.send(message("back")).await.unwrap();
    other.rollback().await.unwrap();
    tokio::spawn(transaction.commit()).await.unwrap().unwrap();
    assert_eq!(payloads(&broker, "t"), ["back", "here", "plain", "there"], "T-1, K-14");
}

#[tokio::test]
async fn it_stays_where_it_began_though_its_first_message_was_refused() {
    let registry = EmbeddedRegistry::new();
    let broker = |id| Broker::builder().id(id).topic("t", 1).register_with(&registry).start();
    let brokers = [broker(0).await.unwrap(), broker(1).await.unwrap()];
    let producer = producer(&registry, |_| {}).await;
    for broker in &brokers {
        broker.faults().plan(Requests::puts().first(1), Fault::refuse(500, "not now"));
    }
    for _ in 0..2 {
        let mut transaction = producer.begin(TransactionOptions::new());
        let error = transaction.send(message("x")).await.unwrap_err();
        assert_eq!(told(&error), (TransactionErrorKind::Rejected, TransactionOutcome::Open), "T-14");
        let began_at = transaction.broker().unwrap().clone();
        for _ in 0..3 {
            assert_eq!(transaction.send(message("y")).await.unwrap().broker, began_at, "T-7, K-13");
        }
        transaction.commit().await.unwrap();
        // Nothing but a refused message: the broker commits that, too.
        let mut transaction = producer.begin(TransactionOptions::new());
        let broker = &brokers[transaction.send(message("y")).await.unwrap().partition.broker.0 as usize];
        transaction.rollback().await.unwrap();
        broker.faults().heal();
    }
    assert_eq!(brokers.iter().map(|broker| payloads(broker, "t").len()).sum::<usize>(), 6);
    let mut transaction = producer.begin(TransactionOptions::new());
    for broker in &brokers {
        broker.faults().plan(Requests::puts().first(1), Fault::refuse(500, "not now"));
    }
    transaction.send(message("x")).await.unwrap_err();
    assert_eq!(transaction.commit().await.unwrap().messages, 0, "B-15");
}

#[tokio::test]
async fn what_the_broker_does_not_have_is_refused_without_harm() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    // The registry promises more than there is.
    let view = |name: &str| {
        metaq_producer::discovery::TopicView::new(topic_named(name)).with_broker(
            broker.id(),
            broker.addr().clone(),
            2,
        )
    };
    let registry = metaq_producer::discovery::StaticDiscovery::new([view("t"), view("u")]);
    let selector = RoundRobinSelector::new().starting_at(1);
    let producer = Producer::builder().discovery(registry).selector(selector).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer.publish_topic(&topic_named("u")).await.unwrap();
    let mut transaction = producer.begin(TransactionOptions::new());
    let error = transaction.send(message("x")).await.unwrap_err();
    assert!(error.to_string().ends_with("wrong partition 1"), "B-12: {error}");
    transaction.send(message("y")).await.unwrap();
    let error = transaction.send(Message::new(topic_named("u"), "x")).await.unwrap_err();
    assert!(error.to_string().ends_with("The server do not accept topic u"), "B-12: {error}");
    transaction.commit().await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["y"]);
    // K-49, B-7: a closed partition takes messages of transactions all the same.
    broker.close_partition(topic(), 0);
    let mut transaction = producer.begin(TransactionOptions::new());
    while transaction.messages() == 0 {
        let _ = transaction.send(message("z")).await;
    }
    transaction.commit().await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["y", "z"], "K-49");
}
