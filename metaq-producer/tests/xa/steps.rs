//! XA transactions with embedded brokers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use metaq_producer::{
    Message, Producer,
    xa::{UniqueQualifier, XaEnd, XaErrorCode, XaProducer, XaStart, XaVote},
};
use metaq_protocol::TransactionAction;
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Heuristic, Requests};
use tokio::time::timeout;

use crate::common::{
    message, payloads, topic, topic_named, until,
    xa::{code, ended, one, prepared, producer, xa_producer},
};

#[tokio::test]
async fn both_phases_one_phase_and_rollback() {
    let (broker, xa, mut resource) = one().await;
    let xid = xa.xid(-3, b"", b"bb").unwrap();
    assert_eq!(xid.as_str(), "XID:-3::6262:q", "X-4");
    resource.start(&xid, XaStart::New).await.unwrap();
    let receipt = resource.send(message("two phases")).await.unwrap();
    assert_eq!((receipt.partition.broker, &receipt.broker), (broker.id(), broker.addr()), "X-9");
    resource.end(&xid, XaEnd::Success).await.unwrap();
    assert_eq!(resource.prepare(&xid).await.unwrap(), XaVote::Prepared);
    assert_eq!(payloads(&broker, "t"), [""; 0]);
    resource.commit(&xid, false).await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["two phases"], "X-12");

    let xid = ended(&xa, &mut resource, "one phase").await;
    resource.commit(&xid, true).await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["one phase", "two phases"], "X-12");
    let stored = broker.messages("t").into_iter().map(|stored| stored.partition.index);
    assert_eq!(stored.collect::<Vec<_>>(), [1, 2], "X-1: partitions take turns");

    // From every state.
    let xid = xa.xid(1, b"taken up", b"").unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    resource.send(message("never")).await.unwrap();
    resource.rollback(&xid).await.unwrap();
    let xid = ended(&xa, &mut resource, "never").await;
    resource.rollback(&xid).await.unwrap();
    let xid = prepared(&xa, &mut resource, "never").await;
    resource.rollback(&xid).await.unwrap();
    assert_eq!(code(resource.rollback(&xid).await), XaErrorCode::NOTA, "X-13, B-22");

    let xid = xa.xid(1, b"empty", b"").unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    resource.end(&xid, XaEnd::Success).await.unwrap();
    assert_eq!(resource.prepare(&xid).await.unwrap(), XaVote::ReadOnly, "B-21");
    assert_eq!(code(resource.commit(&xid, false).await), XaErrorCode::NOTA, "B-21");
    assert_eq!(payloads(&broker, "t"), ["one phase", "two phases"]);
}

#[tokio::test]
async fn steps_in_the_wrong_order_are_refused_here_or_there() {
    let (broker, xa, mut resource) = one().await;
    assert_eq!(code(resource.send(message("x")).await), XaErrorCode::PROTO, "K-15");
    let (xid, other) = (xa.xid(1, b"g", b"1").unwrap(), xa.xid(1, b"g", b"2").unwrap());
    for flags in [XaStart::Resume, XaStart::Resume] {
        assert_eq!(code(resource.start(&xid, flags).await), XaErrorCode::NOTA, "X-8");
    }
    resource.start(&xid, XaStart::New).await.unwrap();
    assert_eq!(code(resource.start(&xid, XaStart::New).await), XaErrorCode::DUPID, "X-8");
    assert_eq!(code(resource.start(&other, XaStart::New).await), XaErrorCode::PROTO, "X-8");
    assert_eq!(code(resource.prepare(&xid).await), XaErrorCode::PROTO, "X-11");
    assert_eq!(code(resource.commit(&xid, true).await), XaErrorCode::PROTO, "X-12");
    assert_eq!(code(resource.end(&other, XaEnd::Success).await), XaErrorCode::PROTO, "X-10");
    resource.send(message("x")).await.unwrap();
    resource.end(&xid, XaEnd::Success).await.unwrap();
    assert_eq!(code(resource.send(message("x")).await), XaErrorCode::PROTO, "K-15");
    assert_eq!(code(resource.end(&xid, XaEnd::Success).await), XaErrorCode::PROTO, "X-10");
    assert_eq!(code(resource.start(&xid, XaStart::New).await), XaErrorCode::DUPID);
    let error = resource.commit(&xid, false).await.unwrap_err();
    assert_eq!(error.code(), XaErrorCode::PROTO, "B-22: two phases without the first");
    assert_eq!((error.xid(), error.broker(), error.is_unknown()), (Some(&xid), Some(broker.addr()), false));
    resource.prepare(&xid).await.unwrap();
    assert_eq!(code(resource.prepare(&xid).await), XaErrorCode::PROTO, "B-22: prepared twice");
    resource.commit(&xid, false).await.unwrap();
    assert_eq!(code(resource.commit(&xid, false).await), XaErrorCode::NOTA);
    assert_eq!(code(resource.prepare(&other).await), XaErrorCode::NOTA, "X-17");
    resource.forget(&other).await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["x"]);
    assert_eq!(code(xa.xid(1, &[0; 65], b"")), XaErrorCode::INVAL);
}

