//! The contract that every [`Discovery`] backend fulfils, whatever its registry.

// This file has the suite and what it needs of a registry; `observer` has the parts that tests of a backend
// use alone.
mod convergence;
mod observer;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use metaq_discovery::{
    BrokerAddr, BrokerId, Discovery, DiscoveryErrorKind, DiscoveryEvent, DiscoveryEvents, Topic, TopicWatch,
};
use tokio::time::{Instant, timeout};

use convergence::{is_in_time, reach};
pub use observer::{Observer, Tasks, on_own_runtime, text};

/// The delay of each response of a slow registry.
const SLOW_RESPONSE: Duration = Duration::from_millis(200);

/// The time limit of every step, including outages of the registry.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A registry that [`check_discovery`] changes, and the backend that reads it. It is empty at first.
#[async_trait]
pub trait RegistryUnderTest: Send + Sync {
    /// Returns a new discovery that reads this registry.
    fn discovery(&self) -> Arc<dyn Discovery>;

    /// Registers a broker of [`topic`], or changes its entry.
    async fn register(&self, broker: BrokerId, addr: BrokerAddr, partitions: u32);

    /// Removes a broker.
    async fn unregister(&self, broker: BrokerId);

    /// Makes the entry of a broker invalid.
    async fn corrupt(&self, broker: BrokerId);

    /// Delays each response of the registry from now on. Has no effect on a registry that can't be slow.
    fn slow_down(&self, delay: Duration) {
        let _ = delay;
    }

    /// Makes the registry unreachable.
    async fn disconnect(&self);

    /// Makes the registry reachable again, with the changes that were made meanwhile.
    async fn reconnect(&self);
}

/// Returns the topic that the suite watches.
///
/// # Panics
/// Never: the name is a valid topic.
#[must_use]
pub fn topic() -> Topic {
    Topic::new("conformance").expect("the name of a topic")
}

/// Checks that the discoveries of `registry` fulfil the contract. Returns the time until the slowest change
/// was seen.
///
/// The suite covers: the first view; brokers that are added, removed, moved, and repartitioned; bursts of
/// changes; invalid entries; a registry that is slow or unreachable; several watches; dropped watches;
/// closing while a task waits; and tasks that are left. Changes have to be seen within 2 s, also those that
/// were made during an outage. On a busy machine the time by which timers are late is added.
///
/// # Panics
/// When the contract is violated, with the expected result.
pub async fn check_discovery(registry: &dyn RegistryUnderTest) -> Duration {
    let tasks = Tasks::now();
    let discovery = registry.discovery();
    let mut events = discovery.events();
    let mut checked = Checked { watch: first_view(registry, &*discovery).await, slowest: Duration::ZERO };
    changes(registry, &mut checked).await;
    corrupt_entry(registry, &mut checked, &mut events).await;
    slow_registry(registry, &*discovery, &mut checked).await;
    let mut second = discovery.watch(&topic()).await.expect("a second watch");
    assert_eq!(text(&second.current()), text(&checked.watch.current()), "watches agree");
    outage(registry, &*discovery, &mut checked, &mut events).await;
    wait_for_view(&mut second, "0@1000:2 3@1003:1").await;
    dropped_watches(&*discovery).await;
    closing(registry, &*discovery, second).await;
    drop((discovery, events, checked.watch));
    tasks.wait_until_none_left().await;
    checked.slowest
}

struct Checked {
    watch: TopicWatch,
    slowest: Duration,
}

impl Checked {
    async fn wait_for_view(&mut self, wanted: &str) {
        let started = Instant::now();
        let late = wait_for_view(&mut self.watch, wanted).await;
        let took = started.elapsed();
        assert!(
            is_in_time(took, late),
            "the view became {wanted:?} only after {took:?}, timers were {late:?} late"
        );
        self.slowest = self.slowest.max(took);
    }
}

async fn first_view(registry: &dyn RegistryUnderTest, discovery: &dyn Discovery) -> TopicWatch {
    let absent = Topic::new("absent").expect("the name of a topic");
    let view = discovery.watch(&absent).await.expect("a topic without brokers can be watched").current();
    assert!(view.is_empty() && *view.topic() == absent, "no broker offers it: {view:?}");
    registry.register(BrokerId(0), addr(1000), 2).await;
    registry.register(BrokerId(1), addr(1001), 1).await;
    let mut watch = discovery.watch(&topic()).await.expect("the topic can be watched");
    // A registry may delay new entries, but a broker never appears in part.
    wait_for_view(&mut watch, "0@1000:2 1@1001:1").await;
    let watch = discovery.watch(&topic()).await.expect("the topic can be watched again");
    assert_eq!(text(&watch.current()), "0@1000:2 1@1001:1", "the first view is complete");
    let partitions: Vec<_> = watch.current().partitions().iter().map(ToString::to_string).collect();
    assert_eq!(partitions, ["0-0", "0-1", "1-0"], "partitions are sorted");
    assert!(discovery.topics().await.expect("topics can be listed").contains(&topic()));
    watch
}

async fn changes(registry: &dyn RegistryUnderTest, checked: &mut Checked) {
    registry.register(BrokerId(10), addr(1010), 1).await;
    checked.wait_for_view("0@1000:2 1@1001:1 10@1010:1").await;
    registry.register(BrokerId(1), addr(2001), 1).await;
    checked.wait_for_view("0@1000:2 1@2001:1 10@1010:1").await;
    registry.register(BrokerId(1), addr(2001), 4).await;
    checked.wait_for_view("0@1000:2 1@2001:4 10@1010:1").await;
    registry.unregister(BrokerId(10)).await;
    checked.wait_for_view("0@1000:2 1@2001:4").await;
    for port in 3001..3010 {
        registry.register(BrokerId(1), addr(port), 1).await;
    }
    checked.wait_for_view("0@1000:2 1@3009:1").await;
    registry.unregister(BrokerId(0)).await;
    registry.unregister(BrokerId(1)).await;
    checked.wait_for_view("").await;
    registry.register(BrokerId(0), addr(1000), 2).await;
    registry.register(BrokerId(2), addr(1002), 1).await;
    checked.wait_for_view("0@1000:2 2@1002:1").await;
}

