//! `tracing` subscribers that panic, or call the producer. A test program of its own, as its subscriber is
//! the whole process's.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    cell::Cell,
    panic::AssertUnwindSafe,
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use metaq_producer::{Message, Producer, Topic, transaction::TransactionOptions};
use metaq_testkit::{Broker, EmbeddedRegistry};
use parking_lot::Mutex;
use tokio::runtime::Builder;
use tracing::{Event, Subscriber};
use tracing_subscriber::{Layer, layer::SubscriberExt as _};

use crate::common::{
    cluster::{broker_with, builder},
    message, topic, until,
    watchdog::watched,
};

/// The subscriber's reaction to each event of the producer.
#[derive(Clone)]
enum Does {
    Nothing,
    Panics,
    Calls(Producer),
}

static DOES: Mutex<Does> = Mutex::new(Does::Nothing);
static EVENTS: AtomicUsize = AtomicUsize::new(0);
/// One test at a time.
static ALONE: Mutex<()> = Mutex::new(());

struct Misbehaving;

thread_local! {
    static IN_EVENT: Cell<bool> = const { Cell::new(false) };
}

impl<S: Subscriber> Layer<S> for Misbehaving {
    fn on_event(&self, event: &Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if !event.metadata().target().starts_with("metaq") || IN_EVENT.get() {
            return;
        }
        let does = DOES.lock().clone();
        match does {
            Does::Nothing => {}
            Does::Panics => {
                EVENTS.fetch_add(1, Ordering::AcqRel);
                panic!("the subscriber panics, as it was told to");
            }
            Does::Calls(producer) => {
                EVENTS.fetch_add(1, Ordering::AcqRel);
                IN_EVENT.set(true);
                drop(producer.try_send(message("from an event")));
                drop(producer.send(message("from an event")).now_or_never());
                drop(producer.stats().now_or_never());
                drop(producer.partitions(&topic()));
                drop(producer);
                IN_EVENT.set(false);
            }
        }
    }
}

fn subscribe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Misbehaving);
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

fn other() -> Topic {
    Topic::new("other").unwrap()
}

/// Provokes everything that the producer logs.
async fn eventful(does: impl FnOnce(&Producer) -> Does) {
    let registry = EmbeddedRegistry::new();
    let brokers: Vec<Broker> =
        (0..2).map(|id| broker_with(&registry, id, &[("t", 2), ("other", 2)])).collect();
    let producer = builder(&registry, |config| {
        config.connection.initial_backoff = Duration::from_millis(1);
        config.connection.max_backoff = Duration::from_millis(10);
    });
    let producer = producer.build().unwrap();
    let before = EVENTS.load(Ordering::Acquire);
    *DOES.lock() = does(&producer);
    // A panic within a call of the user's own may come out of it; nothing may be damaged by it.
    let call = async |future: &mut (dyn Future<Output = ()> + Send + Unpin)| {
        let _ = AssertUnwindSafe(future).catch_unwind().await;
    };
    for topic in [topic(), other()] {
        producer.publish_topic(&topic).await.unwrap();
    }
    for _ in 0..5 {
        for broker in &brokers {
            broker.faults().close_connections();
            until(async || producer.send(message("x")).await.is_ok()).await;
        }
    }
    // A broker gets other partitions, another is out of reach for a while.
    brokers[0].set_topic(topic(), 4);
    until(async || producer.partitions(&topic()).len() == 6).await;
    brokers[1].faults().refuse_connections(true);
    brokers[1].faults().close_connections();
    until(async || producer.partitions(&topic()).iter().all(|partition| partition.broker.0 == 0)).await;
    producer.send(message("while one is away")).await.unwrap();
    brokers[1].faults().heal();
    until(async || producer.partitions(&topic()).len() == 6).await;
    // A transaction that is dropped.
    let mut transaction = producer.begin(TransactionOptions::new());
    transaction.send(message("dropped")).await.unwrap();
    call(&mut async move { drop(transaction) }.boxed()).await;
    let unpublished = producer.clone();
    call(
        &mut async move {
            let _ = unpublished.unpublish_topic(&other());
        }
        .boxed(),
    )
    .await;
    producer.publish_topic(&other()).await.unwrap();
    producer.send(Message::new(other(), "published again")).await.unwrap();
    producer.flush().await;
    let closing = producer.clone();
    call(&mut async move { drop(closing.close(Duration::from_secs(1)).await) }.boxed()).await;
    *DOES.lock() = Does::Nothing;
    assert!(EVENTS.load(Ordering::Acquire) > before, "something was told");
    // However it went, it is closed, and so is the other after it.
    producer.close(Duration::from_secs(1)).await;
}

fn on_threads(what: &str, does: impl FnOnce(&Producer) -> Does + Send + 'static) {
    let _alone = ALONE.lock();
    subscribe();
    watched(what, move || {
        let runtime = Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        runtime.block_on(eventful(does));
    });
    *DOES.lock() = Does::Nothing;
}

#[test]
fn a_subscriber_that_panics_ends_nothing() {
    on_threads("a subscriber that panics", |_| Does::Panics);
}

#[test]
fn a_subscriber_may_call_the_producer() {
    on_threads("a subscriber that calls the producer", |producer| Does::Calls(producer.clone()));
}
