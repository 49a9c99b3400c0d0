//! Local transactions when something goes wrong on the way.

use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use metaq_producer::{
    BrokerAddr, SendErrorKind,
    transaction::{TransactionErrorKind, TransactionOptions, TransactionOutcome},
};
use metaq_protocol::TransactionAction;
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use tokio::time::timeout;

use crate::common::{
    message, payloads, topic,
    transactions::{begun, one, producer, told},
    until,
};

#[tokio::test]
async fn a_failed_beginning_leaves_nothing_behind() {
    let (broker, producer) = one().await;
    let begins = || Requests::transactions(Some(TransactionAction::Begin)).first(1);
    broker.faults().plan(begins(), Fault::refuse(500, "no"));
    let mut transaction = begun(&producer);
    let error = transaction.send(message("a")).await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::Rejected, TransactionOutcome::RolledBack), "T-11");
    // K-13, T-18: later messages don't go out with the dead name.
    let error = transaction.send(message("b")).await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::Over, TransactionOutcome::RolledBack));
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::Over, TransactionOutcome::RolledBack));

    broker.faults().plan(begins(), Fault::Swallow);
    let mut transaction = begun(&producer);
    let error = transaction.send(message("a")).await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::TimedOut, TransactionOutcome::RolledBack), "T-11");

    // If the connection was lost with it, nothing can be left: it begins anew.
    broker.faults().plan(begins(), Fault::Close);
    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(message("c")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["c"]);
}

#[tokio::test]
async fn an_ended_transaction_keeps_its_name() {
    let (broker, producer) = one().await;
    let mut transaction = begun(&producer);
    transaction.send(message("a")).await.unwrap();
    let id = transaction.id().unwrap().to_owned();
    broker.faults().plan(Requests::puts().first(1), Fault::Bytes("result 200 3 1\r\nodd".into()));
    transaction.send(message("b")).await.unwrap_err();
    assert_eq!((transaction.id(), transaction.broker()), (Some(&*id), Some(broker.addr())));
    for error in [transaction.send(message("c")).await.unwrap_err(), transaction.commit().await.unwrap_err()]
    {
        assert_eq!(told(&error), (TransactionErrorKind::Over, TransactionOutcome::RolledBack));
        assert_eq!((error.transaction(), error.broker()), (Some(&*id), Some(broker.addr())));
        assert!(error.to_string().starts_with(&format!("transaction {id} on broker")), "{error}");
    }
}

#[tokio::test]
async fn it_begins_at_another_broker_when_one_can_not_be_reached() {
    let registry = EmbeddedRegistry::new();
    let broker = |id| Broker::builder().id(id).topic("t", 1).register_with(&registry).start();
    let (bad, good) = (broker(0).await.unwrap(), broker(1).await.unwrap());
    let producer =
        producer(&registry, |config| config.connection.max_backoff = Duration::from_millis(50)).await;
    bad.faults().plan(Requests::transactions(None), Fault::Close);
    for n in 0..6 {
        let mut transaction = producer.begin(TransactionOptions::new());
        transaction.send(message(n.to_string())).await.unwrap();
        assert_eq!(transaction.broker(), Some(good.addr()));
        transaction.commit().await.unwrap();
    }
    assert_eq!(payloads(&good, "t"), ["0", "1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn the_first_message_waits_for_a_broker() {
    let registry = EmbeddedRegistry::new();
    let broker = Broker::builder().topic("t", 1).register_with(&registry).start().await.unwrap();
    let producer = producer(&registry, |config| {
        config.send_timeout = Duration::from_millis(400);
        config.connection.max_backoff = Duration::from_millis(20);
    })
    .await;
    broker.faults().refuse_connections(true);
    broker.faults().close_connections();
    until(async || producer.partitions(&topic()).is_empty()).await;
    let mut transaction = producer.begin(TransactionOptions::new());
    let started = Instant::now();
    let error = transaction.send(message("a")).await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::NotConnected, TransactionOutcome::Open));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(error.to_string().contains(&broker.addr().to_string()), "{error}");
    broker.faults().refuse_connections(false);
    transaction.send(message("b")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["b"]);
}

