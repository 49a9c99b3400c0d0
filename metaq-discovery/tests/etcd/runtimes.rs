//! One discovery on several runtimes, and a panic of the task that follows the keys.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, mpsc},
    task::{Context, Wake, Waker},
    time::Duration,
};

use futures_util::FutureExt as _;
use metaq_discovery::{
    BrokerId, Discovery, DiscoveryErrorKind, EtcdConfig, EtcdDiscovery, TopicView, TopicWatch,
};
use metaq_testkit::{
    conformance::{RegistryUnderTest as _, topic},
    peers::EtcdProgram,
    proxy::{OnConnect, Proxy},
};
use tokio::{
    runtime::Builder,
    time::{Instant, sleep, timeout},
};

use crate::registry::{Registry, TIMEOUT, addr};

fn partitions(view: &TopicView) -> u32 {
    view.brokers().iter().filter_map(|broker| broker.partitions).sum()
}

async fn becomes(watch: &mut TopicWatch, wanted: u32) {
    let reached = async {
        while partitions(&watch.current()) != wanted {
            watch.changed().await.unwrap();
        }
    };
    timeout(TIMEOUT, reached).await.unwrap_or_else(|_| panic!("the view is {:?}", watch.current()));
}

#[test]
fn a_discovery_continues_over_three_runtimes() {
    let Some(program) = EtcdProgram::get("a_discovery_continues_over_three_runtimes") else { return };
    // The server and the writers run on a runtime that stays.
    let outside = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let registry = Arc::new(outside.block_on(Registry::start(&program)));
    let write = |count: u32| {
        let registry = Arc::clone(&registry);
        outside.spawn(async move { registry.register(BrokerId(0), addr(1000), count).await })
    };
    let discovery = EtcdDiscovery::new(&registry.endpoint).unwrap();
    let mut watches = Vec::new();
    for count in 1..=4 {
        let mut builder =
            if count == 2 { Builder::new_multi_thread() } else { Builder::new_current_thread() };
        builder.enable_all().build().unwrap().block_on(async {
            write(count).await.unwrap();
            // In every other round the old watches are used first: nothing else has started the task then.
            if count % 2 == 0 {
                for watch in &mut watches {
                    becomes(watch, count).await;
                }
            }
            let mut watch = discovery.watch(&topic()).await.unwrap();
            assert_eq!(discovery.topics().await.unwrap(), [topic()]);
            becomes(&mut watch, count).await;
            watches.push(watch);
            for watch in &mut watches {
                becomes(watch, count).await;
            }
        });
    }
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        discovery.close().await;
        for watch in &mut watches {
            let error = loop {
                if let Err(error) = watch.changed().await {
                    break error;
                }
            };
            assert_eq!(error.kind(), DiscoveryErrorKind::Closed);
        }
    });
    let _entered = outside.enter();
    drop(registry);
}

/// A call on one runtime waits for a task on another one.
#[test]
fn a_waiting_call_survives_the_end_of_the_followers_runtime() {
    let Some(program) = EtcdProgram::get("a_waiting_call_survives_the_end_of_the_followers_runtime") else {
        return;
    };
    let [outside, first, second] =
        [(); 3].map(|()| Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());
    let registry = outside.block_on(Registry::start(&program));
    outside.block_on(registry.register(BrokerId(0), addr(1000), 3));
    let proxy = outside.block_on(Proxy::start(registry.endpoint.clone())).unwrap();
    outside.block_on(proxy.on_connect(OnConnect::Refuse)).unwrap();
    let mut config = EtcdConfig::default();
    config.connect_timeout = TIMEOUT * 3;
    let discovery = EtcdDiscovery::with_config(&proxy.addr().to_string(), config).unwrap();
    let watching = || {
        let discovery = discovery.clone();
        let (begun, waits) = mpsc::channel();
        let watching = async move {
            let topic = topic();
            let mut watching = discovery.watch(&topic);
            assert!(watching.as_mut().now_or_never().is_none());
            begun.send(()).unwrap();
            watching.await.map(|watch| partitions(&watch.current()))
        };
        (watching, waits)
    };
    let (watching_first, waits_first) = watching();
    first.spawn(watching_first);
    waits_first.recv().unwrap();
    let (watching_second, waits_second) = watching();
    let waiting = second.spawn(watching_second);
    waits_second.recv().unwrap();
    drop(first);
    outside.block_on(proxy.on_connect(OnConnect::Forward)).unwrap();
    let seen = outside.block_on(async { timeout(TIMEOUT, waiting).await });
    assert_eq!(seen.expect("it is followed").unwrap().unwrap(), 3);
    let _entered = outside.enter();
    drop((registry, proxy));
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker panics");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_panic_does_not_end_the_following_task() {
    let Some(program) = EtcdProgram::get("a_panic_does_not_end_the_following_task") else { return };
    let registry = Registry::start(&program).await;
    registry.register(BrokerId(0), addr(1000), 1).await;
    let discovery = EtcdDiscovery::new(&registry.endpoint).unwrap();
    let mut panicking = discovery.watch(&topic()).await.unwrap();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    let waker = Waker::from(Arc::new(Panics));
    for count in 2..5 {
        loop {
            let mut changed = pin!(panicking.changed());
            if changed.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                continue;
            }
            registry.register(BrokerId(0), addr(1000), count).await;
            becomes(&mut watch, count).await;
            break;
        }
    }
}

