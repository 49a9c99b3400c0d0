//! Many messages in flight from one task, and back-pressure: memory is bounded, and a program that sends
//! faster than brokers store has to wait, or gets an error.
//!
//! ```text
//! cargo run -p metaq-examples --example pipelining
//! ```
//!
//! prints what `try_send` and `enqueue` do while the broker stands still, and the outcomes of 10,000
//! messages.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::{collections::VecDeque, time::Duration};

use anyhow::{Result, ensure};
use metaq_producer::{
    Message, Outcome, Producer, ProducerConfig, SendError, SendErrorKind, SendReceipt, Topic,
};
use metaq_testkit::Broker;

/// The most messages that are accepted and have no outcome yet.
const IN_FLIGHT: usize = 1000;

/// The outcomes of many messages.
#[derive(Default)]
struct Account {
    stored: usize,
    /// They may be stored: another attempt may store them twice.
    unknown: usize,
    /// They are certainly not stored, and can be sent again.
    unsent: Vec<Message>,
}

impl Account {
    fn add(&mut self, outcome: Result<SendReceipt, SendError>) {
        match outcome {
            Ok(_) => self.stored += 1,
            Err(error) if error.outcome() == Outcome::Unknown => self.unknown += 1,
            Err(error) => self.unsent.extend(error.into_message()),
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let broker = Broker::builder().topic("orders", 4).start().await?;
    let mut config = ProducerConfig::default();
    config.max_in_flight = IN_FLIGHT;
    // Beside the number of messages, their bytes are limited; whichever is reached first.
    config.max_in_flight_bytes = 1 << 20;
    let producer = Producer::builder().broker(broker.addr().clone()).config(config).build()?;
    let topic: Topic = "orders".parse()?;
    producer.publish_topic(&topic).await?;
    let message = |n: usize| Message::new(topic.clone(), format!("order {n}"));
    let (mut account, mut handles) = (Account::default(), VecDeque::new());

    // A broker that stands still: the limit is soon reached.
    broker.faults().freeze();
    let mut sent = 0;
    let refused = loop {
        // For callers that must not wait. It gives the message back, which goes elsewhere or is dropped.
        match producer.try_send(message(sent)) {
            Ok(handle) => handles.push_back(handle),
            Err(error) => break error,
        }
        sent += 1;
    };
    ensure!(refused.kind() == SendErrorKind::Full, "{refused}");
    println!("try_send has accepted {sent} messages, and refuses the next one: {refused}");

    // `enqueue` has some more wait for their broker, and then waits itself, until the message's timeout.
    let refused_at = sent;
    let waiting = loop {
        let mut enqueuing = Box::pin(producer.enqueue(message(sent)));
        sent += 1;
        tokio::select! {
            biased;
            handle = &mut enqueuing => handles.push_back(handle?),
            () = std::future::ready(()) => break enqueuing,
        }
    };
    println!("enqueue has accepted {} more, and waits for capacity", sent - refused_at - 1);
    broker.faults().thaw();
    handles.push_back(waiting.await?);
    println!("the broker goes on, and enqueue has accepted the next one");

    // The common loop: `enqueue` brings each message on its way, and waits only where there is no capacity.
    while sent < 10_000 {
        match producer.enqueue(message(sent)).await {
            Ok(handle) => handles.push_back(handle),
            Err(error) => account.add(Err(error)),
        }
        sent += 1;
        // Outcomes are taken on the way, so that there are never many handles.
        while handles.len() > IN_FLIGHT
            && let Some(handle) = handles.pop_front()
        {
            account.add(handle.await);
        }
    }
    for handle in handles {
        account.add(handle.await);
    }
    let Account { stored, unknown, unsent } = account;
    println!("{sent} messages: {stored} stored, {unknown} may be stored, {} not stored", unsent.len());
    producer.close(Duration::from_secs(5)).await;
    Ok(())
}
