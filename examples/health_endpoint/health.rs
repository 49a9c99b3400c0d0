//! The health of a producer as JSON.

use metaq_producer::{
    Topic,
    health::{BrokerHealth, ConnectionHealth, NotReady, ProducerHealth, TopicHealth},
};
use serde_json::{Value, json};

/// The answer of `/ready` while messages can't be sent.
pub(crate) fn not_ready(not_ready: &NotReady) -> Value {
    let reason = |(topic, reason): (&Topic, &str)| json!({ "topic": topic.as_str(), "reason": reason });
    let reasons: Vec<_> = not_ready.topics().map(reason).collect();
    json!({ "ready": false, "closed": not_ready.is_closed(), "reasons": reasons })
}

/// The answer of `/health`.
pub(crate) fn to_json(health: &ProducerHealth) -> Value {
    json!({
        "sending": health.is_sending(),
        "closed": health.is_closed,
        "registry": {
            "state": health.registry.state.to_string(),
            "since_seconds": health.registry.since.map(|since| since.as_secs_f64()),
        },
        "topics": health.topics.iter().map(of_topic).collect::<Vec<_>>(),
        "brokers": health.brokers.iter().map(of_broker).collect::<Vec<_>>(),
    })
}

fn of_topic(topic: &TopicHealth) -> Value {
    json!({
        "topic": topic.topic.as_str(),
        "partitions": topic.partitions,
        "connected": topic.connected.iter().map(|id| id.0).collect::<Vec<_>>(),
        "missing": topic.missing.iter().map(|id| id.0).collect::<Vec<_>>(),
        "view_age_seconds": topic.view_age.map(|age| age.as_secs_f64()),
    })
}

fn of_broker(broker: &BrokerHealth) -> Value {
    let connection = |connection: &ConnectionHealth| {
        json!({
            "phase": connection.phase.to_string(),
            "since_seconds": connection.since.as_secs_f64(),
            "last_error": connection.last_error.as_ref().map(ToString::to_string),
            "in_flight": connection.in_flight,
            "reconnects": connection.reconnects,
        })
    };
    json!({
        "address": broker.addr.to_string(),
        "ids": broker.ids.iter().map(|id| id.0).collect::<Vec<_>>(),
        "cooling_down": broker.cooling_down,
        "connections": broker.connections.iter().map(connection).collect::<Vec<_>>(),
    })
}
