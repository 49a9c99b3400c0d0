//! XA transactions whose outcome no response shows, or whose broker is away.

use std::time::Duration;

use metaq_producer::{
    BrokerId, Producer,
    discovery::{StaticDiscovery, TopicView},
    xa::{RecoveredTransaction, XaEnd, XaErrorCode, XaProducer, XaResource, XaStart},
};
use metaq_protocol::{Status, TransactionAction};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};

use crate::common::{
    cluster::Cluster,
    message, topic, until,
    xa::{code, ended, one, prepared, xa_producer},
};

fn steps(action: TransactionAction) -> Requests {
    Requests::transactions(Some(action))
}

#[tokio::test]
async fn a_commit_that_a_broker_broke_off_is_unknown() {
    let (broker, xa, mut resource) = one().await;
    for one_phase in [true, false] {
        let (xid, action) = if one_phase {
            (ended(&xa, &mut resource, "x").await, TransactionAction::CommitOnePhase)
        } else {
            (prepared(&xa, &mut resource, "x").await, TransactionAction::CommitTwoPhase)
        };
        let broken_off =
            Fault::refuse(500, "XAException:code=104,msg=STORE COMMIT FAILED: java.io.IOException");
        broker.faults().plan(steps(action).first(1), broken_off);
        let error = resource.commit(&xid, one_phase).await.unwrap_err();
        assert_eq!(error.code(), XaErrorCode::RBOTHER);
        assert!(error.is_unknown(), "{error}");
        assert!(error.to_string().contains("a part may be stored"), "{error}");
    }
}

#[tokio::test]
async fn a_commit_of_what_the_broker_does_not_know_is_unknown() {
    let (broker, xa, mut resource) = one().await;
    let xid = prepared(&xa, &mut resource, "x").await;
    broker.faults().plan(steps(TransactionAction::CommitTwoPhase).first(1), Fault::Swallow);
    assert!(resource.commit(&xid, false).await.unwrap_err().is_unknown());
    let error = resource.commit(&xid, false).await.unwrap_err();
    assert_eq!((error.code(), error.is_unknown()), (XaErrorCode::NOTA, true), "it was committed: {error}");
    assert_eq!(broker.messages("t").len(), 1);
    // In one phase, after its timeout: another resource may have committed it.
    let gone = Fault::refuse(500, "XAException:code=-4,msg=XA transaction 'x' has not been started.");
    let xid = ended(&xa, &mut resource, "x").await;
    broker.faults().plan(steps(TransactionAction::CommitOnePhase).first(1), gone);
    let error = resource.commit(&xid, true).await.unwrap_err();
    assert_eq!((error.code(), error.is_unknown()), (XaErrorCode::NOTA, true), "{error}");
    // In one phase again.
    let xid = ended(&xa, &mut resource, "x").await;
    broker.faults().plan(steps(TransactionAction::CommitOnePhase).first(1), Fault::Swallow);
    assert!(resource.commit(&xid, true).await.unwrap_err().is_unknown());
    let error = resource.commit(&xid, true).await.unwrap_err();
    assert_eq!((error.code(), error.is_unknown()), (XaErrorCode::NOTA, true), "{error}");
}

#[tokio::test]
async fn a_vote_that_can_not_be_read_leaves_it_unknown() {
    let (broker, xa, mut resource) = one().await;
    for vote in ["7", "yes", ""] {
        let xid = ended(&xa, &mut resource, "x").await;
        let odd = Fault::Answer(Status::SUCCESS, vote.to_owned());
        broker.faults().plan(steps(TransactionAction::Prepare).first(1), odd);
        let error = resource.prepare(&xid).await.unwrap_err();
        assert_eq!((error.code(), error.is_unknown()), (XaErrorCode::RMERR, true), "{vote:?}: {error}");
        assert_eq!(resource.recover().await.unwrap(), std::slice::from_ref(&xid), "it is prepared");
        resource.rollback(&xid).await.unwrap();
    }
}

