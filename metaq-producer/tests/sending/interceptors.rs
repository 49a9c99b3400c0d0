//! Interceptors: their view of messages, their changes, and the containment of their faults.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    cell::Cell,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all};
use metaq_producer::{
    Message, Outcome, Producer, SendErrorKind,
    interceptor::{CompletedSend, Interceptor},
    transaction::{TransactionErrorKind, TransactionOptions},
    xa::{UniqueQualifier, XaEnd, XaProducer, XaStart},
};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::common::{
    cluster::{broker, builder, counts, sum},
    message, topic, until,
};

/// Adds its letter to the attribute, and writes down what it learns.
#[derive(Clone)]
struct Letter {
    letter: char,
    seen: Arc<Mutex<Vec<(char, CompletedSend)>>>,
}

impl Interceptor for Letter {
    fn before_send(&self, message: &mut Message) {
        let attribute = message.attribute().unwrap_or_default().to_owned();
        message.set_attribute(format!("{attribute}{}", self.letter));
    }

    fn after_outcome(&self, send: &CompletedSend) {
        self.seen.lock().push((self.letter, send.clone()));
    }
}

struct Scene {
    _registry: EmbeddedRegistry,
    broker: Broker,
    producer: Producer,
    seen: Arc<Mutex<Vec<(char, CompletedSend)>>>,
}

impl Scene {
    async fn new(max_attempts: u32) -> Self {
        let registry = EmbeddedRegistry::new();
        let (broker, seen) = (broker(&registry, 0), Arc::default());
        let letter = |letter| Letter { letter, seen: Arc::clone(&seen) };
        let producer = builder(&registry, |config| {
            config.retry.max_attempts = max_attempts;
            config.retry.initial_backoff = Duration::from_millis(1);
            config.retry.max_backoff = Duration::from_millis(1);
        });
        let producer = producer.interceptor(letter('a')).interceptor(letter('b')).build().unwrap();
        producer.publish_topic(&topic()).await.unwrap();
        Self { _registry: registry, broker, producer, seen }
    }

    /// The outcomes since the last call.
    fn learned(&self) -> Vec<(char, Result<(), Outcome>, u32)> {
        let seen = std::mem::take(&mut *self.seen.lock());
        seen.into_iter().map(|(letter, send)| (letter, send.outcome, send.attempts)).collect()
    }
}

fn attributes(broker: &Broker) -> Vec<Option<String>> {
    broker.messages("t").into_iter().map(|stored| stored.attribute.map(|text| text.to_string())).collect()
}

