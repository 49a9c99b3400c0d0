//! XA transactions at real Java brokers, and beside the real Java XA client.

use std::{collections::BTreeSet, time::Duration};

use metaq_producer::{
    Message, Producer, Topic,
    discovery::ZooKeeperDiscovery,
    xa::{UniqueQualifier, XaEnd, XaErrorCode, XaProducer, XaResource, XaStart, XaTransactionId, XaVote},
};
use metaq_testkit::peers::{JavaBroker, Peers, ZooKeeper};
use tokio::time::timeout;

use crate::{
    PATIENCE,
    common::{alone, topic_named, xa::code},
};

pub(crate) fn topic() -> Topic {
    topic_named("xa")
}

pub(crate) async fn xa_producer(zookeeper: &ZooKeeper) -> (Producer, XaProducer) {
    let discovery = ZooKeeperDiscovery::new(&zookeeper.connect_string()).unwrap();
    let producer = Producer::builder().discovery(discovery).build().unwrap();
    let xa = XaProducer::new(&producer, UniqueQualifier::new("xa-test").unwrap());
    xa.publish_topic(&topic()).await.unwrap();
    (producer, xa)
}

async fn ended(xa: &XaProducer, resource: &mut XaResource, name: &str) -> XaTransactionId {
    let xid = xa.xid(7, name.as_bytes(), &[0xff, 0]).unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    resource.send(Message::new(topic(), name.to_owned())).await.unwrap();
    resource.end(&xid, XaEnd::Success).await.unwrap();
    xid
}

async fn prepared(xa: &XaProducer, resource: &mut XaResource, name: &str) -> XaTransactionId {
    let xid = ended(xa, resource, name).await;
    assert_eq!(resource.prepare(&xid).await.unwrap(), XaVote::Prepared, "X-11, without END: B-20");
    xid
}

