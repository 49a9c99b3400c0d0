//! The failure handler while the producer is flushed or closed, and within its own call.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use metaq_producer::{
    Message, Outcome, Producer, ProducerConfig,
    failure::{DropCounter, FailedMessage, FailureHandler as _},
};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::common::{
    SOON,
    cluster::{broker, builder},
    message, topic, topic_named, until,
};

/// A handler that reports each call, and returns when it is let go.
struct Gate {
    entered: mpsc::Receiver<()>,
    leave: mpsc::Sender<()>,
    handled: DropCounter,
}

fn gated() -> (Gate, impl Fn(FailedMessage) + Send + Sync + 'static) {
    let ((enter, entered), (leave, left)) = (mpsc::channel(), mpsc::channel());
    let (handled, left) = (DropCounter::new(), Mutex::new(left));
    let gate = Gate { entered, leave, handled: handled.clone() };
    let handler = move |failed: FailedMessage| {
        enter.send(()).unwrap();
        left.lock().recv().unwrap();
        handled.message_failed(failed);
    };
    (gate, handler)
}

/// A broker that refuses all messages, or is away, and a producer that has published its topic.
async fn failing(
    is_away: bool,
    handler: impl Fn(FailedMessage) + Send + Sync + 'static,
    change: impl FnOnce(&mut ProducerConfig),
) -> (Broker, Producer) {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let builder = builder(&registry, |config| {
        config.retry.max_attempts = 1;
        change(config);
    });
    let producer = builder.failure_handler(handler).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    if is_away {
        broker.faults().refuse_connections(true);
        broker.faults().close_connections();
        until(async || producer.partitions(&topic()).is_empty()).await;
    } else {
        broker.faults().plan(Requests::puts(), Fault::refuse(500, "no"));
    }
    (broker, producer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn flush_waits_until_the_handler_has_returned() {
    for is_away in [false, true] {
        let (gate, handler) = gated();
        let short = |config: &mut ProducerConfig| {
            config.send_timeout = Duration::from_millis(if is_away { 50 } else { 60_000 });
        };
        let (_broker, producer) = failing(is_away, handler, short).await;
        assert!(producer.offer(message("x")));
        let (flushing, early) = (producer.clone(), producer.clone());
        let early = tokio::spawn(async move { early.flush().await });
        gate.entered.recv_timeout(SOON).unwrap();
        let mut late = tokio::spawn(async move { flushing.flush().await });
        assert!(timeout(Duration::from_millis(30), &mut late).await.is_err(), "it has returned before");
        assert_eq!((early.is_finished(), gate.handled.total()), (false, 0));
        gate.leave.send(()).unwrap();
        timeout(SOON, async { (early.await.unwrap(), late.await.unwrap()) }).await.unwrap();
        assert_eq!(gate.handled.total(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn close_waits_for_the_handler_until_its_end() {
    let short = |config: &mut ProducerConfig| config.send_timeout = Duration::from_millis(50);
    let (gate, handler) = gated();
    let (_broker, producer) = failing(true, handler, short).await;
    assert!(producer.offer(message("x")));
    gate.entered.recv_timeout(SOON).unwrap();
    // No longer than it may.
    timeout(SOON, producer.close(Duration::from_millis(10))).await.unwrap();
    let mut closing = tokio::spawn({
        let producer = producer.clone();
        async move { producer.close(Duration::from_secs(3600)).await }
    });
    assert!(timeout(Duration::from_millis(30), &mut closing).await.is_err(), "it has returned before");
    gate.leave.send(()).unwrap();
    timeout(SOON, closing).await.unwrap().unwrap();
    assert_eq!(gate.handled.count(Outcome::NotSent), 1);
}

#[tokio::test(start_paused = true)]
async fn what_fails_within_the_handlers_call_reaches_it_afterwards() {
    let producer = Arc::new(Mutex::new(None::<Producer>));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let (producer, seen) = (Arc::clone(&producer), Arc::clone(&seen));
        move |failed: FailedMessage| {
            let payload = String::from_utf8(failed.message.payload().to_vec()).unwrap();
            seen.lock().push(format!("{payload} begins"));
            let producer = producer.lock().clone().unwrap();
            producer.unpublish_topic(&topic());
            assert!(!producer.offer(Message::new(topic_named("other"), "of the handler")));
            seen.lock().push(format!("{payload} ends"));
        }
    };
    let (_broker, this) = failing(true, handler, |_| {}).await;
    *producer.lock() = Some(this.clone());
    for n in 1..4 {
        assert!(this.offer(message(n.to_string())));
    }
    assert!(!this.offer(Message::new(topic_named("other"), "0")));
    let mut seen = std::mem::take(&mut *seen.lock());
    for calls in seen.chunks(2) {
        let [begin, end] = calls else { panic!("{calls:?}") };
        assert_eq!(begin.strip_suffix(" begins"), end.strip_suffix(" ends"), "one at a time: {calls:?}");
    }
    seen.retain(|line| line.ends_with("ends"));
    seen.sort_unstable();
    assert_eq!(seen, ["0 ends", "1 ends", "2 ends", "3 ends"]);
    // The handler holds the producer.
    producer.lock().take();
}