#[tokio::test(start_paused = true)]
async fn every_way_to_send_is_seen_by_all_in_their_order() {
    let Scene { broker, producer, seen, .. } = &Scene::new(1).await;
    producer.send(message("1")).await.unwrap();
    producer.send(message("2").with_attribute("x")).await.unwrap();
    producer.enqueue(message("3")).await.unwrap().await.unwrap();
    producer.try_send(message("4")).unwrap().await.unwrap();
    for outcome in producer.send_all([message("5")]).await {
        outcome.unwrap();
    }
    let mut transaction = producer.begin(TransactionOptions::default());
    transaction.send(message("6")).await.unwrap();
    transaction.send_all([message("7")]).await.unwrap();
    transaction.commit().await.unwrap();
    let mut stored = attributes(broker);
    stored.sort_unstable();
    let ab = || Some("ab".to_owned());
    assert_eq!(stored, [ab(), ab(), ab(), ab(), ab(), ab(), Some("xab".to_owned())]);
    let seen = seen.lock();
    let letters: String = seen.iter().map(|(letter, _)| *letter).collect();
    assert_eq!(letters, "ababababab", "the transaction tells of its messages by itself");
    for (_, send) in &*seen {
        assert_eq!((&send.topic, send.outcome, send.attempts), (&topic(), Ok(()), 1));
        assert_eq!(send.partition.unwrap().broker.0, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_of_xa_transactions_are_seen_too() {
    let Scene { broker, producer, seen, .. } = &Scene::new(1).await;
    let xa = XaProducer::new(producer, UniqueQualifier::new("q").unwrap());
    xa.publish_topic(&topic()).await.unwrap();
    let mut resource = xa.resource().unwrap();
    let xid = xa.new_xid(1, b"").unwrap();
    resource.start(&xid, XaStart::New).await.unwrap();
    resource.send(message("1").with_attribute("x")).await.unwrap();
    resource.send(message("2")).await.unwrap();
    resource.end(&xid, XaEnd::Success).await.unwrap();
    resource.prepare(&xid).await.unwrap();
    resource.commit(&xid, false).await.unwrap();
    let mut stored = attributes(broker);
    stored.sort_unstable();
    assert_eq!(stored, [Some("ab".to_owned()), Some("xab".to_owned())]);
    assert_eq!(seen.lock().len(), 0, "the transaction tells of its messages by itself");
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_told_once_for_what_was_accepted() {
    let scene = Scene::new(2).await;
    let Scene { broker, producer, .. } = &scene;
    let told = |outcome, attempts| vec![('a', outcome, attempts), ('b', outcome, attempts)];
    let plan = broker.faults().plan(Requests::puts().only(1), Fault::refuse(503, "busy"));
    producer.send(message("again")).await.unwrap();
    assert_eq!(scene.learned(), told(Ok(()), 2));
    plan.cancel();
    let plan = broker.faults().plan(Requests::puts(), Fault::refuse(500, "no"));
    drop(producer.enqueue(message("nobody looks")).await.unwrap());
    until(async || counts(producer).await.rejected == 1).await;
    assert_eq!(scene.learned(), told(Err(Outcome::Rejected), 1));
    plan.cancel();
    let plan = broker.faults().plan(Requests::puts(), Fault::Swallow);
    producer.send(message("unknown")).await.unwrap_err();
    assert_eq!(scene.learned(), told(Err(Outcome::Unknown), 1));
    plan.cancel();
    broker.faults().refuse_connections(true);
    broker.faults().close_connections();
    until(async || producer.partitions(&topic()).is_empty()).await;
    let refused = producer.try_send(message("not accepted")).unwrap_err();
    assert_eq!(refused.message().unwrap().attribute(), Some("ab"));
    producer.send(Message::new("other".parse().unwrap(), "not published")).await.unwrap_err();
    assert_eq!(scene.learned(), []);
    producer.send(message("no broker")).await.unwrap_err();
    assert_eq!(scene.learned(), told(Err(Outcome::NotSent), 0));
    drop(producer.send(message("dropped")).now_or_never());
    assert_eq!(scene.learned(), told(Err(Outcome::NotSent), 0));
    let handle = producer.enqueue(message("taken back")).await.unwrap();
    assert_eq!(producer.purge(&topic()).len(), 1);
    handle.await.unwrap_err();
    assert_eq!(scene.learned(), told(Err(Outcome::NotSent), 0));
    let _handle = producer.enqueue(message("closed")).await.unwrap();
    producer.close(Duration::ZERO).await;
    assert_eq!(scene.learned(), told(Err(Outcome::NotSent), 0));
}

/// Panics at messages that say so, after it has changed them, and at every outcome if asked.
#[derive(Clone, Default)]
struct Panics(Arc<AtomicBool>);

impl Interceptor for Panics {
    fn before_send(&self, message: &mut Message) {
        message.set_attribute("changed");
        assert!(!message.payload().starts_with(b"panic"), "not this one");
    }

    fn after_outcome(&self, _: &CompletedSend) {
        assert!(!self.0.load(Ordering::Relaxed), "at an outcome");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_the_message_that_it_was_about_and_nothing_else() {
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let (panics, seen) = (Panics::default(), Arc::default());
    let letter = Letter { letter: 'z', seen: Arc::clone(&seen) };
    let producer =
        builder(&registry, |_| {}).interceptor(panics.clone()).interceptor(letter).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let bad = || message("panic").with_attribute("as it was");
    let errors = [
        producer.send(bad()).await.unwrap_err(),
        producer.enqueue(bad()).await.unwrap_err(),
        producer.try_send(bad()).unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Interceptor, Outcome::NotSent));
        let text = "message to topic t was not sent: interceptor 0 (counted from 0) panicked in before_send: not this one";
        assert_eq!(error.to_string(), text);
        assert_eq!(error.into_message().unwrap(), bad(), "it comes back as it was");
    }
    let mut transaction = producer.begin(TransactionOptions::default());
    transaction.send(message("in it")).await.unwrap();
    let error = transaction.send(bad()).await.unwrap_err();
    assert_eq!(error.kind(), TransactionErrorKind::Interceptor, "{error}");
    transaction.commit().await.unwrap();
    assert_eq!(attributes(&broker), [Some("changedz".to_owned())]);
    assert_eq!(seen.lock().len(), 0);
    let before = counts(&producer).await;
    assert_eq!((before.offered, before.not_sent, before.acknowledged), (5, 4, 1), "{before:?}");
    // The others learn of the outcome, and the handles have it.
    panics.0.store(true, Ordering::Relaxed);
    for outcome in producer.send_all((0..100).map(|n| message(n.to_string()))).await {
        outcome.unwrap();
    }
    assert_eq!(seen.lock().len(), 100);
    let counts = counts(&producer).await;
    assert_eq!((counts.acknowledged, counts.offered), (101, sum(counts)), "{counts:?}");
}

/// Calls the producer from within both hooks.
#[derive(Clone, Default)]
struct Calls {
    producer: Arc<OnceLock<Producer>>,
    calls: Arc<AtomicUsize>,
}

thread_local! {
    static CALLS: Cell<bool> = const { Cell::new(false) };
}

impl Calls {
    fn call(&self) {
        let Some(producer) = self.producer.get() else { return };
        // What is sent from here is seen as well: not again from within that.
        if self.calls.fetch_add(1, Ordering::Relaxed) < 1000 && !CALLS.replace(true) {
            drop(producer.try_send(message("from an interceptor")));
            drop(producer.enqueue(message("from an interceptor")).now_or_never());
            drop(producer.stats().now_or_never());
            drop(producer.purge(&"other".parse().unwrap()));
            CALLS.set(false);
        }
    }
}

impl Interceptor for Calls {
    fn before_send(&self, _: &mut Message) {
        self.call();
    }

    fn after_outcome(&self, _: &CompletedSend) {
        self.call();
    }
}

/// If a lock were held, they would wait for themselves.
#[test]
fn interceptors_may_call_the_producer_from_several_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        for ordered in [false, true] {
            let registry = EmbeddedRegistry::new();
            let broker = broker(&registry, 0);
            let calls = Calls::default();
            let told = Arc::new(Mutex::new(Vec::new()));
            let letter = Letter { letter: 'a', seen: Arc::clone(&told) };
            let producer = builder(&registry, |config| {
                config.ordered = ordered;
                config.max_in_flight = 64;
                config.send_timeout = Duration::from_secs(60);
            });
            let producer = producer.interceptor(calls.clone()).interceptor(letter).build().unwrap();
            producer.publish_topic(&topic()).await.unwrap();
            calls.producer.set(producer.clone()).ok().unwrap();
            let tasks = (0..4).map(|task| {
                let producer = producer.clone();
                tokio::spawn(async move {
                    for n in 0..100 {
                        producer.send(message(format!("{task}: {n}"))).await.unwrap();
                    }
                })
            });
            for joined in join_all(tasks).await {
                joined.unwrap();
            }
            until(async || producer.stats().await.unacknowledged == 0).await;
            while calls.calls.load(Ordering::Relaxed) < 1000 {
                producer.send(message("more")).await.unwrap();
                sleep(Duration::from_millis(1)).await;
            }
            until(async || producer.stats().await.unacknowledged == 0).await;
            let counts = counts(&producer).await;
            assert_eq!(counts.acknowledged, broker.messages("t").len() as u64);
            let is_ok = |(_, send): &&(char, CompletedSend)| send.outcome == Ok(());
            until(async || told.lock().iter().filter(is_ok).count() as u64 == counts.acknowledged).await;
            producer.close(Duration::from_secs(1)).await;
        }
    });
}

#[tokio::test(start_paused = true)]
async fn the_partition_of_the_last_attempt_is_told() {
    let registry = EmbeddedRegistry::new();
    let (broker, seen) = (broker(&registry, 0), Arc::<Mutex<Vec<_>>>::default());
    let producer = builder(&registry, |config| {
        config.retry.initial_backoff = Duration::from_millis(100);
        config.retry.max_backoff = Duration::from_millis(100);
    });
    let producer = &producer.interceptor(Letter { letter: 'a', seen: Arc::clone(&seen) }).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    broker.faults().plan(Requests::puts().first(1), Fault::refuse(503, "busy"));
    // The next attempt finds no broker.
    let refused = producer.enqueue_with_timeout(message("x"), Duration::from_millis(500)).await.unwrap();
    until(async || counts(producer).await.queued == 1).await;
    broker.faults().refuse_connections(true);
    broker.faults().close_connections();
    let error = refused.await.unwrap_err();
    let learned = seen.lock().clone();
    let (_, send) = &learned[0];
    assert_eq!((send.attempts, send.outcome), (1, Err(error.outcome())));
    assert!(send.partition.is_some(), "{send:?}");
}
