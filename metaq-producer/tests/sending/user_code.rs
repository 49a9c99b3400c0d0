//! The code of users that runs within the producer: destructors of payloads, wakers, and selectors, which
//! call the producer in turn. None of them may run while a lock is held: it would wait for itself.

use std::{
    cell::Cell,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use futures_util::FutureExt as _;
use metaq_producer::{Message, Outcome, Partition, PartitionSelector, Producer, SendHandle, Topic};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};
use parking_lot::Mutex;
use tokio::runtime::Builder;

use crate::common::{
    cluster::{broker_with, builder_with_limits},
    message, topic, until,
    watchdog::watched,
};

/// The ways in which a message can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Acknowledged,
    Rejected,
    RejectedAndSentAgain,
    ExpiredWhileWaiting,
    ExpiredInFlight,
    CancelledWhileWaiting,
    CancelledInFlight,
    ConnectionLost,
    Closed,
    ProducerDropped,
}

const ENDS: [End; 10] = [
    End::Acknowledged,
    End::Rejected,
    End::RejectedAndSentAgain,
    End::ExpiredWhileWaiting,
    End::ExpiredInFlight,
    End::CancelledWhileWaiting,
    End::CancelledInFlight,
    End::ConnectionLost,
    End::Closed,
    End::ProducerDropped,
];

/// The calls of user code to a producer, until the test takes it away at its end.
#[derive(Clone, Default)]
struct Caller(Arc<Mutex<Option<Producer>>>, Arc<AtomicUsize>);

/// The depth is limited, because what a call sends may have another call made.
const MOST_CALLS: usize = 200;

thread_local! {
    static CALLS: Cell<bool> = const { Cell::new(false) };
}

impl Caller {
    fn call(&self) {
        let producer = self.0.lock().clone();
        let Some(producer) = producer else { return };
        // Not from within what it calls itself.
        if self.1.fetch_add(1, Ordering::Relaxed) >= MOST_CALLS || CALLS.replace(true) {
            return;
        }
        drop(producer.try_send(message("from user code")));
        drop(producer.enqueue(message("from user code")).now_or_never());
        drop(producer.send(message("from user code")).now_or_never());
        drop(producer.stats().now_or_never());
        let _ = producer.flush().now_or_never();
        drop(producer.partitions(&topic()));
        drop(producer);
        CALLS.set(false);
    }
}

/// Four messages at a time, of two partitions, some of which wait.
struct Scene {
    broker: Broker,
    _registry: EmbeddedRegistry,
    producer: Producer,
    caller: Caller,
}

impl Scene {
    async fn new(is_ordered: bool, selector: impl PartitionSelector + 'static, caller: Caller) -> Self {
        let registry = EmbeddedRegistry::new();
        let broker = broker_with(&registry, 0, &[("t", 2)]);
        let producer = builder_with_limits(&registry, 2, 1 << 20, |config| {
            config.ordered = is_ordered;
            config.send_timeout = Duration::from_secs(10);
            config.retry.initial_backoff = Duration::from_millis(1);
            config.retry.max_backoff = Duration::from_millis(2);
        });
        let producer = producer.selector(selector).build().unwrap();
        producer.publish_topic(&topic()).await.unwrap();
        *caller.0.lock() = Some(producer.clone());
        Self { broker, _registry: registry, producer, caller }
    }

