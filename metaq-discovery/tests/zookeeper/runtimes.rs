//! One discovery on several runtimes, panics on its tasks, and sessions that stop without notice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use metaq_discovery::{Discovery, DiscoveryErrorKind, RegistryState, ZooKeeperConfig, ZooKeeperDiscovery};
use metaq_testkit::{
    conformance::Tasks,
    peers::{Peers, ZooKeeper},
};
use tokio::{
    runtime::{Builder, Runtime},
    time::{Instant, sleep, timeout},
};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt as _};

use crate::registry::{Registry, TIMEOUT, becomes, discovery, text, topic};

/// Runtimes of both kinds.
fn runtimes() -> Vec<Runtime> {
    let mut builders =
        [Builder::new_current_thread(), Builder::new_multi_thread(), Builder::new_current_thread()];
    builders.iter_mut().map(|builder| builder.enable_all().build().unwrap()).collect()
}

/// A server and a client that writes to it, on a runtime that stays.
struct Outside {
    runtime: Runtime,
    zookeeper: Option<ZooKeeper>,
    registry: Arc<Registry>,
}

impl Outside {
    fn start(peers: &Peers) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (zookeeper, registry) = runtime.block_on(async {
            let zookeeper = ZooKeeper::start(peers).await.unwrap();
            let registry = Registry::open(&zookeeper).await;
            registry.register(0, 1000, 1).await;
            (Some(zookeeper), Arc::new(registry))
        });
        Self { runtime, zookeeper, registry }
    }

    fn discovery(&self, session_timeout: Duration) -> ZooKeeperDiscovery {
        discovery(self.zookeeper.as_ref().unwrap(), session_timeout)
    }

    /// Moves the broker, on the separate runtime.
    async fn move_to(&self, port: u16) {
        let registry = Arc::clone(&self.registry);
        self.runtime.spawn(async move { registry.register(0, port, 1).await }).await.unwrap();
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _entered = self.runtime.enter();
        self.zookeeper.take();
    }
}

#[test]
fn a_discovery_continues_over_three_runtimes() {
    let Some(peers) = Peers::get("a_discovery_continues_over_three_runtimes") else { return };
    let outside = Outside::start(&peers);
    let discovery = outside.discovery(Duration::from_secs(6));
    let mut watches = Vec::new();
    // In every other round the watches of former runtimes are used first: nothing else has opened a session
    // then.
    for (round, runtime) in (1..).zip(runtimes().into_iter().chain(runtimes())) {
        runtime.block_on(async {
            outside.move_to(1000 + round).await;
            let wanted = format!("0@{}:1", 1000 + round);
            if round % 2 == 0 {
                for watch in &mut watches {
                    becomes(watch, &wanted).await;
                }
            }
            let started = Instant::now();
            let watch = discovery.watch(&topic()).await.unwrap();
            assert!(started.elapsed() < TIMEOUT / 2, "{:?}", started.elapsed());
            assert_eq!(text(&watch.current()), wanted);
            assert_eq!(discovery.topics().await.unwrap(), [topic()]);
            watches.push(watch);
            for watch in &mut watches {
                becomes(watch, &wanted).await;
            }
            assert_eq!(discovery.events().registry().0, RegistryState::Connected);
        });
        drop(runtime);
        // The session has ended with it.
        assert_eq!(discovery.events().registry().0, RegistryState::Lost);
    }
    let runtime = &runtimes()[0];
    // On a runtime that has never followed it.
    runtime.block_on(async {
        timeout(TIMEOUT, discovery.close()).await.unwrap();
        for watch in &mut watches {
            // The last view may not have been returned yet.
            let end = loop {
                if let Err(end) = watch.changed().await {
                    break end;
                }
            };
            assert_eq!(end.kind(), DiscoveryErrorKind::Closed);
        }
    });
}

