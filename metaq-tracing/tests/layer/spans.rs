//! The fields of spans, beside other layers and code of the program's.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use metaq_testkit::{Broker, EmbeddedRegistry};
use metaq_tracing::MetaqLayer;
use serde_json::json;
use tracing::{Dispatch, dispatcher::with_default, field, info_span};
use tracing_subscriber::prelude::*;

use crate::form::{SOON, assert_balanced, broker, producer, stored, subscriber, topic};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_with_different_limits_keep_fields_of_their_own() {
    let registries = [EmbeddedRegistry::new(), EmbeddedRegistry::new()];
    let brokers: Vec<Broker> = registries.iter().map(broker).collect();
    let layer = |at: usize, limit| {
        MetaqLayer::builder(producer(&registries[at]), topic()).max_event_bytes(limit).build().unwrap()
    };
    let ((wide, of_wide), (narrow, of_narrow)) = (layer(0, 64 << 10), layer(1, 1024));
    let long = "x".repeat(10_000);
    with_default(&Dispatch::new(tracing_subscriber::registry().with(wide).with(narrow)), || {
        let span = info_span!("request", long, later = field::Empty).entered();
        span.record("later", &*long);
        tracing::info!("an event");
    });
    let stats = [of_wide.shutdown(SOON).await, of_narrow.shutdown(SOON).await];
    assert_eq!(stats.map(|stats| (stats.sent, stats.truncated)), [(1, 0), (1, 1)]);
    let span = &stored(&brokers[0])[0]["spans"][0];
    assert_eq!((&span["long"], &span["later"]), (&json!(long), &json!(long)));
    assert_eq!(stored(&brokers[1])[0]["truncated"], true);
}

struct Panics;

impl fmt::Debug for Panics {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("Debug of a test");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_span_that_another_layer_has_spoilt_costs_its_fields_alone() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry);
    let (layer, guard) = MetaqLayer::builder(producer(&registry), topic()).build().unwrap();
    // It holds the lock of a span's data while it formats a field.
    let terminal = tracing_subscriber::fmt::layer().with_writer(std::io::sink);
    let terminal = terminal.with_filter(tracing_subscriber::filter::filter_fn(|data| data.is_span()));
    with_default(&Dispatch::new(tracing_subscriber::registry().with(terminal).with(layer)), || {
        let span = info_span!("request", id = 7, bad = field::Empty);
        span.in_scope(|| {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                span.record("bad", field::debug(Panics));
            }));
            assert!(panicked.is_err());
            tracing::info!("an event");
        });
    });
    let stats = guard.shutdown(SOON).await;
    assert_eq!((stats.offered, stats.sent), (1, 1), "{stats:?}");
    assert_balanced(stats);
    assert_eq!(stored(&broker)[0]["spans"], json!([{ "name": "request" }]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_an_object_are_different() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry);
    let (dispatch, guard) = subscriber(&registry, |builder| builder);
    with_default(&dispatch, || {
        let _span = info_span!("request", name = 1, _name = 2, r#type = "t").entered();
        tracing::info!(r#type = "t", a = 1, a = 2, message = "first", level = 3, "second");
    });
    assert_eq!(guard.shutdown(SOON).await.sent, 1);
    let text = String::from_utf8(broker.messages("logs")[0].payload.to_vec()).unwrap();
    let end = r#""fields":{"type":"t","a":2,"level":3},"spans":[{"name":"request","_name":1,"__name":2,"type":"t"}]}"#;
    assert!(text.ends_with(end), "{text}");
    assert_eq!(text.matches("\"message\":").count(), 1, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_json_does_not_have_are_null_or_texts() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry);
    let (dispatch, guard) = subscriber(&registry, |builder| builder);
    let control: String = (0..0x20_u8).map(char::from).chain(['\u{7f}', '\u{2028}', '\u{fffd}']).collect();
    with_default(&dispatch, || {
        tracing::info!(
            nan = f64::NAN,
            infinite = f64::INFINITY,
            zero = -0.0,
            big = u128::MAX,
            low = i128::MIN,
            control,
            bytes = &b"\x00\xff"[..]
        );
    });
    assert_eq!(guard.shutdown(SOON).await.sent, 1);
    let expected = json!({
        "nan": null, "infinite": null, "zero": -0.0, "big": u128::MAX.to_string(), "low": i128::MIN.to_string(),
        "control": control, "bytes": "[00 ff]",
    });
    assert_eq!(stored(&broker)[0]["fields"], expected);
}
