//! Figures of a producer for the `metrics` facade, and values as JSON.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(all(feature = "mock", feature = "metrics", feature = "json"))]

use std::{collections::BTreeMap, time::Duration};

use metaq_producer::{Message, MockDiscovery, Producer, SendErrorKind, SendJsonError, Topic, TopicView};
use metaq_testkit::{Broker, Fault, Requests};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

fn topic() -> Topic {
    Topic::new("t").unwrap()
}

fn message() -> Message {
    Message::new(topic(), "x")
}

#[tokio::test(flavor = "current_thread")]
async fn figures_are_exported_until_the_producer_is_closed() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let broker = Broker::builder().id(0).topic("t", 1).start().await.unwrap();
    let mock = MockDiscovery::new();
    mock.set(TopicView::new(topic()).with_broker(broker.id(), broker.addr().clone(), 1));
    let producer = Producer::builder().discovery(mock).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    for _ in 0..3 {
        producer.send(message()).await.unwrap();
    }
    broker.faults().plan(Requests::puts(), Fault::refuse(500, "no"));
    producer.send(message()).await.unwrap_err();
    let export = tokio::spawn(producer.export_metrics(Duration::ZERO));
    producer.close(SOON).await;
    timeout(SOON, export).await.expect("it ends with the producer").unwrap();
    let mut figures = Vec::new();
    for (key, unit, text, value) in snapshotter.snapshot().into_vec() {
        let (_, key) = key.into_parts();
        assert!(unit.is_some() && text.is_some(), "{key} is described");
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(value) => value.into_inner(),
            DebugValue::Histogram(_) => panic!("there are none"),
        };
        figures.push((format!("{} {}", key.name(), labels.join(" ")), value));
    }
    let addr = broker.addr();
    for (name, expected) in [
        ("metaq_messages_offered_total topic=t".to_owned(), 4.0),
        ("metaq_messages_not_sent_total topic=t".to_owned(), 0.0),
        ("metaq_messages_queued topic=t".to_owned(), 0.0),
        ("metaq_messages_in_flight topic=t".to_owned(), 0.0),
        (format!("metaq_messages_acknowledged_total topic=t broker={addr}"), 3.0),
        (format!("metaq_messages_rejected_total topic=t broker={addr}"), 1.0),
        (format!("metaq_messages_unknown_total topic=t broker={addr}"), 0.0),
        (format!("metaq_attempts_retried_total topic=t broker={addr}"), 0.0),
        ("metaq_unacknowledged_messages ".to_owned(), 0.0),
        ("metaq_unacknowledged_bytes ".to_owned(), 0.0),
    ] {
        let found: Vec<_> =
            figures.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value).collect();
        assert_eq!(found, [expected], "{name} in {figures:?}");
    }
    let latency = format!("metaq_latency_seconds topic=t broker={addr} quantile=");
    let quantiles: Vec<_> = figures.iter().filter(|(name, _)| name.starts_with(&latency)).collect();
    assert!(quantiles.len() == 5 && quantiles.iter().all(|(_, value)| *value > 0.0), "{quantiles:?}");
}

#[tokio::test]
async fn the_export_does_not_keep_the_producer() {
    let broker = Broker::builder().id(0).topic("t", 1).start().await.unwrap();
    let producer = Producer::builder().broker(broker.addr().clone()).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let export = tokio::spawn(producer.export_metrics(Duration::from_millis(10)));
    drop(producer);
    timeout(SOON, export).await.expect("it ends with the producer").unwrap();
}

#[tokio::test]
async fn a_value_is_sent_as_json_or_it_is_said_why_not() {
    let broker = Broker::builder().id(0).topic("t", 1).start().await.unwrap();
    let producer = Producer::builder().broker(broker.addr().clone()).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer.send_json(&topic(), &["one coffee", "two teas"]).await.unwrap();
    assert_eq!(broker.messages("t")[0].payload, r#"["one coffee","two teas"]"#);
    let error = producer.send_json(&topic(), &[BTreeMap::from([((1, 2), 3)])]).await.unwrap_err();
    assert!(matches!(&error, SendJsonError::Json(error) if error.path() == Some("[0]")), "{error}");
    let other = Topic::new("other").unwrap();
    let error = producer.send_json(&other, "text").await.unwrap_err();
    assert!(
        matches!(&error, SendJsonError::Send(error) if error.kind() == SendErrorKind::NotPublished),
        "{error}"
    );
    assert_eq!(producer.stats().await.messages.offered, 2, "what has no form was never offered");
}