    /// Has messages end in this way. `look` is what is done with each handle; those that it returns are kept
    /// to the end.
    async fn end(
        self,
        end: End,
        new: impl Fn(usize) -> Message,
        look: impl Fn(SendHandle) -> Option<SendHandle>,
    ) {
        let Self { broker, producer, caller, _registry } = self;
        let faults = broker.faults();
        let late = Fault::Late(Duration::from_millis(20));
        let (mut time, mut is_cancelled) = (Duration::from_secs(5), false);
        match end {
            End::Acknowledged => drop(faults.plan(Requests::puts(), late)),
            End::Rejected => drop(faults.plan(Requests::puts(), Fault::refuse(500, "broken"))),
            End::RejectedAndSentAgain => {
                drop(faults.plan(Requests::puts().first(4), Fault::refuse(503, "busy")));
            }
            End::ExpiredWhileWaiting => {
                drop(faults.plan(Requests::puts(), Fault::Late(Duration::from_millis(300))));
                time = Duration::from_millis(50);
            }
            End::ExpiredInFlight => {
                drop(faults.plan(Requests::puts(), Fault::Swallow));
                time = Duration::from_millis(50);
            }
            End::CancelledWhileWaiting | End::CancelledInFlight => {
                drop(faults.plan(Requests::puts(), late));
                is_cancelled = true;
            }
            End::ConnectionLost => drop(faults.plan(Requests::puts(), Fault::Swallow)),
            End::Closed | End::ProducerDropped => faults.freeze(),
        }
        let mut handles = Vec::new();
        for n in 0..8 {
            if is_cancelled && (n < 2) == (end == End::CancelledInFlight) {
                let mut send = Box::pin(producer.send_with_timeout(new(n), time));
                let _ = send.as_mut().now_or_never();
                tokio::task::yield_now().await;
                drop(send);
                continue;
            }
            let handle = producer.enqueue_with_timeout(new(n), time).await.unwrap();
            handles.extend(look(handle));
        }
        match end {
            End::ConnectionLost => {
                let closing = faults.clone();
                tokio::spawn(async move {
                    for _ in 0..20 {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        closing.close_connections();
                    }
                    closing.heal();
                });
            }
            End::Closed => drop(producer.close(Duration::from_millis(50)).await),
            End::ProducerDropped => {
                *caller.0.lock() = None;
                drop(producer);
                for handle in handles {
                    drop(tokio::time::timeout(Duration::from_secs(10), handle).await.unwrap());
                }
                return;
            }
            _ => {}
        }
        for handle in handles {
            // Whether it is stored or not, it ends.
            if let Err(error) = tokio::time::timeout(Duration::from_secs(10), handle).await.unwrap() {
                assert!(end != End::Acknowledged || error.outcome() == Outcome::NotSent, "{error}");
            }
        }
        if end != End::Closed {
            faults.heal();
            faults.close_connections();
            until(async || producer.send(message("works")).await.is_ok()).await;
            producer.flush().await;
        }
        *caller.0.lock() = None;
    }
}

/// Runs every way to end on four threads.
fn in_every_way<F: Future<Output = ()>>(
    what: &'static str,
    scene: impl Fn(End, bool) -> F + Send + Copy + 'static,
) {
    for is_ordered in [false, true] {
        for end in ENDS {
            watched(&format!("{what}, {end:?}, ordered: {is_ordered}"), move || {
                let runtime = Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
                runtime.block_on(scene(end, is_ordered));
                runtime.shutdown_background();
            });
        }
    }
}

/// The bytes of a payload, whose destructor calls the producer.
struct Payload(Caller);

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        b"a payload with an owner"
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.0.call();
    }
}

fn owned(caller: &Caller) -> Message {
    Message::new(topic(), bytes::Bytes::from_owner(Payload(caller.clone())))
}

#[test]
fn the_destructor_of_a_payload_may_call_the_producer() {
    in_every_way("payload", async |end, is_ordered| {
        let caller = Caller::default();
        let scene =
            Scene::new(is_ordered, metaq_producer::selector::RoundRobinSelector::new(), caller.clone()).await;
        scene.end(end, |_| owned(&caller), Some).await;
    });
}

#[test]
fn payload_destructor_may_call_the_producer_unobserved() {
    in_every_way("payload without a handle", async |end, is_ordered| {
        let caller = Caller::default();
        let scene =
            Scene::new(is_ordered, metaq_producer::selector::RoundRobinSelector::new(), caller.clone()).await;
        scene.end(end, |_| owned(&caller), |_| None).await;
    });
}

/// Calls the producer when it wakes, and when it is dropped.
struct Calling {
    caller: Caller,
    /// Dropped with it.
    _handle: Mutex<Option<SendHandle>>,
}

impl Wake for Calling {
    fn wake(self: Arc<Self>) {
        self.caller.call();
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        self.caller.call();
    }
}

fn waker(caller: &Caller, handle: Option<SendHandle>) -> Waker {
    Waker::from(Arc::new(Calling { caller: caller.clone(), _handle: Mutex::new(handle) }))
}

