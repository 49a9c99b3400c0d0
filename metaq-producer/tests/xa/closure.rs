//! Work in an XA transaction: what its success, its failure, its panic and its end before time do.

use std::{sync::Arc, time::Duration};

use metaq_producer::xa::{
    UniqueQualifier, XaError, XaErrorCode, XaProducer, XaTransaction, XaTransactionError, XaTransactionId,
    XaVote,
};
use metaq_protocol::TransactionAction;
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use tokio::sync::Notify;

use crate::common::{
    cluster::{broker, builder},
    message, payloads, topic, until,
    xa::{code, one},
};

fn new_xid(xa: &XaProducer) -> XaTransactionId {
    xa.new_xid(1, b"g").unwrap()
}

/// The broker holds nothing of it: neither stored, nor prepared, nor open.
async fn nothing_is_left(broker: &Broker, xa: &XaProducer, xid: &XaTransactionId) {
    assert_eq!(payloads(broker, "t"), [""; 0]);
    assert!(xa.recover().await.transactions.is_empty());
    let mut resource = xa.resource().unwrap();
    until(async || resource.rollback(xid).await.is_err_and(|error| error.code() == XaErrorCode::NOTA)).await;
}

#[tokio::test]
async fn work_that_succeeds_is_committed_in_one_phase_or_two() {
    let (broker, xa, _) = one().await;
    let prepares = broker.record(Requests::transactions(Some(TransactionAction::Prepare)));
    let xid = new_xid(&xa);
    let sent = xa.transaction(&xid, async |transaction| {
        assert_eq!(transaction.broker(), broker.addr());
        transaction.send(message("1")).await?;
        transaction.send(message("2")).await?;
        assert_eq!(payloads(&broker, "t"), [""; 0]);
        Ok::<_, XaError>(2)
    });
    assert_eq!(sent.await.unwrap(), 2);
    assert_eq!((payloads(&broker, "t"), prepares.count()), (vec!["1".to_owned(), "2".to_owned()], 0));

    let xid = new_xid(&xa);
    let sent = xa.transaction(&xid, async |transaction| {
        transaction.send(message("3")).await?;
        assert_eq!(transaction.prepare().await?, XaVote::Prepared);
        assert_eq!(xa.recover().await.transactions[0].xid, *transaction.xid());
        assert_eq!(code(transaction.send(message("late")).await), XaErrorCode::PROTO);
        assert_eq!(code(transaction.prepare().await), XaErrorCode::PROTO);
        Ok::<_, XaError>(())
    });
    sent.await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["1", "2", "3"]);
    assert_eq!(xa.prepared(), []);
    // Of nothing there is nothing to commit.
    xa.transaction(&new_xid(&xa), async |_| Ok::<_, XaError>(())).await.unwrap();
    let xid = new_xid(&xa);
    let empty = xa.transaction(&xid, async |transaction| transaction.prepare().await);
    assert_eq!(empty.await.unwrap(), XaVote::ReadOnly);
}

#[tokio::test]
async fn work_that_fails_is_rolled_back() {
    for is_prepared in [false, true] {
        let (broker, xa, _) = one().await;
        let xid = new_xid(&xa);
        let failed = xa.transaction(&xid, async |transaction| {
            transaction.send(message("never")).await.unwrap();
            if is_prepared {
                transaction.prepare().await.unwrap();
            }
            Err::<(), _>("no more coffee")
        });
        let error = failed.await.unwrap_err();
        assert_eq!(error.to_string(), "no more coffee");
        assert!(matches!(error, XaTransactionError::Work { error: "no more coffee", rollback: None, .. }));
        nothing_is_left(&broker, &xa, &xid).await;
    }
}

