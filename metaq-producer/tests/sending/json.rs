//! Values as JSON messages.

use std::collections::BTreeMap;

use metaq_producer::{
    Producer, SendErrorKind,
    body::SendBodyError,
    json::{Json, SendJsonError},
};
use metaq_testkit::Broker;

use crate::common::{topic, topic_named};

#[tokio::test]
async fn a_value_is_sent_as_json_or_it_is_said_why_not() {
    let broker = Broker::builder().id(0).topic("t", 1).start().await.unwrap();
    let producer = Producer::builder().broker(broker.addr().clone()).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer.send_json(&topic(), &["one coffee", "two teas"]).await.unwrap();
    assert_eq!(broker.messages("t")[0].payload, r#"["one coffee","two teas"]"#);
    let error = producer.send_json(&topic(), &[BTreeMap::from([((1, 2), 3)])]).await.unwrap_err();
    assert!(matches!(&error, SendJsonError::Json(error) if error.path() == Some("[0]")), "{error}");
    let other = topic_named("other");
    let error = producer.send_json(&other, "text").await.unwrap_err();
    assert!(
        matches!(&error, SendJsonError::Send(error) if error.kind() == SendErrorKind::NotPublished),
        "{error}"
    );
    assert_eq!(producer.stats().await.messages.offered, 2, "what has no form was never offered");
    // The same as a body.
    producer.send_body(&topic(), Json(["one coffee"])).await.unwrap();
    assert_eq!(broker.messages("t")[1].payload, r#"["one coffee"]"#);
    let error = producer.send_body(&topic(), Json([BTreeMap::from([((1, 2), 3)])])).await.unwrap_err();
    assert!(matches!(&error, SendBodyError::Body(error) if error.topic() == &topic()), "{error}");
    assert!(error.to_string().contains("can't be made a payload: at [0]: key must be"), "{error}");
    let error = producer.send_body(&other, "text").await.unwrap_err();
    assert!(
        matches!(&error, SendBodyError::Send(error) if error.kind() == SendErrorKind::NotPublished),
        "{error}"
    );
    assert_eq!(producer.stats().await.messages.offered, 4);
}