#[tokio::test]
async fn a_transaction_is_suspended_resumed_and_joined() {
    let (broker, xa, mut resource) = one().await;
    let (xid, other) = (xa.xid(1, b"g", b"1").unwrap(), xa.xid(1, b"g", b"2").unwrap());
    resource.start(&xid, XaStart::New).await.unwrap();
    resource.send(message("a")).await.unwrap();
    resource.end(&xid, XaEnd::Suspend).await.unwrap();
    assert_eq!(code(resource.prepare(&xid).await), XaErrorCode::PROTO, "it is suspended");
    resource.start(&other, XaStart::New).await.unwrap();
    resource.send(message("other")).await.unwrap();
    resource.end(&other, XaEnd::Success).await.unwrap();
    resource.start(&xid, XaStart::Resume).await.unwrap();
    resource.send(message("b")).await.unwrap();
    let mut second = xa.resource().unwrap();
    assert!(second.is_same_rm(&resource), "X-16");
    second.start(&xid, XaStart::Join).await.unwrap();
    second.send(message("c")).await.unwrap();
    second.end(&xid, XaEnd::Success).await.unwrap();
    resource.end(&xid, XaEnd::Suspend).await.unwrap();
    resource.end(&xid, XaEnd::Success).await.unwrap();
    resource.prepare(&xid).await.unwrap();
    second.commit(&xid, false).await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["a", "b", "c"], "K-18");
    resource.rollback(&other).await.unwrap();

    let unknown = xa.xid(1, b"nobody's", b"").unwrap();
    second.start(&unknown, XaStart::Join).await.unwrap();
    assert_eq!(code(second.send(message("x")).await), XaErrorCode::NOTA, "protocol §3.7");
    second.end(&unknown, XaEnd::Fail).await.unwrap();
}

#[tokio::test]
async fn what_has_failed_is_rolled_back_instead_of_prepared() {
    let (broker, xa, mut resource) = one().await;
    for one_phase in [true, false] {
        let xid = xa.xid(1, b"g", b"").unwrap();
        resource.start(&xid, XaStart::New).await.unwrap();
        resource.send(message("x")).await.unwrap();
        resource.end(&xid, XaEnd::Fail).await.unwrap();
        let refused = if one_phase {
            resource.commit(&xid, true).await.err()
        } else {
            resource.prepare(&xid).await.err()
        };
        assert_eq!(refused.unwrap().code(), XaErrorCode::RBROLLBACK, "X-10");
        assert_eq!(code(resource.rollback(&xid).await), XaErrorCode::NOTA, "it was rolled back");
    }
    // A message without an answer: what a broker takes after PREPARE is lost.
    for fault in [Fault::Swallow, Fault::Ignore, Fault::Cut(3)] {
        let xid = xa.xid(1, b"g", b"").unwrap();
        resource.start(&xid, XaStart::New).await.unwrap();
        broker.faults().plan(Requests::puts().first(1), fault.clone());
        let error = resource.send(message("x")).await.unwrap_err();
        assert_eq!((error.code(), error.is_unknown()), (XaErrorCode::RMFAIL, true), "{fault:?}");
        resource.end(&xid, XaEnd::Success).await.unwrap();
        assert_eq!(code(resource.prepare(&xid).await), XaErrorCode::RBCOMMFAIL, "{fault:?}");
        assert_eq!(code(resource.rollback(&xid).await), XaErrorCode::NOTA, "{fault:?}");
    }
    // Also when it wasn't awaited.
    let xid = xa.xid(1, b"g", b"").unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    broker.faults().plan(Requests::puts().first(1), Fault::Ignore);
    assert!(timeout(Duration::from_millis(10), resource.send(message("x"))).await.is_err());
    resource.end(&xid, XaEnd::Success).await.unwrap();
    assert_eq!(code(resource.prepare(&xid).await), XaErrorCode::RBCOMMFAIL);
    // One that was refused is not part of it.
    let xid = xa.xid(1, b"g", b"").unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    broker.faults().plan(Requests::puts().first(1), Fault::refuse(500, "disk full"));
    let error = resource.send(message("refused")).await.unwrap_err();
    assert_eq!((error.code(), error.is_unknown()), (XaErrorCode::RMERR, false));
    assert_eq!(code(resource.send(Message::new(topic_named("u"), "x")).await), XaErrorCode::INVAL);
    assert_eq!(code(resource.send(Message::new(topic(), vec![0; 2_000_000])).await), XaErrorCode::INVAL);
    // One that was not waited for is.
    broker.faults().plan(Requests::puts().first(1), Fault::Late(Duration::from_millis(50)));
    assert!(timeout(Duration::from_millis(10), resource.send(message("late"))).await.is_err());
    resource.end(&xid, XaEnd::Success).await.unwrap();
    resource.prepare(&xid).await.unwrap();
    resource.commit(&xid, false).await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["late"]);
}

