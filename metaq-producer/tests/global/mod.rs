//! Shared code of the tests of XA transactions with embedded brokers.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::time::Duration;

use metaq_producer::{
    Message, Producer, Topic,
    xa::{
        UniqueQualifier, XaEnd, XaError, XaErrorCode, XaProducer, XaResource, XaStart, XaTransactionId,
        XaVote,
    },
};
use metaq_testkit::{Broker, EmbeddedRegistry};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

pub(crate) fn topic() -> Topic {
    "t".parse().unwrap()
}

pub(crate) fn message(payload: &str) -> Message {
    Message::new(topic(), payload.to_owned())
}

pub(crate) async fn xa_producer(registry: &EmbeddedRegistry, qualifier: &str) -> XaProducer {
    let producer = Producer::builder().discovery(registry.discovery()).build().unwrap();
    let xa = XaProducer::new(&producer, UniqueQualifier::new(qualifier).unwrap());
    let xa = xa.with_request_timeout(Duration::from_millis(500));
    xa.publish_topic(&topic()).await.unwrap();
    xa
}

/// One broker with the topic `t`, and what transactions need.
pub(crate) async fn one() -> (Broker, XaProducer, XaResource) {
    let registry = EmbeddedRegistry::new();
    let broker = Broker::builder().topic("t", 3).register_with(&registry).start().await.unwrap();
    let xa = xa_producer(&registry, "q").await;
    let resource = xa.resource().unwrap();
    (broker, xa, resource)
}

/// A transaction of one message that has ended, and isn't prepared.
pub(crate) async fn ended(xa: &XaProducer, resource: &mut XaResource, name: &str) -> XaTransactionId {
    let xid = xa.new_xid(1, name.as_bytes()).unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    resource.send(message(name)).await.unwrap();
    resource.end(&xid, XaEnd::Success).await.unwrap();
    xid
}

pub(crate) async fn prepared(xa: &XaProducer, resource: &mut XaResource, name: &str) -> XaTransactionId {
    let xid = ended(xa, resource, name).await;
    assert_eq!(resource.prepare(&xid).await.unwrap(), XaVote::Prepared);
    xid
}

pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, XaError>) -> XaErrorCode {
    result.unwrap_err().code()
}

pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, reached).await.expect("the condition is reached");
}
