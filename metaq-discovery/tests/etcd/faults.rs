//! Faults of the server and of the connection to it. No view may become empty, the view must be correct
//! within two seconds after the registry is back, and no task may remain.

use std::time::Duration;

use metaq_discovery::{
    BrokerId, Discovery, DiscoveryError, DiscoveryEvents, EtcdConfig, EtcdDiscovery, TopicWatch,
};
use metaq_testkit::{
    conformance::{Observer, RegistryUnderTest as _, Tasks, on_own_runtime, text, topic},
    peers::EtcdProgram,
    proxy::{Direction, OnConnect, Plan, Proxy},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    log::Log,
    registry::{Registry, TIMEOUT, addr},
};

/// A server, a proxy that can inject faults, and a topic with the broker 0 that is followed through the
/// proxy.
struct Fixture {
    registry: Registry,
    proxy: Proxy,
    discovery: EtcdDiscovery,
    watch: TopicWatch,
    observer: Observer,
    tasks: Tasks,
}

impl Fixture {
    async fn open(program: &EtcdProgram, config: EtcdConfig) -> Self {
        let registry = Registry::start(program).await;
        registry.register(BrokerId(0), addr(1000), 1).await;
        let proxy = on_own_runtime(Proxy::start(registry.endpoint.clone())).await.unwrap();
        let tasks = Tasks::now();
        let discovery = EtcdDiscovery::with_config(&proxy.addr().to_string(), config).unwrap();
        let watch = discovery.watch(&topic()).await.unwrap();
        let observer = Observer::new(&discovery, &watch);
        Self { registry, proxy, discovery, watch, observer, tasks }
    }