#[tokio::test]
async fn a_step_without_an_answer_is_unknown_and_recovery_tells() {
    let (broker, xa, mut resource) = one().await;
    let commits = || Requests::transactions(Some(TransactionAction::CommitTwoPhase)).first(1);
    let mut stored = 0;
    for (n, (fault, is_carried_out)) in [
        (Fault::Swallow, true),
        (Fault::Ignore, false),
        (Fault::Cut(4), true),
        (Fault::Close, false),
        (Fault::refuse(500, "odd"), false),
    ]
    .into_iter()
    .enumerate()
    {
        let xid = prepared(&xa, &mut resource, &n.to_string()).await;
        broker.faults().plan(commits(), fault.clone());
        let error = resource.commit(&xid, false).await.unwrap_err();
        assert!(error.is_unknown(), "X-17, K-48: {fault:?}: {error}");
        let recovery = xa.recover().await;
        assert!(recovery.failures.is_empty(), "{recovery:?}");
        let is_there = recovery.transactions.iter().any(|found| found.xid == xid);
        assert_eq!(is_there, !is_carried_out, "{fault:?}");
        if is_there {
            // It is waited for until the connection is there again.
            resource.commit(&xid, false).await.unwrap();
        }
        stored += 1;
        assert_eq!(broker.messages("t").len(), stored, "{fault:?}");
    }
    let xid = ended(&xa, &mut resource, "x").await;
    broker.faults().plan(Requests::transactions(Some(TransactionAction::Prepare)).first(1), Fault::Swallow);
    assert!(resource.prepare(&xid).await.unwrap_err().is_unknown());
    assert_eq!(resource.recover().await.unwrap(), std::slice::from_ref(&xid));
    resource.rollback(&xid).await.unwrap();
    // A beginning without an answer is left to its timeout, and not taken up.
    broker.faults().plan(Requests::transactions(Some(TransactionAction::Begin)).first(1), Fault::Swallow);
    let rollbacks = broker
        .faults()
        .plan(Requests::transactions(Some(TransactionAction::Rollback)), Fault::Late(Duration::ZERO));
    assert!(resource.start(&xid, XaStart::New).await.unwrap_err().is_unknown());
    assert_eq!(code(resource.send(message("x")).await), XaErrorCode::PROTO, "K-55");
    resource.start(&xid, XaStart::New).await.unwrap(); // K-55
    assert_eq!(rollbacks.met(), 0);
}