#[tokio::test]
async fn work_in_doubt_of_its_decision_stays_prepared() {
    let (broker, xa, mut resource) = one().await;
    let xid = new_xid(&xa);
    let failed = xa.transaction(&xid, async |transaction| {
        transaction.send(message("1")).await.unwrap();
        transaction.prepare().await.unwrap();
        transaction.keep_prepared();
        Err::<(), _>("the database has gone")
    });
    assert!(failed.await.is_err());
    let recovery = xa.recover().await;
    assert_eq!(recovery.transactions[0].xid, xid);
    resource.commit(&xid, false).await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn dropping_or_panicking_work_rolls_back_unless_prepared() {
    for is_prepared in [false, true] {
        for panics in [false, true] {
            let (broker, xa, _) = one().await;
            let (xid, reached) = (new_xid(&xa), Arc::new(Notify::new()));
            let task = tokio::spawn({
                let (xa, xid, reached) = (xa.clone(), xid.clone(), Arc::clone(&reached));
                async move {
                    let work = async |transaction: &mut XaTransaction| {
                        transaction.send(message("x")).await?;
                        if is_prepared {
                            transaction.prepare().await?;
                        }
                        reached.notify_one();
                        assert!(!panics, "enough");
                        std::future::pending::<Result<(), XaError>>().await
                    };
                    xa.transaction(&xid, work).await
                }
            });
            reached.notified().await;
            if !panics {
                task.abort();
            }
            assert!(task.await.is_err_and(|error| error.is_panic() == panics));
            if is_prepared {
                let recovery = xa.recover().await;
                assert_eq!(recovery.transactions.len(), 1, "the decision may be to commit it");
                xa.resource().unwrap().rollback(&xid).await.unwrap();
            }
            nothing_is_left(&broker, &xa, &xid).await;
        }
    }
}

#[tokio::test]
async fn a_message_without_answer_rolls_the_work_back() {
    let (broker, xa, _) = one().await;
    broker.faults().plan(Requests::puts().first(1), Fault::Swallow);
    let xid = new_xid(&xa);
    let result = xa.transaction(&xid, async |transaction| {
        assert!(transaction.send(message("lost")).await.unwrap_err().is_unknown());
        // The work takes no notice.
        Ok::<_, XaError>(())
    });
    let XaTransactionError::Xa(error) = result.await.unwrap_err() else { panic!("it can't be committed") };
    assert_eq!((error.code(), error.is_unknown()), (XaErrorCode::RBCOMMFAIL, false));
    nothing_is_left(&broker, &xa, &xid).await;
}

#[tokio::test]
async fn steps_without_answer_are_repeated_or_unknown() {
    let (broker, xa, _) = one().await;
    let commits = |action| Requests::transactions(Some(action)).first(1);
    // A prepared one is committed again, which is no answer to whether it was before.
    for (fault, is_confirmed) in [(Fault::Ignore, true), (Fault::Swallow, false)] {
        broker.faults().plan(commits(TransactionAction::CommitTwoPhase), fault);
        let xid = new_xid(&xa);
        let two_phases = xa.transaction(&xid, async |transaction| {
            transaction.send(message("1")).await?;
            transaction.prepare().await.map(drop)
        });
        match two_phases.await {
            Ok(()) => assert!(is_confirmed),
            Err(XaTransactionError::Xa(error)) => {
                assert!(!is_confirmed && error.code() == XaErrorCode::NOTA && error.is_unknown(), "{error}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(payloads(&broker, "t"), ["1", "1"]);
    broker.faults().plan(commits(TransactionAction::CommitOnePhase), Fault::Swallow);
    let xid = new_xid(&xa);
    let one_phase = xa.transaction(&xid, async |transaction| transaction.send(message("2")).await.map(drop));
    let error = one_phase.await.unwrap_err();
    assert!(matches!(&error, XaTransactionError::Xa(error) if error.is_unknown()), "{error}");
    // Whether one is prepared whose vote is lost isn't known: it is rolled back, whatever the work says.
    broker.faults().plan(commits(TransactionAction::Prepare), Fault::Swallow);
    let xid = new_xid(&xa);
    let not_prepared = xa.transaction(&xid, async |transaction| {
        transaction.send(message("3")).await?;
        assert!(transaction.prepare().await.unwrap_err().is_unknown());
        Ok::<_, XaError>(())
    });
    let error = not_prepared.await.unwrap_err();
    assert!(matches!(&error, XaTransactionError::Xa(error) if error.code().is_rollback()), "{error}");
    assert!(xa.recover().await.transactions.is_empty());
    let nowhere = XaProducer::new(&crate::common::xa::producer(broker.registry()), xa.qualifier().clone());
    let error = nowhere.transaction(&xid, async |_| Ok::<_, XaError>(())).await.unwrap_err();
    assert!(
        matches!(&error, XaTransactionError::Xa(error) if error.code() == XaErrorCode::RMFAIL),
        "{error}"
    );
}

/// Eight tasks on four threads, some of whose work fails: all of a transaction is stored, or nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn work_of_many_tasks_is_stored_whole_or_not_at_all() {
    const LONG: Duration = Duration::from_secs(60);
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let producer = builder(&registry, |config| config.send_timeout = LONG).build().unwrap();
    let xa = XaProducer::new(&producer, UniqueQualifier::new("many").unwrap()).with_request_timeout(LONG);
    xa.publish_topic(&topic()).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let xa = xa.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    let xid = xa.new_xid(1, format!("{task} {n}").as_bytes()).unwrap();
                    let work = async |transaction: &mut XaTransaction| {
                        for part in 0..3 {
                            let message = message(format!("{task} {n} {part}"));
                            transaction.send(message).await.map_err(|error| error.to_string())?;
                            tokio::task::yield_now().await;
                        }
                        if n % 3 == 0 {
                            transaction.prepare().await.map_err(|error| error.to_string())?;
                        }
                        if n % 4 == 0 { Err("no".to_owned()) } else { Ok(()) }
                    };
                    assert_eq!(xa.transaction(&xid, work).await.is_ok(), n % 4 != 0);
                }
            })
        })
        .collect();
    for task in tasks {
        tokio::time::timeout(LONG, task).await.unwrap().unwrap();
    }
    assert_eq!(broker.messages("t").len(), 8 * 15 * 3);
    assert!(
        payloads(&broker, "t")
            .iter()
            .all(|payload| { payload.split(' ').nth(1).unwrap().parse::<u32>().unwrap() % 4 != 0 })
    );
    assert!(xa.recover().await.transactions.is_empty());
}
