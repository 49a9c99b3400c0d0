//! A service that ends in order: on SIGTERM it takes no more work, waits for the outcomes of what is in
//! flight, and reports what was not stored.
//!
//! ```text
//! cargo run -p metaq-examples --example graceful_shutdown
//! ```
//!
//! sends until it is stopped, by `kill` with the number that it prints or by Ctrl-C. It prints how many
//! messages were accepted, stored and not stored; these add up, and nothing is lost without a word.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use metaq_producer::{Message, Outcome, Producer, SendError, SendHandle, SendReceipt, Topic};
use metaq_testkit::Broker;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::interval,
};

/// Systemd and Kubernetes send SIGKILL some time after SIGTERM, 90 s and 30 s by default. This has to be over
/// before.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The outcomes of the accepted messages.
#[derive(Default)]
struct Account {
    stored: usize,
    unknown: usize,
    not_stored: usize,
}

impl Account {
    fn add(&mut self, outcome: Result<SendReceipt, SendError>) {
        match outcome {
            Ok(_) => self.stored += 1,
            Err(error) if error.outcome() == Outcome::Unknown => self.unknown += 1,
            Err(_) => self.not_stored += 1,
        }
    }
}

/// Sends an order every millisecond until one of the signals comes. Returns the number of accepted messages.
async fn serve(
    producer: &Producer,
    orders: &Topic,
    [mut terminate, mut interrupt]: [Signal; 2],
    handles: mpsc::Sender<SendHandle>,
) -> Result<usize> {
    let mut requests = interval(Duration::from_millis(1));
    let mut accepted = 0;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(accepted),
            _ = interrupt.recv() => return Ok(accepted),
            _ = requests.tick() => {}
        }
        // Not within the `select!`, which would give it up half done.
        match producer.enqueue(Message::new(orders.clone(), "one coffee")).await {
            Ok(handle) => handles.send(handle).await.context("nobody waits for outcomes")?,
            Err(error) => {
                println!("refused: {error}");
                continue;
            }
        }
        accepted += 1;
        if accepted == 100 {
            println!("100 messages are accepted");
        }
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    // Before anything else, so that no signal ends the program unheard.
    let signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let broker = Broker::builder().topic("orders", 4).start().await?;
    let producer = Producer::builder().broker(broker.addr().clone()).build()?;
    let orders: Topic = "orders".parse()?;
    producer.publish_topic(&orders).await?;
    println!("sending until it is stopped: kill {}", std::process::id());

    let (handles, mut outcomes) = mpsc::channel(1000);
    let account = tokio::spawn(async move {
        let mut account = Account::default();
        while let Some(handle) = outcomes.recv().await {
            account.add(handle.await);
        }
        account
    });
    let accepted = serve(&producer, &orders, signals, handles).await?;
    println!("stopping: no more messages are taken");

    // Every message has its outcome when this returns, at the latest after the timeout.
    let report = producer.close(CLOSE_TIMEOUT).await;
    let account = account.await?;
    println!(
        "{accepted} messages were accepted: {} stored, {} may be stored, {} not stored",
        account.stored, account.unknown, account.not_stored
    );
    for message in report.unsent {
        // A real program would keep these, for instance in a file.
        println!("not sent: {}", String::from_utf8_lossy(message.payload()));
    }
    Ok(if account.stored == accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