#[tokio::test]
async fn what_an_operator_decides_is_told_until_it_is_forgotten() {
    let (broker, xa, mut resource) = one().await;
    let decisions = [
        (Heuristic::Committed, XaErrorCode::HEURCOM),
        (Heuristic::RolledBack, XaErrorCode::HEURRB),
        (Heuristic::Completed, XaErrorCode::HEURHAZ),
    ];
    for (n, (decision, expected)) in decisions.into_iter().enumerate() {
        let xid = prepared(&xa, &mut resource, &n.to_string()).await;
        assert!(broker.decide(&xid, decision).unwrap());
        for result in [resource.commit(&xid, false).await, resource.rollback(&xid).await] {
            let error = result.unwrap_err();
            assert_eq!(error.code(), expected, "B-22");
            assert!(error.code().is_heuristic() && !error.is_unknown());
        }
        assert_eq!(resource.recover().await.unwrap(), std::slice::from_ref(&xid));
        resource.forget(&xid).await.unwrap();
        assert_eq!(code(resource.commit(&xid, false).await), XaErrorCode::NOTA, "X-14");
    }
    assert_eq!(payloads(&broker, "t"), ["0"]);
}

#[tokio::test]
async fn recovery_asks_every_broker_for_its_own_transactions() {
    let registry = EmbeddedRegistry::new();
    let broker = |id| Broker::builder().id(id).topic("t", 1).register_with(&registry).start();
    let brokers = [broker(0).await.unwrap(), broker(1).await.unwrap(), broker(2).await.unwrap()];
    let (xa, theirs) = (xa_producer(&registry, "q").await, xa_producer(&registry, "theirs").await);
    assert_eq!(xa.brokers().len(), 3);
    let mut expected = BTreeSet::new();
    for broker in &brokers {
        let mut resource = xa.resource_at(broker.addr()).unwrap();
        for name in ["a", "b"] {
            let xid = prepared(&xa, &mut resource, &format!("{name}{}", broker.id())).await;
            expected.insert((broker.addr().clone(), xid));
        }
        ended(&xa, &mut resource, "not prepared").await;
        prepared(&theirs, &mut theirs.resource_at(broker.addr()).unwrap(), "theirs").await;
    }
    // A program that was started anew.
    drop(xa);
    let xa = xa_producer(&registry, "q").await;
    let found = |recovery: &metaq_producer::xa::Recovery| -> BTreeSet<_> {
        recovery.transactions.iter().map(|found| (found.broker.clone(), found.xid.clone())).collect()
    };
    let recovery = xa.recover().await;
    assert_eq!(found(&recovery), expected, "X-15");
    assert!(recovery.failures.is_empty());

    brokers[1].faults().freeze();
    let recovery = xa.recover().await;
    assert_eq!(recovery.failures.len(), 1);
    assert_eq!(recovery.failures[0].0, *brokers[1].addr());
    assert_eq!(found(&recovery).len(), 4, "X-15: the others are asked all the same");
    brokers[1].faults().thaw();
    for (broker, xid) in &expected {
        let mut resource = xa.resource_at(broker).unwrap();
        resource.commit(xid, false).await.unwrap();
    }
    assert!(xa.recover().await.transactions.is_empty());
    let stored: Vec<_> = brokers.iter().flat_map(|broker| payloads(broker, "t")).collect();
    assert_eq!(stored, ["a0", "b0", "a1", "b1", "a2", "b2"]);
    let nowhere = "meta://127.0.0.1:1".parse().unwrap();
    assert_eq!(code(xa.resource_at(&nowhere)), XaErrorCode::RMFAIL);
}

