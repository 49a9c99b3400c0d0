//! Figures of a producer for the `metrics` facade.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use metaq_producer::{
    Message, Producer,
    discovery::{MockDiscovery, TopicView},
};
use metaq_testkit::{Broker, Fault, Requests};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::time::timeout;

use crate::common::{SOON, message, topic, topic_named, until};

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
        producer.send(message("x")).await.unwrap();
    }
    broker.faults().plan(Requests::puts(), Fault::refuse(500, "no"));
    producer.send(message("x")).await.unwrap_err();
    // Closing ends the connections, whose last figures stay.
    producer.stats().await.record_metrics();
    producer.health().record_metrics();
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
    let figure = |name: &str| {
        let found = figures.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("{name} in {figures:?}")).1
    };
    let labels = format!("topic=t broker={addr}");
    let bucket = |limit: &str| figure(&format!("metaq_latency_seconds_bucket {labels} le={limit}"));
    assert_eq!((bucket("+Inf"), figure(&format!("metaq_latency_seconds_count {labels}"))), (3.0, 3.0));
    assert!(
        bucket("0.00025") <= bucket("0.1") && bucket("0.1") <= bucket("5"),
        "buckets hold what is below their limit"
    );
    assert!(figure(&format!("metaq_latency_seconds_sum {labels}")) > 0.0);
    assert!(figure(&format!("metaq_requests_total broker={addr}")) >= 4.0);
    assert_eq!(figure(&format!("metaq_connections_established_total broker={addr}")), 1.0);
    for state in ["connecting", "ready", "stalled", "closing", "closed"] {
        figure(&format!("metaq_connection_state broker={addr} state={state}"));
    }
    assert_eq!(figure("metaq_topic_partitions topic=t"), 1.0);
    assert_eq!(figure("metaq_events_total event=connected"), 1.0);
    assert_eq!(figure(&format!("metaq_connection_requests broker={addr}")), 0.0);
}

/// The figures of a recorder by topic and name: the sums over all brokers.
fn exported(recorder: &DebuggingRecorder) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut figures = BTreeMap::<String, BTreeMap<String, u64>>::new();
    for (key, _, _, value) in recorder.snapshotter().snapshot().into_vec() {
        let (_, key) = key.into_parts();
        let topic = key.labels().find(|label| label.key() == "topic").map(|label| label.value().to_owned());
        let value = match value {
            DebugValue::Counter(count) => count,
            DebugValue::Gauge(value) => value.into_inner() as u64,
            DebugValue::Histogram(_) => panic!("there are none"),
        };
        if let Some(topic) = topic {
            let name = key.name().trim_start_matches("metaq_messages_").to_owned();
            *figures.entry(topic).or_default().entry(name).or_default() += value;
        }
    }
    figures
}

#[tokio::test]
async fn the_exported_figures_of_each_topic_balance() {
    let recorder = DebuggingRecorder::new();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let brokers = [
        Broker::builder().id(0).topic("t", 2).start().await.unwrap(),
        Broker::builder().id(1).topic("t", 2).start().await.unwrap(),
    ];
    let mock = MockDiscovery::new();
    mock.set(brokers.iter().fold(TopicView::new(topic()), |view, broker| {
        view.with_broker(broker.id(), broker.addr().clone(), 2)
    }));
    let producer = Producer::builder().discovery(mock).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    for n in 0..12 {
        // Refused, without an answer, or neither; and by one broker after the other.
        let fault = [Fault::refuse(503, "busy"), Fault::refuse(500, "no"), Fault::Ignore][n % 3].clone();
        brokers[n % 2].faults().plan(Requests::puts().first(1), fault);
        let _ = producer.send_with_timeout(message("x"), Duration::from_millis(150)).await;
    }
    let too_large = Message::new(topic(), vec![0; 2_000_000]);
    producer.send(too_large).await.unwrap_err();
    for n in 0..5 {
        let elsewhere = topic_named(&format!("elsewhere-{n}"));
        producer.send(Message::new(elsewhere, "x")).await.unwrap_err();
    }
    let stats = producer.stats().await;
    stats.record_metrics();
    let exported = exported(&recorder);
    let figures = &exported["t"];
    let ends =
        ["queued", "in_flight", "not_sent_total", "acknowledged_total", "rejected_total", "unknown_total"];
    let sum: u64 = ends.iter().map(|name| figures[*name]).sum();
    assert_eq!((figures["offered_total"], sum), (13, 13), "{figures:?}");
    assert_eq!(figures["unknown_total"], stats.messages.unknown);
    assert_eq!(figures["rejected_total"], stats.messages.rejected);
    let figures = &exported["not published"];
    assert_eq!((figures["offered_total"], figures["not_sent_total"]), (5, 5), "{figures:?}");
}

/// The sum of a series over what the labels leave open. The recorder's counters are 0 after that, until they
/// are written again.
fn value(recorder: &DebuggingRecorder, name: &str, labels: &[(&str, &str)]) -> f64 {
    let series = recorder.snapshotter().snapshot().into_vec().into_iter().filter(|(key, ..)| {
        let has = |(name, value): &(&str, &str)| {
            key.key().labels().any(|label| (label.key(), label.value()) == (*name, *value))
        };
        key.key().name() == name && labels.iter().all(has)
    });
    let values = series.map(|(_, _, _, value)| match value {
        DebugValue::Counter(count) => count as f64,
        DebugValue::Gauge(value) => value.into_inner(),
        DebugValue::Histogram(_) => panic!("there are none"),
    });
    values.sum()
}