    /// Checks that the topic is still followed, and that no task remains afterwards.
    async fn close(mut self) {
        self.registry.register(BrokerId(7), addr(1007), 7).await;
        let written = Instant::now();
        while text(&self.watch.current()).split(' ').all(|broker| broker != "7@1007:7") {
            assert!(written.elapsed() < TIMEOUT, "it isn't followed: {}", text(&self.watch.current()));
            self.watch.changed().await.unwrap();
        }
        self.observer.take_events();
        self.discovery.close().await;
        self.tasks.wait_until_none_left().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_followed_after_its_restart() {
    let Some(program) = EtcdProgram::get("a_killed_server_is_followed_after_its_restart") else { return };
    let mut fixture = Fixture::open(&program, EtcdConfig::default()).await;
    fixture.registry.etcd.lock().await.kill().await.unwrap();
    fixture.observer.wait_for_event("lost").await;
    fixture.registry.etcd.lock().await.restart().await.unwrap();
    let back = Instant::now();
    fixture.registry.register(BrokerId(1), addr(1001), 1).await;
    let took = fixture.observer.wait_for_view("0@1000:1 1@1001:1", back).await;
    println!("a change was seen {took:?} after the server was back");
    assert!(fixture.observer.take_events().contains(&"connected".to_owned()));
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_during_a_ten_second_outage_are_found() {
    let Some(program) = EtcdProgram::get("changes_during_a_ten_second_outage_are_found") else {
        return;
    };
    let mut fixture = Fixture::open(&program, EtcdConfig::default()).await;
    fixture.proxy.on_connect(OnConnect::Refuse).await.unwrap();
    fixture.proxy.reset_all();
    for port in 3001..3010 {
        fixture.registry.register(BrokerId(1), addr(port), 2).await;
        fixture.registry.unregister(BrokerId(1)).await;
    }
    fixture.registry.register(BrokerId(2), addr(1002), 1).await;
    fixture.registry.register(BrokerId(0), addr(2000), 1).await;
    fixture.observer.wait_for_event("lost").await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(text(&fixture.watch.current()), "0@1000:1", "the view holds");
    assert!(fixture.watch.current().age() >= Duration::from_secs(10), "it says how old it is");
    fixture.proxy.on_connect(OnConnect::Forward).await.unwrap();
    let took = fixture.observer.wait_for_view("0@2000:1 2@1002:1", Instant::now()).await;
    println!("all changes were seen {took:?} after 10 s without");
    assert!(fixture.watch.current().age() < Duration::from_secs(2));
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_is_detected_and_left() {
    let Some(program) = EtcdProgram::get("a_black_hole_is_detected_and_left") else { return };
    // Data sent into the outage is delivered late, as after a retransmission, or lost.
    let mut lost = EtcdConfig::default();
    (lost.keep_alive, lost.call_timeout) = (Duration::from_secs(1), Duration::from_secs(1));
    let holes = [
        ("holds bytes back", EtcdConfig::default(), Plan::new().freeze()),
        ("swallows bytes", lost, Plan::new().swallow()),
    ];
    let holes = holes.map(async |(which, config, plan)| {
        let limit = config.keep_alive + config.call_timeout + Duration::from_secs(1);
        let mut fixture = Fixture::open(&program, config).await;
        fixture.proxy.plan_both(plan);
        fixture.registry.register(BrokerId(1), addr(1001), 1).await;
        let noticed = fixture.observer.wait_for_event("lost").await;
        assert!(noticed < limit, "noticed after {noticed:?}");
        assert_eq!(text(&fixture.watch.current()), "0@1000:1", "the view holds");
        // Long enough for further attempts, which fail.
        sleep(Duration::from_secs(4)).await;
        fixture.proxy.plan_both(Plan::new());
        let took = fixture.observer.wait_for_view("0@1000:1 1@1001:1", Instant::now()).await;
        println!("a black hole that {which} was noticed after {noticed:?}, over it {took:?} after its end");
        fixture.close().await;
    });
    futures_util::future::join_all(holes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_detected_and_followed_again() {
    let Some(program) = EtcdProgram::get("a_silent_server_is_detected_and_followed_again") else {
        return;
    };
    let mut config = EtcdConfig::default();
    config.keep_alive = Duration::from_secs(1);
    let mut fixture = Fixture::open(&program, config).await;
    fixture.registry.etcd.lock().await.freeze();
    let noticed = fixture.observer.wait_for_event("lost").await;
    fixture.registry.etcd.lock().await.thaw();
    let thawed = Instant::now();
    fixture.registry.register(BrokerId(1), addr(1001), 1).await;
    let seen = fixture.observer.wait_for_view("0@1000:1 1@1001:1", thawed).await;
    println!("its silence was noticed after {noticed:?}, a change seen {seen:?} after it spoke again");
    fixture.close().await;
}

/// etcd closes connections that send keep-alive pings too often.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_kept() {
    let Some(program) = EtcdProgram::get("an_idle_connection_is_kept") else { return };
    let mut fixture = Fixture::open(&program, EtcdConfig::default()).await;
    let connections = fixture.proxy.accepted();
    sleep(4 * EtcdConfig::default().keep_alive).await;
    assert_eq!(fixture.proxy.accepted(), connections);
    let reported = fixture.observer.take_events();
    assert!(!reported.contains(&"lost".to_owned()), "{reported:?}");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeatedly_broken_connections_leave_nothing_behind() {
    let Some(program) = EtcdProgram::get("repeatedly_broken_connections_leave_nothing_behind") else {
        return;
    };
    let mut fixture = Fixture::open(&program, EtcdConfig::default()).await;
    for round in 1..=15 {
        fixture.proxy.reset_all();
        fixture.registry.register(BrokerId(0), addr(1000 + round), 1).await;
        fixture.observer.wait_for_view(&format!("0@{}:1", 1000 + round), Instant::now()).await;
    }
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_compacted_during_an_outage_are_not_needed() {
    let Some(program) = EtcdProgram::get("changes_compacted_during_an_outage_are_not_needed") else {
        return;
    };
    let mut fixture = Fixture::open(&program, EtcdConfig::default()).await;
    fixture.proxy.on_connect(OnConnect::Refuse).await.unwrap();
    fixture.proxy.reset_all();
    fixture.registry.register(BrokerId(1), addr(1001), 1).await;
    fixture.registry.unregister(BrokerId(0)).await;
    fixture.registry.compact().await;
    fixture.registry.register(BrokerId(2), addr(1002), 1).await;
    fixture.proxy.on_connect(OnConnect::Forward).await.unwrap();
    let took = fixture.observer.wait_for_view("1@1001:1 2@1002:1", Instant::now()).await;
    println!("what was left after the compaction was seen after {took:?}");
    fixture.close().await;
}

/// A discovery that has read the registry, with the broker 0, and whose request to watch from the next
/// revision on is held back.
pub(crate) struct AboutToWatch {
    discovery: EtcdDiscovery,
    pub(crate) events: DiscoveryEvents,
    proxy: Proxy,
    opening: JoinHandle<Result<TopicWatch, DiscoveryError>>,
}

/// The time after which a call that isn't answered is given up, and a connection that is silent.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(10);

impl AboutToWatch {
    pub(crate) async fn open(registry: &Registry) -> Self {
        registry.register(BrokerId(0), addr(1000), 1).await;
        // Large enough to be recognized when the response passes, and small enough to need no flow-control
        // update.
        registry.apply("/meta/brokers/ballast".to_owned(), Some("x".repeat(20_000))).await;
        let proxy = on_own_runtime(Proxy::start(registry.endpoint.clone())).await.unwrap();
        // The delay of the watch request leaves time to stop it.
        proxy.plan(Direction::ToServer, Plan::new().delay(Duration::from_secs(1)));
        let mut config = EtcdConfig::default();
        config.call_timeout = GIVEN_UP_AFTER;
        config.keep_alive = GIVEN_UP_AFTER;
        let discovery = EtcdDiscovery::with_config(&proxy.addr().to_string(), config).unwrap();
        let events = discovery.events();
        let opening = tokio::spawn({
            let discovery = discovery.clone();
            async move { discovery.watch(&topic()).await }
        });
        let read = async {
            while proxy.forwarded(Direction::ToClient) < 20_000 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TIMEOUT, read).await.expect("the registry is read");
        proxy.plan(Direction::ToServer, Plan::new().freeze());
        Self { discovery, events, proxy, opening }
    }

    /// Lets the request pass. The view must be correct before a call or a silent connection would be given
    /// up, and remain followed, without any event of an outage.
    pub(crate) async fn goes_on(mut self, registry: &Registry, wanted: &str) {
        assert!(!self.opening.is_finished(), "it waits for its watch");
        self.proxy.plan(Direction::ToServer, Plan::new());
        let thawed = Instant::now();
        let mut watch = timeout(TIMEOUT, self.opening).await.unwrap().unwrap().unwrap();
        while text(&watch.current()) != wanted {
            timeout(TIMEOUT, watch.changed()).await.expect("what is there now is seen").unwrap();
        }
        assert!(thawed.elapsed() < GIVEN_UP_AFTER, "{:?}", thawed.elapsed());
        registry.register(BrokerId(9), addr(1009), 1).await;
        while text(&watch.current()) != format!("{wanted} 9@1009:1") {
            timeout(TIMEOUT, watch.changed()).await.expect("it is followed").unwrap();
        }
        // The registry was never reported as lost.
        assert_eq!(self.events.next().await.unwrap().to_string(), "connected");
        self.discovery.close().await;
        drop(self.discovery);
        while let Some(event) = self.events.next().await {
            assert_ne!(event.to_string(), "lost");
        }
    }
}

/// The only moment in which a compaction matters: after the registry was read, and before the watch from the
/// next revision on. Single-threaded, so that the log of this thread is complete.
#[tokio::test]
async fn a_compaction_between_read_and_watch_is_detected() {
    let Some(program) = EtcdProgram::get("a_compaction_between_read_and_watch_is_detected") else {
        return;
    };
    let log = Log::default();
    let _logging = log.listen();
    let registry = Registry::start(&program).await;
    let about_to_watch = AboutToWatch::open(&registry).await;
    registry.register(BrokerId(1), addr(1001), 1).await;
    registry.unregister(BrokerId(0)).await;
    registry.compact().await;
    about_to_watch.goes_on(&registry, "1@1001:1").await;
    let forgotten = "etcd forgot changes that were to come; all is read anew";
    assert_eq!(log.count(forgotten), 1, "the watch was canceled");
}

/// A change and the end of the connection arrive together: the only thread of this runtime is blocked
/// meanwhile.
#[tokio::test]
async fn changes_received_before_the_end_are_applied() {
    let Some(program) = EtcdProgram::get("changes_received_before_the_end_are_applied") else { return };
    let (registry, proxy) = on_own_runtime({
        let program = program.clone();
        async move {
            let registry = Registry::start(&program).await;
            registry.register(BrokerId(0), addr(1000), 1).await;
            let proxy = Proxy::start(registry.endpoint.clone()).await.unwrap();
            (registry, proxy)
        }
    })
    .await;
    let discovery = EtcdDiscovery::new(&proxy.addr().to_string()).unwrap();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    // The watch has begun when the first change is visible.
    registry.register(BrokerId(0), addr(1000), 2).await;
    ports_and_partitions(&mut watch, "0@1000:2").await;
    proxy.on_connect(OnConnect::Refuse).await.unwrap();
    let forwarded = proxy.forwarded(Direction::ToClient);
    let written = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut client = etcd_client::Client::connect([&registry.endpoint], None).await.unwrap();
                let child = format!("/meta/brokers/topics-pub/{}/0-m", topic());
                client.put(child, r#"{"numParts":3}"#, None).await.unwrap();
                while proxy.forwarded(Direction::ToClient) == forwarded {
                    tokio::task::yield_now().await;
                }
                proxy.close_all();
                while proxy.open() > 0 {
                    tokio::task::yield_now().await;
                }
            });
        });
        writing.join()
    });
    written.unwrap();
    ports_and_partitions(&mut watch, "0@1000:3").await;
    discovery.close().await;
}

async fn ports_and_partitions(watch: &mut TopicWatch, wanted: &str) {
    while text(&watch.current()) != wanted {
        timeout(TIMEOUT, watch.changed()).await.expect("it is seen").unwrap();
    }
}