#[tokio::test]
async fn a_resource_has_all_topics_or_there_is_none() {
    let registry = EmbeddedRegistry::new();
    let start = |id, topics: &[&str]| {
        let builder = topics.iter().fold(Broker::builder().id(id), |builder, topic| builder.topic(topic, 1));
        builder.register_with(&registry).start()
    };
    let (one, both) = (start(0, &["t", "v"]).await.unwrap(), start(1, &["t", "u"]).await.unwrap());
    let producer = producer(&registry);
    let xa = XaProducer::new(&producer, UniqueQualifier::new("q").unwrap());
    assert_eq!(code(xa.resource()), XaErrorCode::RMFAIL, "X-7, K-16");
    xa.publish_topic(&topic()).await.unwrap();
    let mut drawn = BTreeMap::<_, usize>::new();
    for _ in 0..100 {
        *drawn.entry(xa.resource().unwrap().broker().clone()).or_default() += 1;
    }
    assert_eq!(drawn.len(), 2, "X-7: at random: {drawn:?}");
    xa.publish_topic(&topic_named("u")).await.unwrap();
    assert_eq!(xa.brokers(), [both.addr().clone()], "X-5, C-14");
    for _ in 0..2 {
        let error = xa.publish_topic(&topic_named("v")).await.unwrap_err();
        assert_eq!(error.code(), XaErrorCode::RMFAIL, "X-5, K-19");
        assert!(error.to_string().contains("t, u, v"), "{error}");
        assert!(!producer.unpublish_topic(&topic_named("v")), "it is not published");
    }
    assert_eq!(code(xa.publish_topic(&topic_named("nowhere")).await), XaErrorCode::RMFAIL);
    xa.publish_topic(&topic_named("u")).await.unwrap();
    let mut resource = xa.resource().unwrap();
    let xid = xa.xid(1, b"g", b"").unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    resource.send(Message::new(topic(), "a")).await.unwrap();
    resource.send(Message::new(topic_named("u"), "b")).await.unwrap();
    resource.end(&xid, XaEnd::Success).await.unwrap();
    resource.commit(&xid, true).await.unwrap();
    assert_eq!((both.messages("t").len(), both.messages("u").len()), (1, 1));

    // K-54, X-6: what changes is seen by the next look.
    one.set_topic(topic_named("u"), 1);
    until(async || xa.brokers().len() == 2).await;
    drop((xa, resource));
    assert!(producer.partitions(&topic()).is_empty(), "X-21: with the last clone its topics are unpublished");
}

#[tokio::test]
async fn one_that_is_not_prepared_ends_with_its_timeout() {
    let (broker, xa, mut resource) = one().await;
    assert_eq!(resource.timeout(), Some(Duration::from_secs(60)));
    resource.remove_timeout();
    assert_eq!(resource.timeout(), None);
    resource.set_timeout(Duration::from_secs(1));
    assert_eq!(resource.timeout(), Some(Duration::from_secs(1)), "X-18");
    let early = prepared(&xa, &mut resource, "prepared in time").await;
    let xid = xa.xid(1, b"late", b"").unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    let code_of_last = loop {
        match resource.send(message("x")).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => break error.code(),
        }
    };
    assert_eq!(code_of_last, XaErrorCode::NOTA);
    resource.end(&xid, XaEnd::Success).await.unwrap();
    assert_eq!(code(resource.prepare(&xid).await), XaErrorCode::NOTA, "X-18, C-159");
    assert_eq!(code(resource.rollback(&xid).await), XaErrorCode::NOTA, "X-18");
    resource.commit(&early, false).await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["prepared in time"], "B-19");
}

#[tokio::test]
async fn a_lost_connection_does_not_end_it() {
    let (broker, xa, mut resource) = one().await;
    let xid = ended(&xa, &mut resource, "x").await;
    broker.faults().close_connections();
    until(async || broker.accepted_connections() == 2).await;
    resource.prepare(&xid).await.unwrap();
    broker.faults().close_connections();
    until(async || broker.accepted_connections() == 3).await;
    resource.commit(&xid, false).await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["x"], "B-18");
}

#[tokio::test]
async fn xa_runs_beside_local_and_plain_without_a_registry() {
    let broker = Broker::builder().topic("t", 2).start().await.unwrap();
    let producer = Producer::builder().broker(broker.addr().clone()).build().unwrap();
    let xa = XaProducer::new(&producer, UniqueQualifier::new("q").unwrap());
    xa.publish_topic(&topic()).await.unwrap(); // X-20, K-23
    let mut resource = xa.resource().unwrap();
    let xid = xa.xid(1, b"g", b"").unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    let mut local = producer.begin(metaq_producer::transaction::TransactionOptions::new());
    local.send(message("local")).await.unwrap();
    resource.send(message("xa")).await.unwrap();
    producer.send(message("plain")).await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["plain"], "X-19");
    local.commit().await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["local", "plain"], "X-19");
    resource.end(&xid, XaEnd::Success).await.unwrap();
    resource.prepare(&xid).await.unwrap();
    resource.commit(&xid, false).await.unwrap();
    assert_eq!(payloads(&broker, "t"), ["local", "plain", "xa"], "X-19");
}
