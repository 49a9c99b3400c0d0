//! [`ZooKeeperDiscovery`] against a real ZooKeeper server. The nodes are made as a real broker makes them.
#![cfg(feature = "zookeeper")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use metaq_discovery::{
    BrokerAddr, BrokerId, Credentials, Discovery, DiscoveryErrorKind, DiscoveryEvents, Topic, TopicView,
    TopicWatch, ZooKeeperConfig, ZooKeeperDiscovery,
};
use metaq_testkit::{
    conformance::{self, RegistryUnderTest},
    peers::{Peers, ZooKeeper},
};
use tokio::time::{Instant, timeout};
use zookeeper_client::{Acls, Client, CreateMode};

const PATIENCE: Duration = Duration::from_secs(10);

/// The registry as brokers write it.
struct Registry {
    client: Client,
    topic: Topic,
}

impl Registry {
    async fn open(zookeeper: &ZooKeeper) -> Self {
        Self::open_for(zookeeper, topic()).await
    }

    async fn open_for(zookeeper: &ZooKeeper, topic: Topic) -> Self {
        let client = timeout(PATIENCE, Client::connect(&zookeeper.connect_string())).await.unwrap().unwrap();
        let registry = Self { client, topic };
        registry.mkdir(&format!("/meta/brokers/topics-pub/{}", registry.topic)).await;
        registry
    }

