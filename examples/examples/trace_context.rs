//! Carries a W3C trace context to consumers: an interceptor adds the `traceparent` of the current request to
//! the attribute of every message, and the consumer extracts it.
//!
//! ```text
//! cargo run --example trace_context
//! ```
#![allow(clippy::print_stdout, reason = "examples show what they do")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

use std::fmt::Write as _;

use metaq_producer::{
    Message, Producer, Topic,
    interceptor::{CompletedSend, Interceptor},
};
use metaq_testkit::Broker;

/// The name of the field in the attribute, as in HTTP headers.
const FIELD: &str = "traceparent=";

tokio::task_local! {
    /// The request that this task works for. With OpenTelemetry, it is the context of the current span.
    static REQUEST: TraceParent;
}

/// A trace, and the span within it that the message is sent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TraceParent {
    trace: u128,
    span: u64,
    sampled: bool,
}

impl TraceParent {
    fn to_text(self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }

    /// Parses version 00; returns `None` for any other text.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut next = |length: usize| {
            let is_hex = |part: &&str| {
                part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            };
            parts.next().filter(is_hex)
        };
        let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|span| *span != 0)?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        (version == "00" && parts.next().is_none()).then_some(Self { trace, span, sampled })
    }
}

/// Splits an attribute into the text without the field, and the value of the field.
fn split_attribute(attribute: &str) -> (String, Option<TraceParent>) {
    let (own, fields): (Vec<_>, Vec<_>) = attribute.split(';').partition(|part| !part.starts_with(FIELD));
    let parent = fields.iter().find_map(|field| TraceParent::parse(&field[FIELD.len()..]));
    (own.join(";"), parent)
}

/// Appends the current request to the attribute that the program has set.
struct TraceContext;

impl Interceptor for TraceContext {
    fn before_send(&self, message: &mut Message) {
        let Ok(parent) = REQUEST.try_with(|parent| *parent) else { return };
        // A message that is sent again already has the field.
        let (mut attribute, _) = split_attribute(message.attribute().unwrap_or_default());
        let separator = if attribute.is_empty() { "" } else { ";" };
        let _ = write!(attribute, "{separator}{FIELD}{}", parent.to_text());
        message.set_attribute(attribute);
    }

    fn after_outcome(&self, send: &CompletedSend) {
        println!("message to {}: {:?} after {} attempt(s)", send.topic, send.outcome, send.attempts);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::builder().topic("orders", 1).start().await?;
    let topic: Topic = "orders".parse()?;
    let producer = Producer::builder().broker(broker.addr().clone()).interceptor(TraceContext).build()?;
    producer.publish_topic(&topic).await?;

    let request = TraceParent {
        trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
        span: 0x00f0_67aa_0ba9_02b7,
        sampled: true,
    };
    let order = Message::new(topic.clone(), "one coffee").with_attribute("table-7");
    REQUEST.scope(request, producer.send(order)).await?;
    producer.send(Message::new(topic, "without a request")).await?;

    // The consumer.
    let stored = broker.messages("orders");
    let (own, parent) = split_attribute(stored[0].attribute.as_deref().unwrap_or_default());
    println!(
        "{}: attribute {own:?}, part of {}",
        stored[0].attribute.as_deref().unwrap_or("-"),
        request.to_text()
    );
    assert_eq!((own.as_str(), parent), ("table-7", Some(request)));
    assert_eq!(stored[1].attribute, None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: TraceParent = TraceParent { trace: 0xabc, span: 0xd, sampled: false };

    #[test]
    fn only_formatted_contexts_are_parsed() {
        let text = PARENT.to_text();
        assert_eq!(text, "00-00000000000000000000000000000abc-000000000000000d-00");
        assert_eq!(TraceParent::parse(&text), Some(PARENT));
        for bad in [
            "",
            "00",
            "00-0-0-0",
            &text[1..],
            &format!("{text}-"),
            &text.replace("00-", "01-"),
            &text.to_uppercase(),
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_program_runs_to_its_end() {
        main().unwrap();
    }

    #[tokio::test]
    async fn each_message_has_the_trace_context_of_its_task() {
        let broker = Broker::builder().topic("t", 1).start_without_port().unwrap();
        let producer = Producer::builder().discovery(broker.discovery()).transport(broker.transport());
        let producer = producer.interceptor(TraceContext).build().unwrap();
        let topic: Topic = "t".parse().unwrap();
        producer.publish_topic(&topic).await.unwrap();
        let sends = (1..=20).map(|n| {
            let parent = TraceParent { span: n, ..PARENT };
            let mut message = Message::new(topic.clone(), n.to_string());
            if n.is_multiple_of(2) {
                // As if another request had failed to send it before.
                message.set_attribute(format!("own {n};{FIELD}{}", PARENT.to_text()));
            }
            let producer = producer.clone();
            tokio::spawn(REQUEST.scope(parent, async move { producer.send(message).await }))
        });
        for send in sends.collect::<Vec<_>>() {
            send.await.unwrap().unwrap();
        }
        let stored = broker.messages("t");
        assert_eq!(stored.len(), 20);
        for message in stored {
            let n: u64 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
            let (own, parent) = split_attribute(message.attribute.as_deref().unwrap());
            assert_eq!(parent, Some(TraceParent { span: n, ..PARENT }));
            assert_eq!(own, if n.is_multiple_of(2) { format!("own {n}") } else { String::new() });
        }
    }
}
