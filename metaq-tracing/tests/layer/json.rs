//! The JSON of events.

use std::{fmt, thread, time::SystemTime};

use metaq_producer::Message;
use metaq_testkit::EmbeddedRegistry;
use serde_json::{Value, json};
use tracing::{Level, dispatcher::with_default, field, info_span};

use crate::form::{SOON, assert_balanced, broker, producer, stored, subscriber, topic};

/// An event without its time.
fn without_time(mut event: Value) -> Value {
    event.as_object_mut().unwrap().remove("timestamp").unwrap();
    event
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_arrive_with_their_fields_and_spans() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry);
    let (dispatch, guard) = subscriber(&registry, |builder| builder.key("one partition"));
    let before = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    with_default(&dispatch, || {
        let error = std::io::Error::other("no \"disk\"");
        let outer = info_span!("request", id = 7, user = field::Empty, name = "x", table = field::Empty);
        let _outer = outer.enter();
        outer.record("user", "anna");
        outer.record("id", 8);
        let _inner = info_span!("bare").entered();
        tracing::error!(n = -1_i64, big = u64::MAX, ratio = 0.5, yes = true, error = &error as &dyn std::error::Error,
            debug = ?Some("a\nb"), shown = %"c", "no {}", "coffee");
        tracing::info!(parent: None, "without spans");
        tracing::debug!(only = 1);
    });
    let after = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    let stats = guard.shutdown(SOON).await;
    assert_eq!((stats.offered, stats.sent, stats.truncated), (3, 3, 0));
    let events = stored(&broker);
    let time = events[0]["timestamp"].as_str().unwrap();
    assert!(*before <= *time && *time <= *after, "{before} {time} {after}");
    let spans = json!([{ "name": "request", "id": 8, "user": "anna", "_name": "x" }, { "name": "bare" }]);
    let target = "layer::json";
    let expected = [
        json!({
            "level": "ERROR", "target": target, "message": "no coffee", "spans": spans,
            "fields": {
                "n": -1, "big": u64::MAX, "ratio": 0.5, "yes": true, "error": "no \"disk\"",
                "debug": "Some(\"a\\nb\")", "shown": "c",
            },
        }),
        json!({ "level": "INFO", "target": target, "message": "without spans" }),
        json!({ "level": "DEBUG", "target": target, "fields": { "only": 1 }, "spans": spans }),
    ];
    let events: Vec<_> = events.into_iter().map(without_time).collect();
    for event in expected {
        assert!(events.contains(&event), "{event} is not in {events:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_and_places_in_the_source_are_options() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry);
    let (dispatch, guard) =
        subscriber(&registry, |builder| builder.thread_names(true).source_locations(true));
    let named = thread::Builder::new().name("kitchen".to_owned());
    named.spawn(move || with_default(&dispatch, || tracing::info!("x"))).unwrap().join().unwrap();
    assert_eq!(guard.shutdown(SOON).await.sent, 1);
    let event = &stored(&broker)[0];
    assert_eq!(event["threadName"], "kitchen");
    assert!(event["filename"].as_str().unwrap().ends_with("tests/layer/json.rs"), "{event}");
    assert!(event["line_number"].as_u64().unwrap() > 10, "{event}");
}

/// A value whose text has no end.
struct Endless;

impl fmt::Debug for Endless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        loop {
            f.write_str("and on ")?;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_events_are_cut_and_say_so() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry);
    let (dispatch, guard) = subscriber(&registry, |builder| builder.max_event_bytes(2000));
    with_default(&dispatch, || {
        let _span = info_span!("request", id = 7, endless = ?Endless).entered();
        tracing::info!(after = 1, "{}", "long ".repeat(10_000));
        tracing::info!(a = ?Endless, b = ?Endless, c = ?Endless, "short");
    });
    let stats = guard.shutdown(SOON).await;
    assert_eq!((stats.sent, stats.truncated), (2, 2));
    for message in broker.messages("logs") {
        assert!(message.payload.len() <= 2000, "{}", message.payload.len());
    }
    let events = stored(&broker);
    assert!(events.iter().all(|event| event["truncated"] == true), "{events:#?}");
    let long = events.iter().find(|event| event["message"] != "short").unwrap();
    assert_eq!(long["fields"]["after"], 1, "a long text leaves something to others");
    assert_eq!(long["spans"][0]["id"], 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_the_log_crate_have_their_own_target() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry);
    let (dispatch, guard) = subscriber(&registry, |builder| builder.source_locations(true));
    with_default(&dispatch, || {
        // As `tracing-log` makes them.
        let event = |target: &str| {
            tracing::event!(target: "log", Level::WARN, log.target = target, log.module_path = "x",
                log.file = "kitchen.rs", log.line = 9_u64, "no coffee");
        };
        event("kitchen");
        event("metaq_transport::supervisor");
        tracing::info!(target: "metaq_producer::route", "left out");
        tracing::info!(target: "metaq_produce", "another");
    });
    let stats = guard.shutdown(SOON).await;
    assert_eq!((stats.offered, stats.sent), (2, 2));
    let events: Vec<_> = stored(&broker).into_iter().map(without_time).collect();
    let expected = json!({
        "level": "WARN", "target": "kitchen", "message": "no coffee", "filename": "kitchen.rs", "line_number": 9,
    });
    assert!(events.contains(&expected), "{events:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attribute_and_key_are_those_of_the_messages() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry);
    let other = producer(&registry);
    other.publish_topic(&topic()).await.unwrap();
    let partition = |key: &str| other.partition_for(&Message::new(topic(), "").with_key(key)).unwrap();
    let (dispatch, guard) = subscriber(&registry, |builder| builder.attribute("json").key("host-7"));
    crate::form::log(&dispatch, 20);
    assert_eq!(guard.shutdown(SOON).await.sent, 20);
    for message in broker.messages("logs") {
        assert_eq!((message.attribute.as_deref(), message.partition), (Some("json"), partition("host-7")));
    }
    let (dispatch, guard) = subscriber(&registry, |builder| builder.key_by_target());
    with_default(&dispatch, || {
        tracing::info!(target: "kitchen", "by target");
        tracing::info!(target: "bar", "by target");
        tracing::info!(target: "cellar", "by target");
    });
    let stats = guard.shutdown(SOON).await;
    assert_eq!(stats.sent, 3);
    assert_balanced(stats);
    let mut by_target = 0;
    for message in broker.messages("logs").iter().filter(|message| message.attribute.is_none()) {
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(message.partition, partition(event["target"].as_str().unwrap()));
        by_target += 1;
    }
    assert_eq!(by_target, 3);
}