    async fn mkdir(&self, path: &str) {
        self.client.mkdir(path, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await.unwrap();
    }

    /// Registers a broker; the address comes first, as with a real one (B-31).
    async fn register(&self, id: i32, port: u16, partitions: u32) {
        self.address(id, &format!("meta://127.0.0.1:{port}")).await;
        self.offer(id, partitions).await;
    }

    async fn address(&self, id: i32, data: &str) {
        self.mkdir(&format!("/meta/brokers/ids/{id}")).await;
        self.write(&format!("/meta/brokers/ids/{id}/master"), data).await;
    }

    async fn offer(&self, id: i32, partitions: u32) {
        let data = format!(r#"{{"broker":"{id}-m","numParts":{partitions}}}"#);
        self.write(&format!("/meta/brokers/topics-pub/{}/{id}-m", self.topic), &data).await;
    }

    /// Takes a broker's nodes out in the order in which a real one does.
    async fn unregister(&self, id: i32) {
        self.delete(&format!("/meta/brokers/ids/{id}/master")).await;
        self.delete(&format!("/meta/brokers/topics-pub/{}/{id}-m", self.topic)).await;
    }

    async fn write(&self, path: &str, data: &str) {
        if self.client.set_data(path, data.as_bytes(), None).await.is_err() {
            let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
            self.client.create(path, data.as_bytes(), &options).await.unwrap();
        }
    }

    async fn delete(&self, path: &str) {
        self.client.delete(path, None).await.unwrap();
    }
}

fn topic() -> Topic {
    Topic::new("t").unwrap()
}

fn discovery(zookeeper: &ZooKeeper, session_timeout: Duration) -> ZooKeeperDiscovery {
    let mut config = ZooKeeperConfig::default();
    config.session_timeout = session_timeout;
    ZooKeeperDiscovery::with_config(&zookeeper.connect_string(), config).unwrap()
}

/// The registry of a server as the conformance suite changes it. A killed server loses nothing.
struct Conforming {
    server: tokio::sync::Mutex<ZooKeeper>,
    connect_string: String,
    registry: Registry,
    /// What is to be done when the server is back.
    later: Mutex<Option<Vec<Change>>>,
}

enum Change {
    Register(BrokerId, BrokerAddr, u32),
    Unregister(BrokerId),
}

impl Conforming {
    async fn change(&self, change: Change) {
        if let Some(later) = &mut *self.later.lock().unwrap() {
            return later.push(change);
        }
        self.apply(change).await;
    }

    async fn apply(&self, change: Change) {
        match change {
            Change::Register(id, addr, partitions) => {
                self.registry.address(id.0, &addr.to_string()).await;
                self.registry.offer(id.0, partitions).await;
            }
            Change::Unregister(id) => self.registry.unregister(id.0).await,
        }
    }
}

#[async_trait]
impl RegistryUnderTest for Conforming {
    fn discovery(&self) -> Arc<dyn Discovery> {
        Arc::new(ZooKeeperDiscovery::new(&self.connect_string).unwrap())
    }

    async fn register(&self, broker: BrokerId, addr: BrokerAddr, partitions: u32) {
        self.change(Change::Register(broker, addr, partitions)).await;
    }

    async fn unregister(&self, broker: BrokerId) {
        self.change(Change::Unregister(broker)).await;
    }

    async fn spoil(&self, broker: BrokerId) {
        let path = format!("/meta/brokers/topics-pub/{}/{broker}-m", self.registry.topic);
        self.registry.write(&path, r#"{"numParts":-1}"#).await;
    }

    async fn go_away(&self) {
        *self.later.lock().unwrap() = Some(Vec::new());
        self.server.lock().await.kill().await.unwrap();
    }

    async fn come_back(&self) {
        self.server.lock().await.restart().await.unwrap();
        let later = self.later.lock().unwrap().take();
        for change in later.unwrap_or_default() {
            self.apply(change).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let Some(peers) = Peers::get("keeps_the_contract") else { return };
    let server = ZooKeeper::start(&peers).await.unwrap();
    let conforming = Conforming {
        connect_string: server.connect_string(),
        registry: Registry::open_for(&server, conformance::topic()).await,
        server: tokio::sync::Mutex::new(server),
        later: Mutex::default(),
    };
    println!("the slowest change was seen after {:?}", conformance::check_discovery(&conforming).await);
}

/// A view as `id@port:partitions …`.
fn text(view: &TopicView) -> String {
    let brokers = view.brokers().iter();
    let texts = brokers.map(|b| format!("{}@{}:{}", b.id, b.addr.port(), b.partitions.unwrap()));
    texts.collect::<Vec<_>>().join(" ")
}

/// Waits until the view is as wanted; returns how long it took.
async fn becomes(watch: &mut TopicWatch, wanted: &str) -> Duration {
    let started = Instant::now();
    let reached = async {
        while text(&watch.current()) != wanted {
            watch.changed().await.unwrap();
        }
    };
    if timeout(PATIENCE, reached).await.is_err() {
        panic!("the view is {:?}, not {wanted:?}", text(&watch.current()));
    }
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_everything_that_can_change() {
    let Some(peers) = Peers::get("follows_everything_that_can_change") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    registry.register(0, 1000, 2).await;
    let discovery = discovery(&zookeeper, Duration::from_secs(6));
    let mut watch = discovery.watch(&topic()).await.unwrap();
    assert_eq!(text(&watch.current()), "0@1000:2");
    let mut slowest = Duration::ZERO;
    let mut step = async |wanted: &str| slowest = slowest.max(becomes(&mut watch, wanted).await);

    registry.register(1, 1001, 1).await;
    step("0@1000:2 1@1001:1").await;
    registry.address(0, "meta://127.0.0.1:2000").await;
    step("0@2000:2 1@1001:1").await; // K-1
    registry.offer(1, 3).await;
    step("0@2000:2 1@1001:3").await; // K-2
    registry.offer(2, 1).await;
    registry.offer(1, 4).await;
    step("0@2000:2 1@1001:4").await; // K-11: 2 has no address yet
    registry.address(2, "meta://127.0.0.1:1002").await;
    step("0@2000:2 1@1001:4 2@1002:1").await;
    registry.unregister(1).await;
    step("0@2000:2 2@1002:1").await;
    registry.register(1, 3001, 1).await;
    step("0@2000:2 1@3001:1 2@1002:1").await; // moved by being registered anew
    for port in 4001..4010 {
        registry.unregister(1).await;
        registry.register(1, port, 1).await;
    }
    step("0@2000:2 1@4009:1 2@1002:1").await;
    registry.write("/meta/brokers/topics-pub/t/2-m", "not JSON").await;
    step("0@2000:2 1@4009:1").await; // P-24, K-8
    registry.offer(2, 5).await;
    step("0@2000:2 1@4009:1 2@1002:5").await;
    for id in [0, 1, 2] {
        registry.unregister(id).await;
    }
    registry.delete("/meta/brokers/topics-pub/t").await;
    step("").await;
    registry.mkdir("/meta/brokers/topics-pub/t").await;
    registry.register(0, 1000, 1).await;
    step("0@1000:1").await;
    println!("the slowest change was seen after {slowest:?}");
    assert_eq!(discovery.topics().await.unwrap(), [topic()]);
    discovery.close().await;
    assert!(watch.changed().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_keeps_the_last_view_and_changes_made_meanwhile_are_seen() {
    let Some(peers) = Peers::get("an_outage_keeps_the_last_view_and_changes_made_meanwhile_are_seen") else {
        return;
    };
    let mut zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    registry.register(0, 1000, 1).await;
    let discovery = discovery(&zookeeper, Duration::from_secs(20));
    let mut watch = discovery.watch(&topic()).await.unwrap();
    zookeeper.kill().await.unwrap();
    zookeeper.restart().await.unwrap();
    registry.register(1, 1001, 1).await;
    becomes(&mut watch, "0@1000:1 1@1001:1").await;
    registry.unregister(0).await;
    becomes(&mut watch, "1@1001:1").await;
    registry.address(1, "meta://127.0.0.1:2001").await;
    becomes(&mut watch, "1@2001:1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_session_is_replaced_and_never_empties_a_view() {
    let Some(peers) = Peers::get("an_expired_session_is_replaced_and_never_empties_a_view") else { return };
    let mut zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    registry.register(0, 1000, 1).await;
    let discovery = discovery(&zookeeper, Duration::from_secs(1));
    let mut events = discovery.events();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    let mut seen = watch.clone();
    let observer = tokio::spawn(async move {
        while let Ok(view) = seen.changed().await {
            assert!(!view.is_empty(), "a view is never emptied by trouble with the registry");
        }
    });
    // Longer away than the session lasts: the client gives it up by itself.
    zookeeper.kill().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(text(&watch.current()), "0@1000:1");
    assert!(watch.current().age() >= Duration::from_secs(3), "it says how old it is");
    zookeeper.restart().await.unwrap();
    drop(registry);
    let registry = Registry::open(&zookeeper).await;
    registry.register(1, 1001, 2).await;
    let took = becomes(&mut watch, "0@1000:1 1@1001:2").await;
    println!("a change was seen {took:?} after the server came back with the session expired");
    registry.address(0, "meta://127.0.0.1:2000").await;
    becomes(&mut watch, "0@2000:1 1@1001:2").await;
    discovery.close().await;
    observer.await.unwrap();
    let mut told = Vec::new();
    while told.last().is_none_or(|last| *last != "view changed: t +0 -0 ~1") {
        let event = timeout(PATIENCE, events.next()).await.expect("another event is told");
        told.push(event.unwrap().to_string());
    }
    assert_eq!(
        told,
        ["connected", "lost", "expired", "connected", "view changed: t +1 -0 ~0", "view changed: t +0 -0 ~1"]
    );
}

#[tokio::test]
async fn servers_that_are_not_there_fail_within_the_deadline() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut config = ZooKeeperConfig::default();
    config.connect_timeout = Duration::from_secs(1);
    let discovery = ZooKeeperDiscovery::with_config(&format!("127.0.0.1:{port}"), config).unwrap();
    let started = Instant::now();
    let error = discovery.watch(&topic()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    assert_eq!(error.kind(), DiscoveryErrorKind::Unreachable);
    assert_eq!(error.to_string(), format!("no ZooKeeper answered at 127.0.0.1:{port} within 1s"));
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_fails_within_the_deadline() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hosts = listener.local_addr().unwrap().to_string();
    let mut config = ZooKeeperConfig::default();
    config.connect_timeout = Duration::from_secs(1);
    let discovery = ZooKeeperDiscovery::with_config(&hosts, config).unwrap();
    let started = Instant::now();
    assert_eq!(discovery.watch(&topic()).await.unwrap_err().kind(), DiscoveryErrorKind::Unreachable);
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
}

#[tokio::test]
async fn closing_ends_who_waits() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let discovery = ZooKeeperDiscovery::new(&listener.local_addr().unwrap().to_string()).unwrap();
    let waiting = tokio::spawn({
        let discovery = discovery.clone();
        async move { discovery.watch(&topic()).await }
    });
    let _stream = listener.accept().await.unwrap();
    let closing = tokio::spawn(async move { discovery.close().await });
    let error = timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), DiscoveryErrorKind::Closed);
    timeout(Duration::from_secs(1), closing).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_everything_ends_the_session() {
    let Some(peers) = Peers::get("dropping_everything_ends_the_session") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let discovery = discovery(&zookeeper, Duration::from_secs(6));
    let watch = discovery.watch(&topic()).await.unwrap();
    assert_eq!(zookeeper.connections().await, 1);
    assert!(watch.current().is_empty(), "P-5");
    drop(discovery);
    assert_eq!(zookeeper.connections().await, 1, "the watch goes on");
    drop(watch);
    let gone = async {
        while zookeeper.connections().await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the session ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_not_for_everybody_is_read_with_credentials() {
    let Some(peers) = Peers::get("a_registry_that_is_not_for_everybody_is_read_with_credentials") else {
        return;
    };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let owner = Client::connector().with_auth("digest", b"owner:secret");
    let client = owner.connect(&zookeeper.connect_string()).await.unwrap();
    let options = CreateMode::Persistent.with_acls(Acls::creator_all());
    client.mkdir("/meta/brokers/topics-pub/t", &options).await.unwrap();
    client.mkdir("/meta/brokers/ids/0", &options).await.unwrap();
    client.create("/meta/brokers/ids/0/master", b"meta://127.0.0.1:1000", &options).await.unwrap();
    client.create("/meta/brokers/topics-pub/t/0-m", br#"{"numParts":2}"#, &options).await.unwrap();
    let anybody = discovery(&zookeeper, Duration::from_secs(6));
    let error = anybody.watch(&topic()).await.unwrap_err();
    assert_eq!(error.kind(), DiscoveryErrorKind::Failed);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(error.to_string().contains("failed to list /meta/brokers/topics-pub/t"), "{error}: {cause}");
    let mut config = ZooKeeperConfig::default();
    config.credentials = Some(Credentials::new("owner", "secret"));
    let owner = ZooKeeperDiscovery::with_config(&zookeeper.connect_string(), config).unwrap();
    assert_eq!(text(&owner.watch(&topic()).await.unwrap().current()), "0@1000:2");
}

/// The memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_topics_share_one_session() {
    const TOPICS: usize = 2_000;
    let Some(peers) = Peers::get("thousands_of_topics_share_one_session") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    registry.address(0, "meta://127.0.0.1:1000").await;
    let topics: Vec<_> = (0..TOPICS).map(|n| Topic::new(&format!("topic-{n}")).unwrap()).collect();
    try_join_all(topics.iter().map(async |topic| {
        let path = format!("/meta/brokers/topics-pub/{topic}");
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        registry.client.create(&path, b"", &options).await?;
        registry.client.create(&format!("{path}/0-m"), br#"{"numParts":2}"#, &options).await
    }))
    .await
    .unwrap();
    let discovery = discovery(&zookeeper, Duration::from_secs(20));
    let (memory, calls, started) = (resident(), zookeeper.packets_received().await, Instant::now());
    let mut watches = try_join_all(topics.iter().map(|topic| discovery.watch(topic))).await.unwrap();
    println!(
        "{TOPICS} topics opened in {:?} by {} calls, {} KiB for each",
        started.elapsed(),
        zookeeper.packets_received().await - calls,
        (resident() - memory) as f64 / TOPICS as f64
    );
    assert!(watches.iter().all(|watch| text(&watch.current()) == "0@1000:2"));
    assert_eq!(zookeeper.connections().await, 2, "one of the discovery, one of the test");

    let (calls, started) = (zookeeper.packets_received().await, Instant::now());
    registry.write("/meta/brokers/topics-pub/topic-7/0-m", r#"{"numParts":3}"#).await;
    becomes(&mut watches[7], "0@1000:3").await;
    let calls = zookeeper.packets_received().await - calls;
    println!("one topic's change was seen after {:?} by {calls} calls", started.elapsed());
    assert!(calls < 20, "a change is read where it was made, not everywhere: {calls} calls");

    let (calls, started) = (zookeeper.packets_received().await, Instant::now());
    registry.address(0, "meta://127.0.0.1:2000").await;
    for (n, watch) in watches.iter_mut().enumerate() {
        becomes(watch, if n == 7 { "0@2000:3" } else { "0@2000:2" }).await;
    }
    let calls = zookeeper.packets_received().await - calls;
    println!("a broker's move was seen by all after {:?} by {calls} calls", started.elapsed());
    discovery.close().await;
    let ended = async {
        for watch in &mut watches {
            while watch.changed().await.is_ok() {}
        }
    };
    timeout(PATIENCE, ended).await.expect("watches end with the discovery");
}

async fn until_told(events: &mut DiscoveryEvents, wanted: &str) {
    let told = async { while events.next().await.unwrap().to_string() != wanted {} };
    assert!(timeout(PATIENCE, told).await.is_ok(), "the event {wanted} is told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_falls_silent_is_noticed_and_followed_again() {
    let Some(peers) = Peers::get("a_server_that_falls_silent_is_noticed_and_followed_again") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    registry.register(0, 1000, 1).await;
    let discovery = discovery(&zookeeper, Duration::from_secs(3));
    let mut events = discovery.events();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    drop(registry);
    zookeeper.freeze();
    let frozen = Instant::now();
    until_told(&mut events, "lost").await;
    let noticed = frozen.elapsed();
    // Longer than the session lasts: it is given up while nothing answers.
    until_told(&mut events, "expired").await;
    assert_eq!(text(&watch.current()), "0@1000:1", "the view holds");
    zookeeper.thaw();
    let thawed = Instant::now();
    until_told(&mut events, "connected").await;
    let back = thawed.elapsed();
    let registry = Registry::open(&zookeeper).await;
    registry.register(1, 1001, 1).await;
    let seen = becomes(&mut watch, "0@1000:1 1@1001:1").await;
    println!("noticed after {noticed:?}, back {back:?} after the thaw, a change seen after {seen:?}");
}
