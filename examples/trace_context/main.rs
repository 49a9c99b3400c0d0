//! An interceptor carries a W3C trace context to consumers: it adds the `traceparent` of the current request
//! to the attribute of every message, and the consumer extracts it.
//!
//! ```text
//! cargo run -p metaq-examples --example trace_context
//! ```
//!
//! sends a message within a request and one outside of any. It prints the outcome of each, and what the
//! consumer of the first one finds.
#![allow(clippy::print_stdout, reason = "examples show what they do")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

#[cfg(test)]
mod tests;

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
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
        let outcome = send.outcome.map_or_else(|outcome| outcome.as_str(), |()| "stored");
        println!("a message to {} is {outcome}, after {} attempt(s)", send.topic, send.attempts);
    }
}

// On one thread, so that lines of the interceptor come in order with those below.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
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
    producer.close(Duration::from_secs(5)).await;

    // The consumer.
    let stored = broker.messages("orders");
    let attribute = stored[0].attribute.as_deref().context("the message has no attribute")?;
    let (own, parent) = split_attribute(attribute);
    println!("stored with the attribute {attribute}");
    println!("the consumer finds {own:?}, and the trace {}", parent.context("there is no trace")?.to_text());
    ensure!(stored[1].attribute.is_none(), "a message without a request has no trace");
    Ok(())
}