#[tokio::test]
async fn a_line_that_can_not_be_read_is_told_and_hides_nothing() {
    let (broker, xa, resource) = one().await;
    let list = "XID:1:61:62:q\r\nXID:1:6z:62:q\r\n\r\nXID:1:63:62:q";
    let listed = broker
        .faults()
        .plan(steps(TransactionAction::Recover), Fault::Answer(Status::SUCCESS, list.to_owned()));
    let recovery = xa.recover().await;
    let found: Vec<_> = recovery.transactions.iter().map(|found| found.xid.as_str()).collect();
    assert_eq!(found, ["XID:1:61:62:q", "XID:1:63:62:q"]);
    assert_eq!(recovery.failures.len(), 1, "{recovery:?}");
    assert!(!recovery.is_complete());
    let error = &recovery.failures[0].1;
    assert_eq!((error.code(), &recovery.failures[0].0), (XaErrorCode::RMERR, broker.addr()), "{error}");
    assert_eq!(code(resource.recover().await), XaErrorCode::RMERR);
    assert_eq!(listed.met(), 2);
}

#[tokio::test]
async fn one_that_is_prepared_does_not_begin_again() {
    let (broker, xa, mut resource) = one().await;
    let xid = prepared(&xa, &mut resource, "invoice 17").await;
    let rollbacks = broker.faults().plan(steps(TransactionAction::Rollback), Fault::Late(Duration::ZERO));
    let begins = broker.faults().plan(steps(TransactionAction::Begin), Fault::Swallow);
    // The program was restarted, and tries again before it has recovered.
    let mut restarted = xa.resource().unwrap();
    assert_eq!(code(restarted.start(&xid, XaStart::New).await), XaErrorCode::DUPID);
    assert_eq!(begins.met(), 0);
    drop(restarted);
    // Where the broker can't be asked, nothing begins.
    let silent = broker.faults().plan(steps(TransactionAction::Recover).first(1), Fault::Swallow);
    let mut restarted = xa.resource().unwrap();
    assert_eq!(code(restarted.start(&xid, XaStart::New).await), XaErrorCode::RMFAIL);
    assert_eq!((silent.met(), begins.met(), rollbacks.met()), (1, 0, 0));
    resource.commit(&xid, false).await.unwrap();
    assert_eq!(broker.messages("t").len(), 1, "it was not destroyed");
}