#[test]
fn waker_may_call_the_producer_on_wake_and_drop() {
    in_every_way("waker", async |end, is_ordered| {
        let caller = Caller::default();
        let scene =
            Scene::new(is_ordered, metaq_producer::selector::RoundRobinSelector::new(), caller.clone()).await;
        let look = |mut handle: SendHandle| {
            // The second one replaces the first.
            for _ in 0..2 {
                if handle.poll_unpin(&mut Context::from_waker(&waker(&caller, None))).is_ready() {
                    return None;
                }
            }
            Some(handle)
        };
        scene.end(end, |n| message(n.to_string()), look).await;
    });
}

#[test]
fn a_waker_may_call_the_producer_when_its_handle_is_dropped() {
    in_every_way("waker of a dropped handle", async |end, is_ordered| {
        let caller = Caller::default();
        let scene =
            Scene::new(is_ordered, metaq_producer::selector::RoundRobinSelector::new(), caller.clone()).await;
        let look = |mut handle: SendHandle| {
            let _ = handle.poll_unpin(&mut Context::from_waker(&waker(&caller, None)));
            None
        };
        scene.end(end, |n| message(n.to_string()), look).await;
    });
}

#[test]
fn a_waker_may_own_the_handle_of_another_message() {
    in_every_way("waker with a handle", async |end, is_ordered| {
        let caller = Caller::default();
        let scene =
            Scene::new(is_ordered, metaq_producer::selector::RoundRobinSelector::new(), caller.clone()).await;
        let producer = scene.producer.clone();
        let look = move |mut handle: SendHandle| {
            for _ in 0..2 {
                let other = producer.enqueue(message("of a waker")).now_or_never().and_then(Result::ok);
                if handle.poll_unpin(&mut Context::from_waker(&waker(&caller, other))).is_ready() {
                    return None;
                }
            }
            Some(handle)
        };
        scene.end(end, |n| message(n.to_string()), look).await;
    });
}

/// Calls the producer in each of its methods, and when it is dropped.
#[derive(Clone)]
struct CallingSelector(Arc<OnceLock<Caller>>);

impl CallingSelector {
    fn call(&self) {
        if let Some(caller) = self.0.get() {
            caller.call();
        }
    }
}

impl PartitionSelector for CallingSelector {
    fn select(&self, _: &Topic, partitions: &[Partition], _: &Message) -> Option<Partition> {
        self.call();
        partitions.first().copied()
    }

    fn reselect(
        &self,
        _: &Topic,
        partitions: &[Partition],
        _: &Message,
        unfit: Partition,
    ) -> Option<Partition> {
        self.call();
        partitions.iter().copied().find(|partition| *partition != unfit)
    }

    fn wants_outcomes(&self) -> bool {
        self.call();
        true
    }

    fn observe(&self, _: Partition, _: Duration, _: Result<(), Outcome>) {
        self.call();
    }
}

impl Drop for CallingSelector {
    fn drop(&mut self) {
        self.call();
    }
}

#[test]
fn a_selector_may_call_the_producer() {
    in_every_way("selector", async |end, is_ordered| {
        let caller = Caller::default();
        let selector = CallingSelector(Arc::new(OnceLock::from(caller.clone())));
        let scene = Scene::new(is_ordered, selector, caller).await;
        scene.end(end, |n| message(n.to_string()), Some).await;
    });
}

#[test]
fn waker_of_a_capacity_or_flush_wait_may_call_the_producer() {
    in_every_way("waker of enqueue and flush", async |end, is_ordered| {
        let caller = Caller::default();
        let scene =
            Scene::new(is_ordered, metaq_producer::selector::RoundRobinSelector::new(), caller.clone()).await;
        let producer = scene.producer.clone();
        let waiting = Mutex::new(Vec::new());
        let look = |handle: SendHandle| {
            let producer = producer.clone();
            let mut flush = async move { producer.flush().await }.boxed();
            for _ in 0..2 {
                let _ = flush.poll_unpin(&mut Context::from_waker(&waker(&caller, None)));
            }
            waiting.lock().push(flush);
            Some(handle)
        };
        if end == End::ProducerDropped {
            // The flushes would keep it.
            *scene.caller.0.lock() = None;
            return;
        }
        scene.end(end, |n| message(n.to_string()), look).await;
        let waiting = std::mem::take(&mut *waiting.lock());
        drop(waiting);
    });
}
