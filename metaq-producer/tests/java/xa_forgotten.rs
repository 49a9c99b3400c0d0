//! A real Java broker with prepared transactions that it forgets, stores in part, or holds while it
//! is away.

use std::{fs, path::Path, time::Duration};

use metaq_producer::{
    Message,
    transaction::TransactionOptions,
    xa::{XaEnd, XaErrorCode, XaResource, XaStart, XaTransactionId, XaVote},
};
use metaq_testkit::peers::{JavaBroker, Peers, ZooKeeper};
use tokio::process::Command;

use crate::{
    common::{alone, until},
    xa::{topic, xa_producer},
};

async fn prepared(resource: &mut XaResource, xid: &XaTransactionId, messages: usize) {
    resource.start(xid, XaStart::New).await.unwrap();
    for _ in 0..messages {
        resource.send(Message::new(topic(), "x".repeat(900))).await.unwrap();
    }
    resource.end(xid, XaEnd::Success).await.unwrap();
    assert_eq!(resource.prepare(xid).await.unwrap(), XaVote::Prepared);
}

/// Waits until a broker has made a whole checkpoint: it writes this file at the end of each.
async fn until_checkpoint(data: &Path) {
    let written =
        || fs::metadata(data.join("transactions/heuristic.log")).and_then(|file| file.modified()).ok();
    for _ in 0..2 {
        let before = written();
        until(async || written() != before).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_prepared_transaction_that_a_checkpoint_forgot_is_unknown() {
    let Some(peers) = Peers::get("a_prepared_transaction_that_a_checkpoint_forgot_is_unknown") else {
        return;
    };
    let _alone = alone().await;
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let builder = JavaBroker::builder(0).topic("xa", 2).setting("checkpointInterval", "1500");
    let mut broker = builder.start(&peers, &zookeeper).await.unwrap();
    let data = broker.log().with_file_name("data");
    let (producer, xa) = xa_producer(&zookeeper).await;
    let mut resource = xa.resource().unwrap();
    let old = xa.new_xid(1, b"old").unwrap();
    prepared(&mut resource, &old, 1).await;
    let mut younger = producer.begin(TransactionOptions::new().without_timeout());
    younger.send(Message::new(topic(), "younger")).await.unwrap();
    until_checkpoint(&data).await;
    // As long as the broker runs it knows it.
    assert_eq!(xa.recover().await.transactions.len(), 1);
    broker.kill().await.unwrap();
    broker.restart(&zookeeper).await.unwrap();
    let recovery = loop {
        let recovery = xa.recover().await;
        if recovery.is_complete() {
            break recovery;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(recovery.transactions.is_empty(), "it is forgotten");
    let missing: Vec<_> = recovery.missing.iter().map(|missing| &missing.xid).collect();
    assert_eq!(missing, [&old], "and that is told");
    let error = resource.commit(&old, false).await.unwrap_err();
    assert_eq!(error.code(), XaErrorCode::NOTA);
    assert!(error.is_unknown(), "{error}");
    assert!(error.to_string().contains("forgot it at a restart"), "{error}");
    drop(younger);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_that_is_told_as_rolled_back_may_be_stored() {
    let Some(peers) = Peers::get("a_commit_that_is_told_as_rolled_back_may_be_stored") else {
        return;
    };
    let _alone = alone().await;
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = JavaBroker::builder(0).topic("xa", 2).start(&peers, &zookeeper).await.unwrap();
    let data = broker.log().with_file_name("data");
    let (_producer, xa) = xa_producer(&zookeeper).await;
    let mut resource = xa.resource().unwrap();
    let xid = xa.new_xid(1, b"in part").unwrap();
    prepared(&mut resource, &xid, 4).await;
    let stored = |partition: &str| -> u64 {
        fs::read_dir(data.join(partition)).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    // As if the disk became full while the commit is carried out: the broker's log can't grow any more, the
    // partitions can.
    let log = fs::metadata(data.join("transactions/redo.1")).unwrap().len();
    let (pid, limit) = (broker.pid().unwrap().to_string(), format!("--fsize={log}"));
    let limited = Command::new("prlimit").args(["--pid", &pid, &limit]).status().await.unwrap();
    assert!(limited.success());
    let error = resource.commit(&xid, false).await.unwrap_err();
    println!("{error}; {} and {} bytes are stored", stored("xa-0"), stored("xa-1"));
    assert!(stored("xa-0") > 0, "for all that");
    assert_eq!(error.code(), XaErrorCode::RBOTHER);
    assert!(error.is_unknown(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn recovery_after_restart_spares_others_and_covers_all_brokers() {
    let Some(peers) = Peers::get("recovery_after_restart_spares_others_and_covers_all_brokers") else {
        return;
    };
    let _alone = alone().await;
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = |id| JavaBroker::builder(id).topic("xa", 1).start(&peers, &zookeeper);
    let (first, second) = tokio::join!(broker(0), broker(1));
    let (first, mut second) = (first.unwrap(), second.unwrap());
    let (producer, xa) = xa_producer(&zookeeper).await;
    until(async || xa.brokers().len() == 2).await;
    let xid = xa.xid(1, b"invoice 17", b"b").unwrap();
    prepared(&mut xa.resource_at(&second.addr()).unwrap(), &xid, 1).await;
    let written_down = xa.expected_brokers();
    assert_eq!(written_down.len(), 2);
    producer.close(Duration::from_secs(1)).await;

    // It tries again under the same name before it has recovered, and gives up.
    let (_producer, xa) = xa_producer(&zookeeper).await;
    until(async || xa.brokers().len() == 2).await;
    let mut again = xa.resource_at(&second.addr()).unwrap();
    assert_eq!(again.start(&xid, XaStart::New).await.unwrap_err().code(), XaErrorCode::DUPID);
    drop(again);
    let found = |recovery: &metaq_producer::xa::Recovery| -> Vec<_> {
        recovery.transactions.iter().map(|found| found.xid.clone()).collect()
    };
    assert_eq!(found(&xa.recover().await), std::slice::from_ref(&xid));

    // The broker is away: one who knows it from before says so, and one who has written it down.
    second.shut_down().await.unwrap();
    until(async || xa.brokers() == [first.addr()]).await;
    let (_restarted, restarted) = xa_producer(&zookeeper).await;
    restarted.expect_brokers(written_down);
    for xa in [&xa, &restarted] {
        let recovery = xa.recover().await;
        assert!(recovery.transactions.is_empty());
        let away: Vec<_> = recovery.failures.iter().map(|(broker, _)| broker.clone()).collect();
        assert_eq!(away, [second.addr()]);
    }
    second.restart(&zookeeper).await.unwrap();
    until(async || xa.brokers().len() == 2).await;
    let recovery = xa.recover().await;
    assert_eq!((found(&recovery), recovery.is_complete()), (vec![xid.clone()], true));
    xa.resource_at(&second.addr()).unwrap().commit(&xid, false).await.unwrap();
}