#[tokio::test]
async fn a_commit_without_an_answer_is_unknown_always() {
    let (broker, producer) = one().await;
    let commits = || Requests::transactions(Some(TransactionAction::CommitOnePhase)).first(1);
    // Whether it is carried out, and whether the connection ends.
    let faults = [
        (Fault::Swallow, true),
        (Fault::Ignore, false),
        (Fault::Cut(0), true),
        (Fault::Cut(9), true),
        (Fault::Close, false),
        (Fault::Garbage(40), true),
        (Fault::refuse(503, "busy"), false),
        (
            Fault::Answer(
                metaq_producer::Status::INTERNAL_SERVER_ERROR,
                "XAException:code=104,msg=x".to_owned(),
            ),
            true,
        ),
    ];
    let mut stored = 0;
    for round in 0..3 {
        for (fault, is_carried_out) in &faults {
            broker.faults().plan(commits(), fault.clone());
            // The last one may have taken the connection with it.
            until(async || !producer.partitions(&topic()).is_empty()).await;
            let mut transaction = begun(&producer);
            transaction.send(message("x")).await.unwrap();
            let error = transaction.commit().await.unwrap_err();
            assert_eq!(
                error.outcome(),
                TransactionOutcome::Unknown,
                "K-48, T-10: {round} {fault:?}: {error}"
            );
            assert!(error.to_string().contains("may or may not be committed"), "{error}");
            stored += usize::from(*is_carried_out);
            assert_eq!(broker.messages("t").len(), stored, "{fault:?}");
        }
    }
    assert_eq!(stored, 15);
}

#[tokio::test]
async fn connection_lost_before_commit_ends_the_transaction() {
    let (broker, producer) = one().await;
    for round in 0..10 {
        until(async || !producer.partitions(&topic()).is_empty()).await;
        let mut transaction = producer.begin(TransactionOptions::new());
        transaction.send(message("x")).await.unwrap();
        broker.faults().refuse_connections(true);
        broker.faults().close_connections();
        // Only when that has come to be known: a commit before that is unknown.
        until(async || producer.partitions(&topic()).is_empty()).await;
        broker.faults().refuse_connections(false);
        if round % 2 == 0 {
            // With the next connection, on which the broker knows nothing of it.
            until(async || !producer.partitions(&topic()).is_empty()).await;
        }
        let error = if round % 4 < 2 {
            let error = transaction.send(message("y")).await.unwrap_err();
            let over = transaction.commit().await.unwrap_err();
            assert_eq!(over.outcome(), TransactionOutcome::RolledBack);
            error
        } else {
            match transaction.commit().await {
                Err(error) => error,
                Ok(receipt) => panic!("committed: {receipt:?}"),
            }
        };
        assert_eq!(
            told(&error),
            (TransactionErrorKind::ConnectionLost, TransactionOutcome::RolledBack),
            "T-16, B-18"
        );
    }
    // Rolling back what is gone is no error.
    until(async || !producer.partitions(&topic()).is_empty()).await;
    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(message("x")).await.unwrap();
    broker.faults().close_connections();
    transaction.rollback().await.unwrap();
    assert_eq!(payloads(&broker, "t"), [""; 0]);
}