async fn corrupt_entry(
    registry: &dyn RegistryUnderTest,
    checked: &mut Checked,
    events: &mut DiscoveryEvents,
) {
    registry.corrupt(BrokerId(2)).await;
    checked.wait_for_view("0@1000:2").await;
    let event = next_event(events, |event| matches!(event, DiscoveryEvent::BadEntry(_))).await;
    let DiscoveryEvent::BadEntry(entry) = event else { unreachable!("it was waited for") };
    assert!(!entry.path.is_empty() && !entry.reason.is_empty(), "{entry:?}");
    registry.register(BrokerId(2), addr(1002), 3).await;
    checked.wait_for_view("0@1000:2 2@1002:3").await;
}

async fn slow_registry(registry: &dyn RegistryUnderTest, discovery: &dyn Discovery, checked: &mut Checked) {
    registry.slow_down(SLOW_RESPONSE);
    let (watched, absent) = (topic(), Topic::new("absent").expect("the name of a topic"));
    registry.register(BrokerId(2), addr(1002), 4).await;
    let (watched, absent, ()) = tokio::join!(
        discovery.watch(&watched),
        discovery.watch(&absent),
        checked.wait_for_view("0@1000:2 2@1002:4")
    );
    let watched = text(&watched.expect("a slow registry can be read").current());
    assert!(
        ["0@1000:2 2@1002:3", "0@1000:2 2@1002:4"].contains(&&*watched),
        "a first view is complete: {watched:?}"
    );
    assert!(absent.expect("a slow registry can be read").current().is_empty());
    registry.slow_down(Duration::ZERO);
    registry.register(BrokerId(2), addr(1002), 3).await;
    checked.wait_for_view("0@1000:2 2@1002:3").await;
}

async fn outage(
    registry: &dyn RegistryUnderTest,
    discovery: &dyn Discovery,
    checked: &mut Checked,
    events: &mut DiscoveryEvents,
) {
    let mut seen = checked.watch.clone();
    let observer = tokio::spawn(async move {
        while let Ok(view) = seen.changed().await {
            assert!(!view.is_empty(), "trouble with the registry never empties a view");
        }
    });
    registry.disconnect().await;
    next_event(events, |event| *event == DiscoveryEvent::Lost).await;
    let lost = Instant::now();
    assert_eq!(text(&checked.watch.current()), "0@1000:2 2@1002:3", "the view holds");
    let watched = topic();
    let (watched, ()) = tokio::join!(discovery.watch(&watched), async {
        registry.register(BrokerId(3), addr(1003), 1).await;
        registry.unregister(BrokerId(2)).await;
        registry.reconnect().await;
    });
    match watched {
        Ok(watch) => assert!(!watch.current().is_empty(), "a first view is complete or none"),
        Err(error) => assert_eq!(error.kind(), DiscoveryErrorKind::Unreachable, "{error}"),
    }
    checked.wait_for_view("0@1000:2 3@1003:1").await;
    next_event(events, |event| *event == DiscoveryEvent::Connected).await;
    assert!(checked.watch.current().age() < lost.elapsed(), "it was read again");
    assert!(!observer.is_finished(), "what observed the views has failed");
    observer.abort();
}

/// Dropped watches leave no task behind.
async fn dropped_watches(discovery: &dyn Discovery) {
    let before = Tasks::now();
    for _ in 0..50 {
        discovery.watch(&topic()).await.expect("the topic can be watched");
    }
    before.wait_until_none_left().await;
}

async fn closing(registry: &dyn RegistryUnderTest, discovery: &dyn Discovery, mut watch: TopicWatch) {
    let waiting = tokio::spawn(async move {
        loop {
            if let Err(error) = watch.changed().await {
                return (error.kind(), text(&watch.current()));
            }
        }
    });
    tokio::task::yield_now().await;
    discovery.close().await;
    discovery.close().await;
    let end =
        timeout(TIMEOUT, waiting).await.expect("the waiting task sees the end").expect("without a panic");
    assert_eq!(end, (DiscoveryErrorKind::Closed, "0@1000:2 3@1003:1".to_owned()), "the last view stays");
    let refused = discovery.watch(&topic()).await.expect_err("nothing is watched after the end");
    assert_eq!(refused.kind(), DiscoveryErrorKind::Closed);
    let other = registry.discovery();
    let watch = other.watch(&topic()).await.expect("another discovery isn't closed by that");
    assert_eq!(text(&watch.current()), "0@1000:2 3@1003:1");
}

fn addr(port: u16) -> BrokerAddr {
    BrokerAddr::new("127.0.0.1", port).expect("the address of a broker")
}

/// Waits until the view is as wanted. Returns the time by which timers were late meanwhile.
async fn wait_for_view(watch: &mut TopicWatch, wanted: &str) -> Duration {
    match reach(watch, wanted).await {
        Some(late) => late,
        None => panic!("the view is {:?}, not {wanted:?}", text(&watch.current())),
    }
}

async fn next_event(
    events: &mut DiscoveryEvents,
    wanted: impl Fn(&DiscoveryEvent) -> bool,
) -> DiscoveryEvent {
    let found = timeout(TIMEOUT, async {
        loop {
            let event = events.next().await.expect("the events go on");
            if wanted(&event) {
                return event;
            }
        }
    });
    found.await.expect("the event arrives")
}
