//! Races and habits of programs that once had messages wait for ever, or be sent although they were taken
//! back.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Waker},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use metaq_producer::{Message, Partition, PartitionSelector, Producer, SendErrorKind, Topic};
use metaq_protocol::{BrokerAddr, Command, PutRef, TransactionAction};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use metaq_transport::{
    CompletionToken, Connection, ConnectionState, PendingResponse, StreamTransport, Transport, TransportError,
};
use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    time::Instant,
};

use crate::common::{
    cluster::{Cluster, broker_with, builder, builder_with_limits, in_partition},
    message, topic, until,
    watchdog::watched,
};

fn threads(number: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(number).enable_all().build().unwrap()
}

/// A broker that lives on a runtime of its own.
fn broker_apart(registry: &EmbeddedRegistry) -> (Broker, Runtime) {
    let runtime = threads(1);
    let broker = runtime.block_on(async { broker_with(registry, 0, &[("t", 1)]) });
    (broker, runtime)
}

#[test]
fn turn_survives_a_message_that_expires_as_it_queues() {
    watched("an ordered topic", || {
        threads(4).block_on(async {
            let registry = EmbeddedRegistry::new();
            let _broker = broker_with(&registry, 0, &[("t", 1)]);
            let producer = builder(&registry, |config| config.ordered = true).build().unwrap();
            producer.publish_topic(&topic()).await.unwrap();
            for _ in 0..20 {
                let tasks: Vec<_> = (0..6_u64)
                    .map(|task| {
                        let producer = producer.clone();
                        tokio::spawn(async move {
                            for n in 0..300 {
                                let timeout = Duration::from_millis((n + task) % 2);
                                drop(producer.send_with_timeout(message("short"), timeout).await);
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap();
                }
                let sent = producer.send_with_timeout(message("long"), Duration::from_secs(2)).await;
                // The answer to one whose time is up may be late by as much.
                sent.unwrap();
            }
        });
    });
}

#[test]
fn flush_does_not_wait_for_a_message_that_was_refused_after_all() {
    watched("flush", || {
        let registry = EmbeddedRegistry::new();
        let (_broker, _brokers) = broker_apart(&registry);
        let producer = builder(&registry, |_| {}).build().unwrap();
        threads(1).block_on(producer.publish_topic(&topic())).unwrap();
        // Its runtime is gone, so there is no task to send what waits.
        let is_over = Arc::new(AtomicBool::new(false));
        let senders: Vec<_> = (0..4)
            .map(|_| {
                let (producer, is_over) = (producer.clone(), Arc::clone(&is_over));
                thread::spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        let refused = producer.enqueue(message("refused")).now_or_never().unwrap();
                        assert_eq!(refused.unwrap_err().kind(), SendErrorKind::NoRuntime);
                    }
                })
            })
            .collect();
        threads(1).block_on(async {
            for _ in 0..20_000 {
                producer.flush().await;
            }
        });
        is_over.store(true, Ordering::Relaxed);
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

/// Stops in the selector when it is asked for the message `stops`, until the test lets it go on.
struct Stops {
    reached: mpsc::Sender<()>,
    goes_on: Mutex<mpsc::Receiver<()>>,
}

impl Stops {
    fn new() -> (Self, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (reached, is_reached) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        (Self { reached, goes_on: Mutex::new(goes_on) }, is_reached, go_on)
    }
}

impl PartitionSelector for Stops {
    fn select(&self, _: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        if &message.payload()[..] == b"stops" {
            self.reached.send(()).ok()?;
            let _ = self.goes_on.lock().recv();
        }
        partitions.first().copied()
    }
}

#[test]
fn message_taken_back_during_selection_is_not_sent() {
    watched("a message that is taken back", || {
        let registry = EmbeddedRegistry::new();
        let (broker, _brokers) = broker_apart(&registry);
        let (selector, is_reached, go_on) = Stops::new();
        let producer = builder(&registry, |_| {}).selector(selector).build().unwrap();
        let runtime = threads(4);
        runtime.block_on(async {
            producer.publish_topic(&topic()).await.unwrap();
            broker.faults().refuse_connections(true);
            broker.faults().close_connections();
            until(async || producer.partitions(&topic()).is_empty()).await;
        });
        let mut sending = Box::pin(producer.send(message("stops")));
        {
            let _runtime = runtime.enter();
            assert!(sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        broker.faults().refuse_connections(false);
        is_reached.recv().unwrap();
        drop(sending);
        go_on.send(()).unwrap();
        runtime.block_on(async {
            producer.send(message("after")).await.unwrap();
            producer.flush().await;
        });
        assert_eq!(in_partition(&broker, "t", 0), ["after"]);
    });
}

/// Sends `stops` to broker 0 twice, then stops, and sends it to broker 1; others where their keys say.
struct ChangesItsMind {
    stops: Stops,
    asked: AtomicUsize,
}

impl PartitionSelector for ChangesItsMind {
    fn select(&self, topic: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        if let Some(key) = message.key() {
            return partitions.get(usize::from(key == b"1")).copied();
        }
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if asked == 2 {
            self.stops.select(topic, partitions, message)?;
        }
        partitions.get(usize::from(asked >= 2)).copied()
    }

    fn reselect(&self, _: &Topic, _: &[Partition], _: &Message, _: Partition) -> Option<Partition> {
        None
    }
}

#[test]
fn message_in_dispatch_at_runtime_end_keeps_its_deadline() {
    watched("a message whose runtime ends", || {
        let registry = EmbeddedRegistry::new();
        let runtime = threads(4);
        let (stops, is_reached, go_on) = Stops::new();
        let producer = builder_with_limits(&registry, 1, 1 << 20, |config| {
            config.send_timeout = Duration::from_secs(2);
            config.connection.stall_after = Duration::from_secs(60);
        });
        let selector = ChangesItsMind { stops, asked: AtomicUsize::new(0) };
        let producer = producer.selector(selector).build().unwrap();
        let brokers = runtime.block_on(async {
            let brokers = [0, 1].map(|id| broker_with(&registry, id, &[("t", 1)]));
            producer.publish_topic(&topic()).await.unwrap();
            until(async || producer.partitions(&topic()).len() == 2).await;
            for (broker, late) in brokers.iter().zip([300, 15_000]) {
                broker.faults().plan(Requests::puts().first(1), Fault::Late(Duration::from_millis(late)));
                let first = message("first").with_key(broker.id().to_string());
                drop(producer.enqueue_with_timeout(first, Duration::from_secs(30)).await.unwrap());
            }
            brokers
        });
        let other = threads(1);
        let handle = other.block_on(producer.enqueue(message("stops"))).unwrap();
        is_reached.recv().unwrap();
        drop(other);
        go_on.send(()).unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(5), handle).await.unwrap().unwrap_err();
        });
        drop(brokers);
    });
}

/// Sends `a` to the brokers 0 and 1, `b` to 2 and 3.
struct Halves;

impl PartitionSelector for Halves {
    fn select(&self, _: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        let first = if message.key()? == b"a" { 0 } else { 2 };
        partitions.iter().find(|partition| partition.broker.0 == first).copied()
    }

    fn reselect(
        &self,
        _: &Topic,
        partitions: &[Partition],
        _: &Message,
        unfit: Partition,
    ) -> Option<Partition> {
        partitions.iter().find(|partition| partition.broker.0 == unfit.broker.0 ^ 1).copied()
    }
}

#[tokio::test(start_paused = true)]
async fn waiters_for_other_brokers_delay_no_message() {
    let registry = EmbeddedRegistry::new();
    let brokers: Vec<_> = (0..4).map(|id| broker_with(&registry, id, &[("t", 1)])).collect();
    let producer = builder_with_limits(&registry, 1, 1 << 20, |config| {
        config.send_timeout = Duration::from_secs(30);
        config.connection.stall_after = Duration::from_secs(60);
    });
    let producer = producer.selector(Halves).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    for broker in &brokers[..2] {
        broker.faults().plan(Requests::puts().first(1), Fault::Late(Duration::from_secs(10)));
    }
    for broker in &brokers[2..] {
        broker.faults().plan(Requests::puts().first(1), Fault::Late(Duration::from_millis(100)));
    }
    let send = |key: &str| producer.enqueue(message(key).with_key(key));
    let mut handles = Vec::new();
    for key in ["a", "a", "b", "b"] {
        handles.push(send(key).await.unwrap());
    }
    let waits = send("a").await.unwrap();
    let goes = send("b").await.unwrap();
    let started = Instant::now();
    goes.await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(150), "{:?}", started.elapsed());
    waits.await.unwrap();
}

thread_local! {
    static SENDING: RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>> = const { RefCell::new(None) };
}

#[test]
fn a_message_can_be_taken_back_when_its_thread_ends() {
    let runtime = threads(2);
    let cluster = runtime.block_on(Cluster::new(1, |_| {}));
    runtime.block_on(async {
        cluster.brokers[0].faults().refuse_connections(true);
        cluster.brokers[0].faults().close_connections();
        until(async || cluster.producer.partitions(&topic()).is_empty()).await;
    });
    let (producer, handle) = (cluster.producer.clone(), runtime.handle().clone());
    let sender = thread::spawn(move || {
        // Known to the thread before the producer's own.
        SENDING.with_borrow_mut(|sending| *sending = None);
        let _runtime = handle.enter();
        let mut first = Box::pin(async move { drop(producer.send(message("never sent")).await) });
        assert!(first.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        SENDING.with_borrow_mut(|sending| *sending = Some(first));
    });
    sender.join().unwrap();
    assert_eq!(runtime.block_on(cluster.counts()).queued, 0);
}

/// Its watches end when the test ends them.
#[derive(Debug)]
struct Ending {
    inner: Arc<dyn metaq_discovery::Discovery>,
    watched: Arc<AtomicUsize>,
    publishers: Arc<Mutex<Option<Vec<metaq_discovery::ViewPublisher>>>>,
}

#[async_trait]
impl metaq_discovery::Discovery for Ending {
    async fn watch(
        &self,
        topic: &Topic,
    ) -> Result<metaq_discovery::TopicWatch, metaq_discovery::DiscoveryError> {
        self.watched.fetch_add(1, Ordering::Relaxed);
        let view = self.inner.watch(topic).await?.current();
        let (publisher, watch) = metaq_discovery::TopicWatch::channel((*view).clone());
        if let Some(publishers) = &mut *self.publishers.lock() {
            publishers.push(publisher);
        }
        Ok(watch)
    }

    async fn topics(&self) -> Result<Vec<Topic>, metaq_discovery::DiscoveryError> {
        self.inner.topics().await
    }

    fn events(&self) -> metaq_discovery::DiscoveryEvents {
        self.inner.events()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[test]
fn watches_that_end_are_not_asked_for_without_a_pause() {
    watched("a discovery whose watches end", || {
        threads(2).block_on(async {
            let registry = EmbeddedRegistry::new();
            let _broker = broker_with(&registry, 0, &[("t", 1)]);
            let watched = Arc::new(AtomicUsize::new(0));
            let publishers = Arc::new(Mutex::new(Some(Vec::new())));
            let discovery = Ending {
                inner: Arc::new(registry.discovery()),
                watched: Arc::clone(&watched),
                publishers: Arc::clone(&publishers),
            };
            let producer: Producer = builder(&registry, |_| {}).discovery(discovery).build().unwrap();
            producer.publish_topic(&topic()).await.unwrap();
            drop(publishers.lock().take());
            tokio::time::sleep(Duration::from_millis(500)).await;
            let times = watched.load(Ordering::Relaxed);
            assert!((2..20).contains(&times), "{times}");
            producer.send(message("sent")).await.unwrap();
        });
    });
}

#[test]
fn a_runtime_without_timers_gives_errors_and_damages_nothing() {
    watched("a runtime without timers", || {
        let registry = EmbeddedRegistry::new();
        let (_broker, _brokers) = broker_apart(&registry);
        let producer = builder(&registry, |_| {}).build().unwrap();
        let without = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        without.block_on(producer.publish_topic(&topic())).unwrap_err();
        without.block_on(producer.send(message("not sent"))).unwrap_err();
        without.block_on(producer.flush());
        let runtime = threads(1);
        runtime.block_on(async {
            producer.publish_topic(&topic()).await.unwrap();
            producer.send(message("sent")).await.unwrap();
        });
        without.block_on(producer.close(Duration::from_millis(50)));
    });
}

/// Panics at every event.
struct PanickingSubscriber;

impl tracing::Subscriber for PanickingSubscriber {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        panic!("as always");
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn dropped_transaction_rolls_back_despite_panicking_subscriber() {
    watched("a dropped transaction", || {
        let registry = EmbeddedRegistry::new();
        let (broker, _brokers) = broker_apart(&registry);
        let producer = builder(&registry, |_| {}).build().unwrap();
        let runtime = threads(2);
        // It does no harm, and counts.
        let harmless = Fault::Late(Duration::ZERO);
        let rollbacks = Requests::transactions(Some(TransactionAction::Rollback));
        let rollbacks = broker.faults().plan(rollbacks, harmless);
        runtime.block_on(async {
            producer.publish_topic(&topic()).await.unwrap();
            let mut transaction = producer.begin(metaq_producer::transaction::TransactionOptions::new());
            transaction.send(message("never stored")).await.unwrap();
            let dropped = || tracing::subscriber::with_default(PanickingSubscriber, || drop(transaction));
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(dropped));
            until(async || rollbacks.met() > 0).await;
        });
    });
}

#[test]
fn waiting_message_ends_in_time_where_its_handle_is_awaited() {
    watched("a handle on another runtime", || {
        let registry = EmbeddedRegistry::new();
        let (broker, _brokers) = broker_apart(&registry);
        let producer = builder(&registry, |config| config.send_timeout = Duration::from_millis(500));
        let producer = producer.build().unwrap();
        let not_driven = Builder::new_current_thread().enable_all().build().unwrap();
        not_driven.block_on(async {
            producer.publish_topic(&topic()).await.unwrap();
            broker.faults().refuse_connections(true);
            broker.faults().close_connections();
            until(async || producer.partitions(&topic()).is_empty()).await;
        });
        let handle = not_driven.block_on(producer.enqueue(message("waits"))).unwrap();
        threads(1).block_on(async {
            let ended = tokio::time::timeout(Duration::from_secs(5), handle).await.unwrap();
            assert_eq!(ended.unwrap_err().kind(), SendErrorKind::NotConnected);
        });
    });
}

#[test]
fn close_ignores_an_unpolled_caller_that_waits_for_room() {
    watched("closing", || {
        threads(2).block_on(async {
            let registry = EmbeddedRegistry::new();
            let broker = broker_with(&registry, 0, &[("t", 1)]);
            let producer = builder(&registry, |config| {
                config.max_in_flight_bytes = 1_000;
                config.send_timeout = Duration::from_secs(30);
            });
            let producer = producer.build().unwrap();
            producer.publish_topic(&topic()).await.unwrap();
            broker.faults().plan(Requests::puts().first(1), Fault::Late(Duration::from_millis(100)));
            let first = producer.enqueue(message("x".repeat(900))).await.unwrap();
            let mut waits = std::pin::pin!(producer.enqueue(message("y".repeat(900))));
            assert!(waits.as_mut().now_or_never().is_none());
            let started = std::time::Instant::now();
            let report = producer.close(Duration::from_secs(10)).await;
            assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
            assert_eq!(report.acknowledged, 1);
            first.await.unwrap();
            assert_eq!(waits.await.unwrap_err().kind(), SendErrorKind::Closed);
        });
    });
}

/// Panics when it is handed a put whose payload says so.
#[derive(Debug)]
struct PanickingConnection(Arc<dyn Connection>);

#[async_trait]
impl Connection for PanickingConnection {
    fn broker(&self) -> &BrokerAddr {
        self.0.broker()
    }

    fn submit(&self, command: &mut Command, deadline: Instant) -> Result<PendingResponse, TransportError> {
        self.0.submit(command, deadline)
    }

    fn submit_put(
        &self,
        put: PutRef<'_>,
        deadline: Instant,
        notify: CompletionToken<'_>,
    ) -> Result<bool, TransportError> {
        assert_ne!(&put.data.payload()[..], b"panics", "as it was told");
        self.0.submit_put(put, deadline, notify)
    }

    async fn submit_when_free(
        &self,
        command: &mut Command,
        deadline: Instant,
    ) -> Result<PendingResponse, TransportError> {
        self.0.submit_when_free(command, deadline).await
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.0.state()
    }

    fn close(&self, deadline: Instant) {
        self.0.close(deadline);
    }
}

/// Makes such connections.
#[derive(Debug)]
struct PanickingTransport(StreamTransport<EmbeddedRegistry>);

#[async_trait]
impl Transport for PanickingTransport {
    async fn connect(&self, broker: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError> {
        Ok(Arc::new(PanickingConnection(self.0.connect(broker).await?)))
    }
}

#[test]
fn a_connection_that_panics_takes_no_message_with_it() {
    for ordered in [false, true] {
        watched("a panicking connection", move || {
            threads(4).block_on(async {
                let registry = EmbeddedRegistry::new();
                let _broker = broker_with(&registry, 0, &[("t", 1)]);
                let transport = registry.transport();
                let producer = builder(&registry, |config| config.ordered = ordered);
                let producer = producer.transport(PanickingTransport(transport)).build().unwrap();
                producer.publish_topic(&topic()).await.unwrap();
                for _ in 0..3 {
                    let timeout = Duration::from_millis(50);
                    let error = producer.send_with_timeout(message("panics"), timeout).await.unwrap_err();
                    assert_eq!(error.outcome(), metaq_producer::Outcome::NotSent);
                    producer.try_send(message("panics")).unwrap_err();
                    producer.send(message("fine")).await.unwrap();
                }
                producer.flush().await;
                assert_eq!(producer.stats().await.unacknowledged, 0);
            });
        });
    }
}