#[tokio::test]
async fn message_waiting_across_a_replaced_connection_was_lost() {
    let registry = EmbeddedRegistry::new();
    let broker = Broker::builder().topic("t", 1).register_with(&registry).start().await.unwrap();
    let producer = producer(&registry, |config| config.max_in_flight = 4).await;
    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(message("a")).await.unwrap();
    let late = broker.faults().plan(Requests::puts().first(2), Fault::Late(Duration::from_millis(100)));
    let owed: Vec<_> = (0..2).map(|_| producer.try_send(message("plain")).unwrap()).collect();
    until(async || late.met() == 2).await;
    let mut waiting = Box::pin(transaction.send(message("b")));
    assert!((&mut waiting).now_or_never().is_none());
    // It is given capacity, and learns of that when the connection has been replaced.
    for owed in owed {
        owed.await.unwrap();
    }
    broker.faults().close_connections();
    let reconnects = || producer.health().brokers[0].connections[0].reconnects;
    until(async || reconnects() == 1 && !producer.partitions(&topic()).is_empty()).await;
    let error = waiting.await.unwrap_err();
    assert_eq!(
        told(&error),
        (TransactionErrorKind::ConnectionLost, TransactionOutcome::RolledBack),
        "{error}"
    );
}

#[tokio::test]
async fn the_broker_ends_it_after_its_timeout() {
    let (broker, producer) = one().await;
    let options = TransactionOptions::new().with_timeout(Duration::from_millis(500));
    let mut transactions = Vec::new();
    for _ in 0..3 {
        let mut transaction = producer.begin(options.clone());
        transaction.send(message("x")).await.unwrap();
        transactions.push(transaction);
    }
    let mut first = transactions.pop().unwrap();
    let started = Instant::now();
    let error = loop {
        match first.send(message("y")).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => break error,
        }
    };
    assert_eq!(told(&error), (TransactionErrorKind::Expired, TransactionOutcome::RolledBack), "T-12, B-13");
    assert!(started.elapsed() > Duration::from_millis(500), "a part of a second counts as one, B-19");
    let error = transactions.pop().unwrap().commit().await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::Expired, TransactionOutcome::RolledBack), "T-12");
    transactions.pop().unwrap().rollback().await.unwrap();
    assert_eq!(payloads(&broker, "t"), [""; 0]);
}

#[tokio::test]
async fn a_message_without_an_answer_rolls_it_back() {
    for fault in [Fault::Swallow, Fault::Ignore, Fault::Garbage(60), Fault::Cut(5)] {
        let registry = EmbeddedRegistry::new();
        let broker = Broker::builder().topic("t", 1).register_with(&registry).start().await.unwrap();
        let producer = producer(&registry, |config| config.send_timeout = Duration::from_secs(2)).await;
        let mut transaction = producer.begin(TransactionOptions::new());
        transaction.send(message("a")).await.unwrap();
        broker.faults().plan(Requests::puts().first(1), fault.clone());
        let error = transaction.send(message("b")).await.unwrap_err();
        assert_eq!(error.outcome(), TransactionOutcome::RolledBack, "{fault:?}");
        let error = transaction.commit().await.unwrap_err();
        assert_eq!(told(&error), (TransactionErrorKind::Over, TransactionOutcome::RolledBack), "{fault:?}");
        assert_eq!(payloads(&broker, "t"), [""; 0], "B-27: the broker would answer 200 to a commit");
    }
}

#[tokio::test]
async fn a_sending_that_was_dropped_is_waited_for() {
    let (broker, producer) = one().await;
    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(message("a")).await.unwrap();
    broker.faults().plan(Requests::puts().first(2), Fault::Late(Duration::from_millis(100)));
    assert!(timeout(Duration::from_millis(20), transaction.send(message("b"))).await.is_err());
    assert!(timeout(Duration::from_millis(20), transaction.send(message("never"))).await.is_err());
    assert_eq!(transaction.messages(), 1);
    assert_eq!(transaction.commit().await.unwrap().messages, 2, "exactly what was acknowledged");
    assert_eq!(payloads(&broker, "t"), ["a", "b"]);
}