#[tokio::test]
async fn drop_does_not_roll_back_what_another_prepared() {
    let (broker, xa, mut resource) = one().await;
    let xid = xa.new_xid(1, b"g").unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    resource.send(message("x")).await.unwrap();
    let mut other = xa.resource().unwrap();
    other.prepare(&xid).await.unwrap();
    let rollbacks = broker.faults().plan(steps(TransactionAction::Rollback), Fault::Late(Duration::ZERO));
    let asked = broker.faults().plan(steps(TransactionAction::Recover), Fault::Late(Duration::ZERO));
    drop(resource);
    until(async || asked.met() >= 1).await;
    // The name is free again when the rollback was given up.
    let mut next = xa.resource().unwrap();
    loop {
        let error = next.start(&xid, XaStart::New).await.unwrap_err();
        assert_eq!(error.code(), XaErrorCode::DUPID);
        if !error.to_string().contains("is being rolled back") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(rollbacks.met(), 0);
    other.commit(&xid, false).await.unwrap();
    assert_eq!(broker.messages("t").len(), 1);
}

#[tokio::test]
async fn a_broker_that_was_seen_and_is_away_makes_recovery_incomplete() {
    let registry = EmbeddedRegistry::new();
    let broker = |id| Broker::builder().id(id).topic("t", 1).register_with(&registry).start();
    let (here, away) = (broker(0).await.unwrap(), broker(1).await.unwrap());
    let xa = xa_producer(&registry, "q").await;
    until(async || xa.brokers().len() == 2).await;
    let mut resource = xa.resource_at(away.addr()).unwrap();
    let xid = prepared(&xa, &mut resource, "x").await;
    assert_eq!(xa.expected_brokers().len(), 2);
    let gone = away.addr().clone();
    drop(resource);
    away.shut_down().await.unwrap();
    until(async || xa.brokers() == [here.addr().clone()]).await;
    let recovery = xa.recover().await;
    assert!(recovery.transactions.is_empty() && recovery.missing.is_empty(), "{recovery:?}");
    let failures: Vec<_> = recovery.failures.iter().map(|(broker, error)| (broker, error.code())).collect();
    assert_eq!(failures, [(&gone, XaErrorCode::RMFAIL)]);
    assert_eq!(xa.prepared().first().map(|prepared| &prepared.xid), Some(&xid));

    // A program that was restarted knows it from what it has written down.
    let restarted = xa_producer(&registry, "q").await;
    restarted.expect_brokers([gone.clone()]);
    assert_eq!(restarted.recover().await.failures.len(), 1);
    assert!(restarted.dismiss_broker(&gone));
    assert!(restarted.recover().await.is_complete());
}

#[tokio::test]
async fn what_its_broker_does_not_list_any_more_is_missing() {
    let (_broker, xa, mut resource) = one().await;
    let (kept, ended) = (prepared(&xa, &mut resource, "a").await, prepared(&xa, &mut resource, "b").await);
    assert_eq!(xa.prepared().len(), 2);
    // By another program.
    let discovery = StaticDiscovery::new([TopicView::new(topic()).with_broker(
        BrokerId(0),
        resource.broker().clone(),
        3,
    )]);
    let producer = Producer::builder().discovery(discovery).build().unwrap();
    let other = XaProducer::new(&producer, xa.qualifier().clone());
    other.publish_topic(&topic()).await.unwrap();
    other.resource().unwrap().rollback(&ended).await.unwrap();
    let recovery = xa.recover().await;
    let names =
        |found: &[RecoveredTransaction]| found.iter().map(|found| found.xid.clone()).collect::<Vec<_>>();
    assert_eq!((names(&recovery.transactions), names(&recovery.missing)), (vec![kept], vec![ended.clone()]));
    let error = resource.commit(&ended, false).await.unwrap_err();
    assert_eq!((error.code(), error.is_unknown()), (XaErrorCode::NOTA, true));
    assert!(xa.recover().await.missing.is_empty(), "it was told");
}

#[tokio::test]
async fn the_qualifier_of_another_producer_is_refused() {
    let (_broker, _xa, mut resource) = one().await;
    let theirs = XaProducer::new(
        &Producer::builder().broker(resource.broker().clone()).build().unwrap(),
        "theirs".parse().unwrap(),
    );
    let xid = theirs.new_xid(1, b"g").unwrap();
    for flags in [XaStart::New, XaStart::Join, XaStart::Resume] {
        assert_eq!(code(resource.start(&xid, flags).await), XaErrorCode::INVAL);
    }
    let error = resource.prepare(&xid).await.unwrap_err();
    assert_eq!(error.code(), XaErrorCode::INVAL);
    assert!(error.to_string().contains(r#""theirs""#), "{error}");
    // To end one is possible: an operator's tool does so.
    assert_eq!(code(resource.rollback(&xid).await), XaErrorCode::NOTA);
}

#[tokio::test(start_paused = true)]
async fn what_others_may_have_ended_is_forgotten_with_its_timeout() {
    let cluster = Cluster::new(1, |_| {}).await;
    let xa = XaProducer::new(&cluster.producer, "q".parse().unwrap());
    xa.publish_topic(&topic()).await.unwrap();
    let (mut resource, mut other) = (xa.resource().unwrap(), xa.resource().unwrap());
    let mut last = None;
    for _ in 0..50 {
        let xid = ended(&xa, &mut resource, "x").await;
        assert_eq!(code(resource.start(&xid, XaStart::New).await), XaErrorCode::DUPID);
        other.start(&xid, XaStart::Join).await.unwrap();
        other.send(message("y")).await.unwrap();
        other.end(&xid, XaEnd::Success).await.unwrap();
        other.commit(&xid, true).await.unwrap();
        last = Some(xid);
    }
    let known = |resource: &XaResource| format!("{resource:?}").matches("begun").count();
    assert_eq!((known(&resource), known(&other)), (50, 0));
    tokio::time::sleep(Duration::from_secs(66)).await;
    let xid = last.unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    assert_eq!(known(&resource), 1);
    resource.rollback(&xid).await.unwrap();
}
