//! A log subscriber that panics. Alone in its process, because subscribers of other threads have a say in
//! what is logged.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use metaq_transport::{ConnectionConfig, ConnectionState};
use support::*;

/// A log subscriber that panics at everything.
struct PanickingSubscriber(Arc<std::sync::Mutex<Vec<String>>>);

/// Reads the message of an event.
struct Message(String);

impl tracing::field::Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for PanickingSubscriber {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("metaq_transport")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.lock().unwrap().push(message.0);
        panic!("the subscriber panics");
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_log_subscriber_that_panics_changes_nothing() {
    let events = Arc::new(std::sync::Mutex::new(Vec::new()));
    let _guard = tracing::subscriber::set_default(PanickingSubscriber(Arc::clone(&events)));
    let peer = Peer::default();
    let connection = peer.connect(ConnectionConfig::default()).await;
    // Stalled, answering again, lost, unreachable, found again, closed: all that is logged.
    peer.set(|state| state.greets = false);
    let pending = submit(&connection, "x", after(60_000)).unwrap();
    until(&connection, |state| matches!(state, ConnectionState::Stalled)).await;
    peer.set(|state| state.greets = true);
    peer.answer(peer.puts(1).await[0].opaque);
    assert!(soon(pending).await.is_ok());
    works(&peer, &connection).await;
    let pending = submit(&connection, "y", after(60_000)).unwrap();
    peer.puts(1).await;
    peer.set(|state| state.dial = Mode::Fails);
    peer.hang_up();
    let error = soon(pending).await.unwrap_err();
    assert!(whole_text(&error).contains("the broker closed the connection"), "{error:?}");
    eventually(|| peer.state().dials >= 3).await;
    peer.set(|state| state.dial = Mode::Works);
    works(&peer, &connection).await;
    connection.close(after(0));
    until(&connection, ConnectionState::is_closed).await;
    assert_eq!(connection.stats().established, 2);
    let expected = [
        "broker is silent and owes answers; nothing more is sent to it for now",
        "broker answers again",
        "connection lost",
        "broker is unreachable; trying on",
        "disconnected as asked",
    ];
    assert_eq!(*events.lock().unwrap(), expected);
}