/// The following task reports faults that have lasted, and wakes foreign wakers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panicking_waker_of_a_bad_entry_is_contained() {
    let Some(program) = EtcdProgram::get("a_panicking_waker_of_a_bad_entry_is_contained") else {
        return;
    };
    let registry = Registry::start(&program).await;
    registry.register(BrokerId(0), addr(1000), 1).await;
    let child = format!("/meta/brokers/topics-pub/{}/1-m", topic());
    registry.apply(child, Some(r#"{"numParts":1}"#.to_owned())).await;
    let mut config = EtcdConfig::default();
    // Servers close connections that are pinged often while idle.
    (config.keep_alive, config.reread_interval) = (TIMEOUT, Duration::from_millis(300));
    let discovery = EtcdDiscovery::with_config(&registry.endpoint, config).unwrap();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    let (mut panicking, mut events) = (discovery.events(), discovery.events());
    let waker = Waker::from(Arc::new(Panics));
    while let Some(Some(_)) = panicking.next().now_or_never() {}
    let mut next = pin!(panicking.next());
    assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let (mut reported, started) = (Vec::new(), Instant::now());
    while reported.last().is_none_or(|event: &String| !event.starts_with("bad entry")) {
        assert!(started.elapsed() < TIMEOUT, "it is reported: {reported:?}");
        // Not awaited: tokio wakes no further task after a waker that panics.
        reported.extend(events.next().now_or_never().flatten().map(|event| event.to_string()));
        sleep(Duration::from_millis(5)).await;
    }
    registry.register(BrokerId(0), addr(1000), 3).await;
    becomes(&mut watch, 3).await;
    while let Some(Some(event)) = events.next().now_or_never() {
        reported.push(event.to_string());
    }
    assert!(!reported.contains(&"lost".to_owned()), "{reported:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn extreme_settings_follow_a_registry() {
    let Some(program) = EtcdProgram::get("extreme_settings_follow_a_registry") else { return };
    let registry = Registry::start(&program).await;
    let settings: [fn(&mut EtcdConfig) -> &mut Duration; 4] = [
        |config| &mut config.connect_timeout,
        |config| &mut config.call_timeout,
        |config| &mut config.keep_alive,
        |config| &mut config.reread_interval,
    ];
    let (second, longest) = (Duration::from_secs(1), Duration::from_secs(u64::from(u32::MAX)));
    let mut count = 1;
    for (number, setting) in (0..).zip(settings) {
        for duration in [Duration::from_nanos(1), second, longest, Duration::MAX] {
            // With so short a limit, a response may not arrive in time.
            if duration < second && number < 3 {
                continue;
            }
            registry.register(BrokerId(0), addr(1000), count).await;
            let mut config = EtcdConfig::default();
            *setting(&mut config) = duration;
            let discovery = EtcdDiscovery::with_config(&registry.endpoint, config).unwrap();
            let mut watch = discovery.watch(&topic()).await.unwrap();
            count += 1;
            registry.register(BrokerId(0), addr(1000), count).await;
            becomes(&mut watch, count).await;
            discovery.close().await;
        }
    }
}