async fn read(peers: &Peers, zookeeper: &ZooKeeper, expected: usize) -> Vec<String> {
    let read = peers.read_topic(zookeeper, "xa", expected, PATIENCE).await.unwrap();
    let mut payloads: Vec<_> =
        read.into_iter().map(|message| String::from_utf8(message.payload).unwrap()).collect();
    payloads.sort_unstable();
    payloads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_ones_outlive_the_brokers_and_the_program() {
    let Some(peers) = Peers::get("prepared_ones_outlive_the_brokers_and_the_program") else { return };
    let _alone = alone().await;
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = |id| JavaBroker::builder(id).topic("xa", 2).start(&peers, &zookeeper);
    let (first, second) = tokio::join!(broker(0), broker(1));
    let (mut first, second) = (first.unwrap(), second.unwrap());
    let (producer, xa) = xa_producer(&zookeeper).await;
    assert_eq!(xa.brokers().len(), 2, "X-5");

    // Every step, and its refusal.
    let mut resource = xa.resource_at(&second.addr()).unwrap();
    let mut expected = vec!["one phase".to_owned(), "two phases".to_owned()];
    let xid = ended(&xa, &mut resource, "one phase").await;
    assert_eq!(code(resource.commit(&xid, false).await), XaErrorCode::PROTO, "B-22");
    resource.commit(&xid, true).await.unwrap();
    assert_eq!(code(resource.commit(&xid, true).await), XaErrorCode::NOTA, "X-17, B-22");
    let xid = prepared(&xa, &mut resource, "two phases").await;
    assert_eq!(code(resource.prepare(&xid).await), XaErrorCode::PROTO, "B-22");
    assert_eq!(resource.recover().await.unwrap(), std::slice::from_ref(&xid));
    resource.commit(&xid, false).await.unwrap();
    let xid = ended(&xa, &mut resource, "rolled back").await;
    resource.rollback(&xid).await.unwrap();
    assert_eq!(code(resource.rollback(&xid).await), XaErrorCode::NOTA, "X-13");
    let xid = xa.xid(-3, b"", b"").unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    resource.end(&xid, XaEnd::Success).await.unwrap();
    assert_eq!(resource.prepare(&xid).await.unwrap(), XaVote::ReadOnly, "B-21");
    resource.forget(&xid).await.unwrap();
    let nobodys = xa.xid(1, b"nobody's", b"").unwrap();
    resource.start(&nobodys, XaStart::Join).await.unwrap();
    assert_eq!(code(resource.send(Message::new(topic(), "x")).await), XaErrorCode::NOTA, "protocol §3.7");
    resource.end(&nobodys, XaEnd::Fail).await.unwrap();
    resource.set_timeout(Duration::from_secs(1));
    let xid = xa.xid(1, b"timed out", b"").unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    let refused = async {
        loop {
            match resource.send(Message::new(topic(), "timed out")).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => break error,
            }
        }
    };
    assert_eq!(timeout(PATIENCE, refused).await.unwrap().code(), XaErrorCode::NOTA, "X-18, B-19");
    resource.end(&xid, XaEnd::Success).await.unwrap();
    assert_eq!(code(resource.prepare(&xid).await), XaErrorCode::NOTA, "X-18");

    // What an operator decides.
    let mut decided = Vec::new();
    for (decision, expected) in [
        ("commit", XaErrorCode::HEURCOM),
        ("rollback", XaErrorCode::HEURRB),
        ("complete", XaErrorCode::HEURHAZ),
    ] {
        resource.remove_timeout();
        let xid = prepared(&xa, &mut resource, &format!("operator-{decision}")).await;
        decided.push((xid, decision, expected));
    }
    let operator = peers.java_program("XaOperator", include_str!("XaOperator.java")).unwrap();
    let pid = second.pid().unwrap().to_string();
    let mut args = vec![&*pid];
    args.extend(decided.iter().flat_map(|(xid, decision, _)| [xid.as_str(), decision]));
    operator.run(&args, PATIENCE).await.unwrap();
    for (xid, decision, expected) in &decided {
        assert_eq!(code(resource.commit(xid, false).await), *expected, "B-22: {decision}");
        assert_eq!(code(resource.rollback(xid).await), *expected, "B-22: {decision}");
        resource.forget(xid).await.unwrap();
        assert_eq!(code(resource.commit(xid, false).await), XaErrorCode::NOTA, "X-14: {decision}");
    }
    expected.push("operator-commit".to_owned());

    // The broker is killed between prepare and commit, and the program with it, so to say.
    let mut resource = xa.resource_at(&first.addr()).unwrap();
    let commit = prepared(&xa, &mut resource, "survives").await;
    let rollback = prepared(&xa, &mut resource, "is rolled back").await;
    let unprepared = ended(&xa, &mut resource, "is lost").await;
    let elsewhere = prepared(&xa, &mut xa.resource_at(&second.addr()).unwrap(), "elsewhere").await;
    drop((xa, resource));
    producer.close(Duration::from_secs(1)).await;
    first.kill().await.unwrap();
    first.restart(&zookeeper).await.unwrap();
    let (_producer, xa) = xa_producer(&zookeeper).await;
    let recovered = async {
        // The other broker may be known a moment earlier.
        while xa.brokers().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        xa.recover().await
    };
    let recovery = timeout(PATIENCE, recovered).await.unwrap();
    assert!(recovery.failures.is_empty(), "{recovery:?}");
    let found: BTreeSet<_> =
        recovery.transactions.into_iter().map(|found| (found.xid, found.broker)).collect();
    let all = [&commit, &rollback].map(|xid| (xid.clone(), first.addr()));
    let all: BTreeSet<_> = all.into_iter().chain([(elsewhere.clone(), second.addr())]).collect();
    assert_eq!(found, all, "X-15, B-23, C-120");
    let mut resource = xa.resource_at(&first.addr()).unwrap();
    assert_eq!(code(resource.commit(&unprepared, true).await), XaErrorCode::NOTA, "B-33");
    resource.commit(&commit, false).await.unwrap();
    resource.rollback(&rollback).await.unwrap();
    xa.resource_at(&second.addr()).unwrap().commit(&elsewhere, false).await.unwrap();
    assert!(xa.recover().await.transactions.is_empty());
    expected.extend(["survives", "elsewhere"].map(str::to_owned));
    expected.sort_unstable();
    assert_eq!(read(&peers, &zookeeper, expected.len()).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_java_client_and_this_one_finish_each_others_transactions() {
    let Some(peers) = Peers::get("the_java_client_and_this_one_finish_each_others_transactions") else {
        return;
    };
    let _alone = alone().await;
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = JavaBroker::builder(0).topic("xa", 2).start(&peers, &zookeeper).await.unwrap();
    let program = peers.java_program("XaPeer", include_str!("XaPeer.java")).unwrap();
    let address = zookeeper.connect_string();
    let (_producer, xa) = xa_producer(&zookeeper).await;
    let run = |action: &'static str| {
        let (program, address) = (program.clone(), address.clone());
        async move { program.run(&[action, &address, "xa", "xa-test", "4"], PATIENCE).await.unwrap() }
    };

    run("prepare").await;
    let mut resource = xa.resource().unwrap();
    let recovery = xa.recover().await;
    let mut found: Vec<_> = recovery.transactions.into_iter().map(|found| found.xid).collect();
    found.sort_unstable_by_key(XaTransactionId::gtrid);
    let names: Vec<_> = found.iter().map(|xid| String::from_utf8(xid.gtrid()).unwrap()).collect();
    assert_eq!(names, ["java-commit-0", "java-commit-2", "java-rollback-1", "java-rollback-3"]);
    for xid in &found {
        // By the names one would give them here.
        let own = xa.xid(7, &xid.gtrid(), &[0xff, 0]).unwrap();
        assert_eq!(own, *xid, "X-4");
        if names_commit(xid) {
            resource.commit(&own, false).await.unwrap();
        } else {
            resource.rollback(&own).await.unwrap();
        }
    }

    for name in ["rust-commit-0", "rust-rollback-1", "rust-commit-2", "rust-rollback-3"] {
        prepared(&xa, &mut resource, name).await;
    }
    run("finish").await;
    assert!(xa.recover().await.transactions.is_empty());
    let expected = ["java-commit-0", "java-commit-2", "rust-commit-0", "rust-commit-2"];
    assert_eq!(read(&peers, &zookeeper, expected.len()).await, expected);
    drop(broker);
}

fn names_commit(xid: &XaTransactionId) -> bool {
    String::from_utf8(xid.gtrid()).unwrap().contains("commit")
}