#[test]
fn a_topic_survives_the_end_of_the_sessions_runtime() {
    let Some(peers) = Peers::get("a_topic_survives_the_end_of_the_sessions_runtime") else {
        return;
    };
    let outer = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    outer.block_on(async {
        let zookeeper = ZooKeeper::start(&peers).await.unwrap();
        let registry = Registry::open(&zookeeper).await;
        registry.register(0, 1000, 1).await;
        let discovery = discovery(&zookeeper, Duration::from_secs(20));
        let first = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let opening = discovery.clone();
        let elsewhere = first.spawn(async move { opening.watch(&topic()).await }).await.unwrap().unwrap();
        // This topic is followed here, with the session of the other runtime.
        let mut watch = discovery.watch(&topic()).await.unwrap();
        first.shutdown_background();
        for round in 1..4 {
            registry.register(0, 1000 + round, 1).await;
            becomes(&mut watch, &format!("0@{}:1", 1000 + round)).await;
        }
        becomes(&mut elsewhere.clone(), "0@1003:1").await;
        discovery.close().await;
    });
}

/// Panics at a number of events whose target begins with a text.
struct Panics {
    target: &'static str,
    left: Arc<AtomicUsize>,
    seen: Arc<AtomicUsize>,
}

impl<S: tracing::Subscriber> Layer<S> for Panics {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with(self.target) {
            self.seen.fetch_add(1, Ordering::Relaxed);
            let take = |left: usize| left.checked_sub(1);
            if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                panic!("a subscriber panics at {}", event.metadata().target());
            }
        }
    }
}

#[test]
fn a_panicking_subscriber_stops_nothing() {
    let Some(peers) = Peers::get("a_panicking_subscriber_stops_nothing") else { return };
    let outside = Outside::start(&peers);
    let mut port = 1000;
    // Every event of our own, and those of the client library on the task of its session.
    for (target, panics) in
        [("metaq_discovery", usize::MAX), ("zookeeper_client", 1), ("zookeeper_client", 3)]
    {
        let (left, seen) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        left.store(panics, Ordering::Relaxed);
        let layer = Panics { target, left: Arc::clone(&left), seen: Arc::clone(&seen) };
        let _default = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let tasks = Tasks::now();
            let discovery = outside.discovery(Duration::from_secs(6));
            let mut watch = discovery.watch(&topic()).await.unwrap();
            for _ in 0..3 {
                port += 1;
                outside.move_to(port).await;
                becomes(&mut watch, &format!("0@{port}:1")).await;
                left.store(panics, Ordering::Relaxed);
                // The next recorded event: a response, the end of a session, or a new connection.
                let since = Instant::now();
                while target == "zookeeper_client" && left.load(Ordering::Relaxed) > 0 {
                    assert!(since.elapsed() < TIMEOUT, "{} panics are left", left.load(Ordering::Relaxed));
                    let _ = discovery.topics().await;
                    sleep(Duration::from_millis(10)).await;
                }
            }
            assert!(seen.load(Ordering::Relaxed) > 0, "{target}");
            left.store(0, Ordering::Relaxed);
            discovery.close().await;
            drop((watch, discovery));
            tasks.wait_until_none_left().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn extreme_settings_follow_a_registry() {
    let Some(peers) = Peers::get("extreme_settings_follow_a_registry") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    registry.register(0, 1000, 1).await;
    let settings: [fn(&mut ZooKeeperConfig) -> &mut Duration; 5] = [
        |config| &mut config.session_timeout,
        |config| &mut config.connect_timeout,
        |config| &mut config.silence_timeout,
        |config| &mut config.call_timeout,
        |config| &mut config.reread_interval,
    ];
    let (second, longest) = (Duration::from_secs(1), Duration::from_secs(u64::from(u32::MAX)));
    let mut port = 1000;
    for (number, setting) in (0..).zip(settings) {
        for duration in [Duration::from_nanos(1), second, longest, Duration::MAX] {
            // With so short a limit, a response may not arrive in time.
            if duration < second && (number == 1 || number == 3) {
                continue;
            }
            let mut config = ZooKeeperConfig::default();
            *setting(&mut config) = duration;
            let discovery = ZooKeeperDiscovery::with_config(&zookeeper.connect_string(), config).unwrap();
            let mut watch = discovery.watch(&topic()).await.unwrap();
            port += 1;
            registry.register(0, port, 1).await;
            becomes(&mut watch, &format!("0@{port}:1")).await;
            discovery.close().await;
        }
    }
}
