//! The events of a producer. A test program of its own: another test's thread without a log
//! could have the events of both switched off.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use metaq_producer::{
    Producer, SendErrorKind,
    discovery::{MockDiscovery, TopicView},
};
use metaq_testkit::{Broker, Fault, Requests};
use tokio::time::timeout;
use tracing_subscriber::EnvFilter;

use crate::common::{SOON, lines::Lines, message, topic};

/// The lines, without those of connections, which come from tasks of their own.
fn take(lines: &Lines) -> Vec<String> {
    lines.take().into_iter().filter(|line| !line.starts_with("INFO broker connected")).collect()
}

#[tokio::test]
async fn changes_are_told_once_and_messages_are_not() {
    let lines = Lines::default();
    let log = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .with_env_filter(EnvFilter::new("metaq_producer=trace"))
        .finish();
    let _log = tracing::subscriber::set_default(log);
    let one = Broker::builder().id(0).topic("t", 2).start().await.unwrap();
    let two = Broker::builder().id(1).topic("t", 3).start().await.unwrap();
    let view = TopicView::new(topic()).with_broker(one.id(), one.addr().clone(), 2);
    let mock = MockDiscovery::new();
    mock.set(view.clone());
    let producer = Producer::builder().discovery(mock.clone()).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let (one_addr, two_addr) = (one.addr(), two.addr());
    let published =
        format!("INFO topic published topic=t brokers=\"0@{one_addr}(2)\" partitions=2 missing=0");
    assert_eq!(take(&lines), [published]);

    for _ in 0..100 {
        producer.send(message("x")).await.unwrap();
    }
    one.faults().plan(Requests::puts().first(1), Fault::refuse(403, "closed"));
    assert!(producer.send(message("x")).await.is_ok());
    mock.set(view.clone());
    assert_eq!(
        take(&lines),
        [""; 0],
        "of messages there is nothing to tell, of a view that says the same neither"
    );

    mock.set(view.with_broker(two.id(), two.addr().clone(), 3));
    let settled = async {
        while producer.partitions(&topic()).len() < 5 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, settled).await.unwrap();
    let changed = format!("INFO route changed topic=t added=1@{two_addr}(3) removed= partitions=5 missing=0");
    assert_eq!(take(&lines), [changed]);

    two.faults().plan(Requests::puts(), Fault::refuse(500, "no"));
    let mut acknowledged = 101;
    while producer.send(message("x")).await.is_ok() {
        acknowledged += 1;
    }
    assert!(producer.unpublish_topic(&topic()));
    assert_eq!(producer.send(message("x")).await.unwrap_err().kind(), SendErrorKind::NotPublished);
    producer.close(SOON).await;
    let closed = format!("INFO producer closed acknowledged={acknowledged} rejected=1 unknown=0 not_sent=1");
    assert_eq!(take(&lines), ["INFO topic unpublished topic=t", &closed]);
}
