//! A registry of one's own: the program learns from a service of its company where brokers are, and tells the
//! producer through the trait `Discovery`.
//!
//! ```text
//! cargo run -p metaq-examples --example custom_discovery
//! ```
//!
//! stands for the service by a channel. It prints which broker stores each order before and after the service
//! names another one. The suite `metaq_testkit::conformance` tests an implementation in depth.
#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use metaq_producer::{
    BrokerAddr, BrokerId, Message, Outcome, Producer, Topic,
    discovery::{Discovery, DiscoveryError, DiscoveryErrorKind, TopicView, TopicWatch},
};
use metaq_testkit::Broker;
use tokio::sync::watch;

/// A broker as the service describes it: its id, its address, and its partitions of every topic.
type Named = (BrokerId, BrokerAddr, u32);

/// Discovers the brokers that the service names. They serve every topic.
#[derive(Debug)]
struct FromService {
    brokers: watch::Receiver<Vec<Named>>,
    closed: watch::Sender<bool>,
}

fn view(topic: &Topic, brokers: &[Named]) -> TopicView {
    brokers.iter().fold(TopicView::new(topic.clone()), |view, (id, addr, partitions)| {
        view.with_broker(*id, addr.clone(), *partitions)
    })
}

#[async_trait]
impl Discovery for FromService {
    async fn watch(&self, topic: &Topic) -> Result<TopicWatch, DiscoveryError> {
        let (mut brokers, mut closed) = (self.brokers.clone(), self.closed.subscribe());
        let is_closed = || DiscoveryError::new(DiscoveryErrorKind::Closed, "the discovery was closed");
        if *closed.borrow() {
            return Err(is_closed());
        }
        // The watch already has the first view when it is returned.
        let (publisher, watch) = TopicWatch::channel(view(topic, &brokers.borrow_and_update()));
        let topic = topic.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    // A view that equals the last one is not published again.
                    Ok(()) = brokers.changed() => {
                        publisher.publish(view(&topic, &brokers.borrow_and_update()));
                    }
                    _ = closed.wait_for(|closed| *closed) => return publisher.end(is_closed()),
                    () = publisher.closed() => return,
                }
            }
        });
        Ok(watch)
    }

    async fn topics(&self) -> Result<Vec<Topic>, DiscoveryError> {
        // The service knows brokers, not topics.
        Ok(Vec::new())
    }

    async fn close(&self) {
        self.closed.send_replace(true);
    }
}

/// Sends an order, and prints which broker has stored it.
async fn send(producer: &Producer, topic: &Topic, order: &'static str) -> Result<()> {
    match producer.send(Message::new(topic.clone(), order)).await {
        Ok(receipt) => println!("{order} is stored by broker {}", receipt.partition.broker),
        Err(error) if error.outcome() == Outcome::Unknown => bail!("{order} may be stored: {error}"),
        Err(error) => bail!("{order} is not stored: {error}"),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let old = Broker::builder().id(0).topic("orders", 2).start().await?;
    let new = Broker::builder().id(1).topic("orders", 2).start().await?;
    let named = |broker: &Broker| vec![(broker.id(), broker.addr().clone(), 2)];
    let (service, brokers) = watch::channel(named(&old));

    let discovery = FromService { brokers, closed: watch::Sender::new(false) };
    let producer = Producer::builder().discovery(discovery).build()?;
    let orders: Topic = "orders".parse()?;
    producer.publish_topic(&orders).await?;
    send(&producer, &orders, "one coffee").await?;

    let mut events = producer.events();
    service.send_replace(named(&new));
    println!("the service names broker {} instead", new.id());
    while producer.partitions(&orders).iter().any(|partition| partition.broker == old.id()) {
        events.next().await.context("the producer was closed")?;
    }
    send(&producer, &orders, "one tea").await?;
    producer.close(Duration::from_secs(5)).await;
    Ok(())
}