#[tokio::test]
async fn exported_counters_go_on_and_gauges_end_with_what_they_are_of() {
    let recorder = DebuggingRecorder::new();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let broker = Broker::builder().id(0).topic("t", 1).start().await.unwrap();
    let mock = MockDiscovery::new();
    let view = TopicView::new(topic()).with_broker(broker.id(), broker.addr().clone(), 1);
    mock.set(view.clone());
    let producer = Producer::builder().discovery(mock.clone()).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let export = tokio::spawn(producer.export_metrics(Duration::from_millis(10)));
    let addr = broker.addr().to_string();
    let value_when = async |name: &str, labels: &[(&str, &str)], is_wanted: &dyn Fn(f64) -> bool| {
        let found = async {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let value = value(&recorder, name, labels);
                if is_wanted(value) {
                    return value;
                }
            }
        };
        let found = timeout(SOON, found).await;
        found.unwrap_or_else(|_| panic!("{name} {labels:?} is {}", value(&recorder, name, labels)))
    };
    let becomes = async |name: &str, labels: &[(&str, &str)], wanted: f64| {
        value_when(name, labels, &|value| value == wanted).await;
    };
    let (ready, connections) = ([("broker", &*addr), ("state", "ready")], [("broker", &*addr)]);
    let send = async |count| {
        for _ in 0..count {
            producer.send(message("x")).await.unwrap();
        }
    };
    send(20).await;
    becomes("metaq_connection_state", &ready, 1.0).await;
    becomes("metaq_topic_partitions", &[("topic", "t")], 1.0).await;
    becomes("metaq_messages_acknowledged_total", &[], 20.0).await;
    let requests = value_when("metaq_requests_total", &connections, &|value| value >= 20.0).await;

    mock.set(TopicView::new(topic()));
    becomes("metaq_connection_state", &ready, 0.0).await;
    becomes("metaq_topic_partitions", &[("topic", "t")], 0.0).await;
    mock.set(view);
    becomes("metaq_connections_established_total", &connections, 2.0).await;
    send(3).await;
    becomes("metaq_messages_acknowledged_total", &[], 23.0).await;
    value_when("metaq_requests_total", &connections, &|value| value >= requests + 3.0).await;

    producer.unpublish_topic(&topic());
    becomes("metaq_topic_partitions", &[("topic", "t")], 0.0).await;
    becomes("metaq_topic_view_age_seconds", &[("topic", "t")], 0.0).await;
    producer.publish_topic(&topic()).await.unwrap();
    becomes("metaq_topic_partitions", &[("topic", "t")], 1.0).await;
    send(2).await;
    becomes("metaq_messages_acknowledged_total", &[], 25.0).await;

    producer.close(SOON).await;
    timeout(SOON, export).await.expect("it ends with the producer").unwrap();
    assert_eq!(value(&recorder, "metaq_messages_acknowledged_total", &[]), 25.0);
    for (name, labels) in
        [("metaq_topic_partitions", &[("topic", "t")][..]), ("metaq_connection_state", &ready)]
    {
        assert_eq!(value(&recorder, name, labels), 0.0, "{name}");
    }
}

#[tokio::test]
async fn figures_are_exported_until_closing_has_ended() {
    let recorder = DebuggingRecorder::new();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let broker = Broker::builder().id(0).topic("t", 1).start().await.unwrap();
    let producer = Producer::builder().broker(broker.addr().clone()).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let export = tokio::spawn(producer.export_metrics(Duration::from_millis(10)));
    broker.faults().freeze();
    let handle = producer.enqueue(message("x")).await.unwrap();
    let closing = tokio::spawn({
        let producer = producer.clone();
        async move { producer.close(SOON).await }
    });
    // Several intervals are over while the message is in flight and the producer is being closed.
    until(async || producer.health().is_closed).await;
    let _ = value(&recorder, "metaq_messages_in_flight", &[]);
    until(async || value(&recorder, "metaq_messages_in_flight", &[("topic", "t")]) == 1.0).await;
    broker.faults().thaw();
    assert_eq!((closing.await.unwrap().acknowledged, handle.await.is_ok()), (1, true));
    timeout(SOON, export).await.expect("it ends with the close").unwrap();
    assert_eq!(value(&recorder, "metaq_messages_acknowledged_total", &[]), 1.0);
    assert_eq!(value(&recorder, "metaq_messages_in_flight", &[]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn any_interval_can_be_exported_by() {
    for every in
        [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(u32::MAX.into()), Duration::MAX]
    {
        let producer = Producer::builder().broker("meta://h:1".parse().unwrap()).build().unwrap();
        let export = tokio::spawn(producer.export_metrics(every));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!export.is_finished(), "{every:?}");
        export.abort();
    }
}

#[test]
fn the_export_ends_outside_of_a_runtime() {
    let producer = Producer::builder().broker("meta://h:1".parse().unwrap()).build().unwrap();
    let mut export = pin!(producer.export_metrics(Duration::from_secs(1)));
    let ended = export.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(ended.is_ready());
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
