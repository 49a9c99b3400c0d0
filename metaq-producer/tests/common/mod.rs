//! Code that tests of several binaries share.
#![allow(dead_code, reason = "no binary needs all of it")]

pub(crate) mod cluster;
pub(crate) mod form;
pub(crate) mod lines;
pub(crate) mod measuring;
pub(crate) mod transactions;
pub(crate) mod watchdog;
pub(crate) mod xa;

use std::time::Duration;

use metaq_producer::{Message, Topic};
use metaq_testkit::Broker;
use tokio::sync::{Mutex, MutexGuard};

/// The time within which an event of a test is expected.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// The topic `t`, which most tests send to.
pub(crate) fn topic() -> Topic {
    topic_named("t")
}

pub(crate) fn topic_named(name: &str) -> Topic {
    name.parse().unwrap()
}

/// A message to the topic `t`.
pub(crate) fn message(payload: impl Into<String>) -> Message {
    Message::new(topic(), payload.into())
}

/// The payloads of a topic that a broker has stored, sorted.
pub(crate) fn payloads(broker: &Broker, topic: &str) -> Vec<String> {
    let messages = broker.messages(topic).into_iter();
    let mut payloads: Vec<_> =
        messages.map(|stored| String::from_utf8(stored.payload.to_vec()).unwrap()).collect();
    payloads.sort_unstable();
    payloads
}

/// Waits until `condition` holds, and fails after a minute.
pub(crate) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let reached = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reached).await.expect("the condition is reached");
}

/// Lets one test of a binary run at a time: each takes the whole machine.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}
