//! Transactions that end at odd moments: closed twice, decided by others, at brokers that move.

use std::{path::PathBuf, pin::pin, time::Duration};

use metaq_producer::{
    Message, Producer,
    transaction::{TransactionErrorKind, TransactionOptions, TransactionOutcome},
    xa::{UniqueQualifier, XaEnd, XaErrorCode, XaProducer, XaResource, XaStart, XaTransactionId, XaVote},
};
use metaq_protocol::TransactionAction;
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use tokio::time::timeout;

use crate::common::{
    SOON, message, payloads, topic,
    transactions::{begun, one, producer, told},
    until,
};

fn steps(action: TransactionAction) -> Requests {
    Requests::transactions(Some(action))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_closings_at_a_time_roll_back_what_is_open() {
    let (broker, producer) = one().await;
    let asked = broker.record(steps(TransactionAction::Rollback));
    broker.faults().plan(steps(TransactionAction::Rollback).first(3), Fault::refuse(503, "busy"));
    let mut transaction = begun(&producer);
    transaction.send(message("x")).await.unwrap();
    let other = producer.clone();
    tokio::join!(producer.close(SOON), other.close(SOON));
    assert!(asked.count() >= 4, "it is rolled back again while the broker refuses that");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_closing_that_is_given_up_leaves_the_next_one_to_roll_back() {
    let (broker, producer) = one().await;
    let asked = broker.record(steps(TransactionAction::Rollback));
    let busy = broker.faults().plan(steps(TransactionAction::Rollback), Fault::refuse(503, "busy"));
    let mut transaction = begun(&producer);
    transaction.send(message("x")).await.unwrap();
    {
        let mut first = pin!(producer.close(SOON));
        while asked.count() == 0 {
            assert!(timeout(Duration::from_millis(1), first.as_mut()).await.is_err());
        }
    }
    // The one of the drop is refused, too.
    until(async || asked.count() >= 2).await;
    busy.cancel();
    let before = asked.count();
    producer.close(SOON).await;
    assert!(asked.count() > before, "it is open, and the connection lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_that_is_back_before_its_loss_is_noticed_is_begun_at() {
    let registry = EmbeddedRegistry::new();
    let broker = Broker::builder().topic("t", 3).register_with(&registry).start().await.unwrap();
    let producer = producer(&registry, |config| config.send_timeout = Duration::from_secs(6)).await;
    let begin = broker.faults().plan(steps(TransactionAction::Begin).first(1), Fault::Ignore);
    let mut transaction = producer.begin(TransactionOptions::new());
    {
        let mut sending = pin!(transaction.send(message("x")));
        while begin.met() == 0 {
            assert!(timeout(Duration::from_millis(1), sending.as_mut()).await.is_err());
        }
        broker.faults().close_connections();
        // What is busy with something else isn't polled meanwhile.
        broker.wait_until(|broker| broker.accepted_connections() == 2).await.unwrap();
        while producer.send(message("plain")).await.is_err() {}
        let sent = timeout(Duration::from_secs(3), sending).await;
        sent.expect("the broker is connected all the time").unwrap();
    }
    transaction.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_that_the_broker_refused_leaves_nothing_there() {
    let (broker, producer) = one().await;
    let rollbacks = broker.record(steps(TransactionAction::Rollback));
    // Not carried out, as by a broker whose threads are all busy.
    broker.faults().plan(steps(TransactionAction::CommitOnePhase).first(1), Fault::refuse(503, "busy"));
    let mut transaction = producer.begin(TransactionOptions::new().without_timeout());
    transaction.send(message("x")).await.unwrap();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::Rejected, TransactionOutcome::Unknown));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        rollbacks.count() > 0,
        "the broker holds it until it is restarted, although the connection lives"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_could_not_be_committed_is_rolled_back_by_closing() {
    let registry = EmbeddedRegistry::new();
    let broker = Broker::builder().topic("t", 3).register_with(&registry).start().await.unwrap();
    let producer = producer(&registry, |config| config.max_in_flight = 1).await;
    let rollbacks = broker.record(steps(TransactionAction::Rollback));
    let mut transaction = begun(&producer);
    transaction.send(message("x")).await.unwrap();
    broker.faults().plan(Requests::puts().first(1), Fault::Late(Duration::from_secs(1)));
    broker.faults().plan(steps(TransactionAction::Rollback).first(3), Fault::refuse(503, "busy"));
    let puts = broker.record(Requests::puts());
    let other = producer.clone();
    let unanswered = tokio::spawn(async move { other.send(message("plain")).await });
    until(async || puts.count() == 1).await;
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(told(&error), (TransactionErrorKind::TimedOut, TransactionOutcome::RolledBack));
    unanswered.await.unwrap().unwrap();
    until(async || rollbacks.count() > 0).await;
    producer.close(SOON).await;
    // What rolls back in the background may ask beside what closes.
    assert!(rollbacks.count() >= 4, "it is rolled back again while the broker refuses that");
}

async fn xa(producer: &Producer) -> XaProducer {
    let xa = XaProducer::new(producer, UniqueQualifier::new("q").unwrap());
    let xa = xa.with_request_timeout(Duration::from_millis(500));
    xa.publish_topic(&topic()).await.unwrap();
    xa
}

async fn ended(xa: &XaProducer, resource: &mut XaResource) -> XaTransactionId {
    let xid = xa.new_xid(1, b"g").unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    resource.send(Message::new(topic(), "x")).await.unwrap();
    resource.end(&xid, XaEnd::Success).await.unwrap();
    xid
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commit_asked_for_by_another_resource_may_be_done() {
    let (broker, producer) = one().await;
    let xa = xa(&producer).await;
    let mut first = xa.resource().unwrap();
    let mut second = xa.resource_at(first.broker()).unwrap();
    let xid = ended(&xa, &mut first).await;
    broker.faults().plan(steps(TransactionAction::CommitOnePhase).first(1), Fault::Swallow);
    assert!(second.commit(&xid, true).await.unwrap_err().is_unknown());
    let error = first.commit(&xid, true).await.unwrap_err();
    assert_eq!(error.code(), XaErrorCode::NOTA);
    assert_eq!(payloads(&broker, "t"), ["x"], "it is committed");
    assert!(error.is_unknown(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn to_forget_a_transaction_that_runs_changes_nothing() {
    let (broker, producer) = one().await;
    let xa = xa(&producer).await;
    let mut resource = xa.resource().unwrap();
    let xid = xa.new_xid(1, b"g").unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    resource.forget(&xid).await.unwrap();
    broker.faults().plan(Requests::puts().first(1), Fault::Garbage(0));
    assert!(timeout(Duration::from_millis(300), resource.send(message("x"))).await.is_err());
    broker.faults().close_connections();
    let ended = resource.end(&xid, XaEnd::Success).await;
    let voted = resource.prepare(&xid).await;
    assert!(
        voted.as_ref().is_err_and(|error| error.code() == XaErrorCode::RBCOMMFAIL),
        "a message has no answer: {ended:?}, {voted:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_being_committed_is_not_missing() {
    let (broker, producer) = one().await;
    let xa = xa(&producer).await.with_request_timeout(SOON);
    let mut resource = xa.resource().unwrap();
    let xid = ended(&xa, &mut resource).await;
    assert_eq!(resource.prepare(&xid).await.unwrap(), XaVote::Prepared);
    broker.faults().plan(steps(TransactionAction::CommitTwoPhase), Fault::Late(Duration::from_secs(2)));
    let committing = tokio::spawn(async move { resource.commit(&xid, false).await });
    broker.wait_for("t", 1).await.unwrap();
    let recovery = xa.recover().await;
    committing.await.unwrap().unwrap();
    assert_eq!(recovery.missing, [], "this commits it, nobody else, and nothing is forgotten");
}

/// A broker that is started again under its id at another address.
async fn moved(folder: Option<PathBuf>) -> (Broker, XaProducer, XaTransactionId) {
    let registry = EmbeddedRegistry::new();
    let mut builder = Broker::builder().topic("t", 3).register_with(&registry);
    if let Some(folder) = &folder {
        builder = builder.data_dir(folder);
    }
    let broker = builder.start().await.unwrap();
    let producer = producer(&registry, |_| {}).await;
    let xa = xa(&producer).await;
    let mut resource = xa.resource().unwrap();
    let xid = ended(&xa, &mut resource).await;
    assert_eq!(resource.prepare(&xid).await.unwrap(), XaVote::Prepared);
    let broker = broker.kill().await.port(0).start().await.unwrap();
    until(async || xa.brokers() == [broker.addr().clone()]).await;
    (broker, xa, xid)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_broker_forgot_while_it_moved_is_missing() {
    let (_broker, xa, _) = moved(None).await;
    let recovery = xa.recover().await;
    assert!(!recovery.missing.is_empty() || !recovery.is_complete(), "{recovery:?}, {:?}", xa.prepared());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn committed_at_a_moved_broker_is_no_longer_prepared() {
    let folder = std::env::temp_dir().join(format!("adversary-{}", std::process::id()));
    let (broker, xa, xid) = moved(Some(folder.clone())).await;
    let recovery = xa.recover().await;
    assert_eq!(recovery.transactions.len(), 1);
    xa.resource_at(broker.addr()).unwrap().commit(&xid, false).await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["x"]);
    drop(broker);
    std::fs::remove_dir_all(folder).unwrap();
    assert!(xa.prepared().is_empty(), "it is committed: {:?}", xa.prepared());
}