#[tokio::test]
async fn closing_the_producer_ends_its_transactions() {
    let (broker, producer) = one().await;
    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(message("a")).await.unwrap();
    let mut other = producer.begin(TransactionOptions::new());
    other.send(message("b")).await.unwrap();
    producer.close(Duration::from_secs(1)).await;
    let error = transaction.send(message("c")).await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::Closed, TransactionOutcome::RolledBack), "T-17");
    let error = other.commit().await.unwrap_err();
    assert_eq!(error.outcome(), TransactionOutcome::RolledBack, "T-17");
    let error = producer.begin(TransactionOptions::new()).send(message("d")).await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::Closed, TransactionOutcome::RolledBack));
    assert_eq!(producer.send(message("e")).await.unwrap_err().kind(), SendErrorKind::Closed);
    until(async || broker.open_connections() == 0).await;
    assert_eq!(payloads(&broker, "t"), [""; 0]);
}

#[tokio::test]
async fn addresses_show_in_errors() {
    let (broker, producer) = one().await;
    broker.faults().plan(Requests::transactions(Some(TransactionAction::CommitOnePhase)), Fault::Close);
    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(message("x")).await.unwrap();
    let id = transaction.id().unwrap().to_owned();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(error.broker(), Some::<&BrokerAddr>(broker.addr()));
    assert_eq!(error.transaction(), Some(&*id));
    assert!(std::error::Error::source(&error).is_some());
}

#[tokio::test]
async fn a_step_has_its_own_time() {
    assert_eq!(TransactionOptions::new().request_timeout(), Duration::from_secs(5), "T-13, C-1");
    let (broker, producer) = one().await;
    broker.faults().plan(Requests::transactions(Some(TransactionAction::CommitOnePhase)), Fault::Swallow);
    broker.faults().plan(Requests::transactions(Some(TransactionAction::Rollback)), Fault::Swallow);
    for commits in [true, false] {
        let mut transaction = begun(&producer);
        transaction.send(message("x")).await.unwrap();
        let started = Instant::now();
        let error = if commits {
            transaction.commit().await.unwrap_err()
        } else {
            transaction.rollback().await.unwrap_err()
        };
        assert_eq!(error.kind(), TransactionErrorKind::TimedOut, "T-10");
        // A rollback without an answer leaves nothing in doubt: there was no commit.
        let outcome = if commits { TransactionOutcome::Unknown } else { TransactionOutcome::RolledBack };
        assert_eq!(error.outcome(), outcome, "T-10");
        let took = started.elapsed();
        assert!((Duration::from_millis(290)..Duration::from_secs(2)).contains(&took), "T-13: {took:?}");
    }
}

#[tokio::test]
async fn a_silent_broker_is_no_reason_to_end_it() {
    let registry = EmbeddedRegistry::new();
    let broker = Broker::builder().topic("t", 1).register_with(&registry).start().await.unwrap();
    let producer =
        producer(&registry, |config| config.connection.stall_after = Duration::from_millis(100)).await;
    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(message("a")).await.unwrap();
    broker.faults().freeze();
    // Something that it owes an answer to.
    let owed = producer.try_send(message("plain")).unwrap();
    until(async || producer.partitions(&topic()).is_empty()).await;
    let error = transaction.send(message("b")).await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::NotConnected, TransactionOutcome::Open), "{error}");
    broker.faults().thaw();
    until(async || !producer.partitions(&topic()).is_empty()).await;
    owed.await.unwrap();
    transaction.send(message("c")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["a", "c", "plain"]);
}

#[tokio::test]
async fn a_commit_that_was_sent_is_answered_while_the_producer_closes() {
    let (broker, producer) = one().await;
    broker.faults().plan(
        Requests::transactions(Some(TransactionAction::CommitOnePhase)),
        Fault::Late(Duration::from_millis(100)),
    );
    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(message("x")).await.unwrap();
    let mut commit = Box::pin(transaction.commit());
    assert!(timeout(Duration::from_millis(20), &mut commit).await.is_err());
    let (committed, _) = tokio::join!(commit, producer.close(Duration::from_secs(5)));
    assert_eq!(committed.unwrap().messages, 1);
    assert_eq!(payloads(&broker, "t"), ["x"]);
}
