//! XA transactions with embedded brokers.

use std::time::Duration;

use metaq_producer::{
    Producer, ProducerConfig,
    selector::RoundRobinSelector,
    xa::{
        UniqueQualifier, XaEnd, XaError, XaErrorCode, XaProducer, XaResource, XaStart, XaTransactionId,
        XaVote,
    },
};
use metaq_testkit::{Broker, EmbeddedRegistry};

use super::{message, topic};

/// A producer that soon gives up, and whose partitions take turns.
pub(crate) fn producer(registry: &EmbeddedRegistry) -> Producer {
    let mut config = ProducerConfig::default();
    config.send_timeout = Duration::from_millis(500);
    config.topic_timeout = Duration::from_millis(500);
    let builder = Producer::builder().discovery(registry.discovery()).config(config);
    builder.selector(RoundRobinSelector::new().starting_at(1)).build().unwrap()
}

pub(crate) async fn xa_producer(registry: &EmbeddedRegistry, qualifier: &str) -> XaProducer {
    let xa = XaProducer::new(&producer(registry), UniqueQualifier::new(qualifier).unwrap());
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
