//! [`EtcdDiscovery`] against a real etcd server.
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use etcd_client::Client;
use metaq_discovery::{
    BrokerAddr, BrokerId, Credentials, Discovery, DiscoveryErrorKind, DiscoveryEvent, DiscoveryEvents,
    EtcdConfig, EtcdDiscovery, TopicWatch,
};
use metaq_testkit::{
    conformance::{RegistryUnderTest, check_discovery, topic},
    peers::{Etcd, EtcdProgram},
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A key, and what it is set to; none when it is removed.
type Change = (String, Option<String>);

/// The registry of a server. What is to be changed while it is away is changed when it is back.
struct Registry {
    etcd: tokio::sync::Mutex<Etcd>,
    endpoint: String,
    client: Client,
    later: Mutex<Option<Vec<Change>>>,
}

impl Registry {
    async fn start(program: &EtcdProgram) -> Self {
        let etcd = Etcd::start(program).await.unwrap();
        let endpoint = etcd.endpoint();
        let client = Client::connect([&endpoint], None).await.unwrap();
        Self { etcd: tokio::sync::Mutex::new(etcd), endpoint, client, later: Mutex::default() }
    }

    async fn write(&self, key: String, value: Option<String>) {
        if let Some(later) = &mut *self.later.lock().unwrap() {
            return later.push((key, value));
        }
        self.apply(key, value).await;
    }

    /// The client's connection may just have been lost.
    async fn apply(&self, key: String, value: Option<String>) {
        let mut client = self.client.clone();
        let written = async {
            loop {
                let result = match &value {
                    Some(value) => client.put(key.as_str(), value.as_str(), None).await.map(drop),
                    None => client.delete(key.as_str(), None).await.map(drop),
                };
                if result.is_ok() {
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, written).await.expect("the key is written");
    }

    fn child(id: BrokerId) -> String {
        format!("/meta/brokers/topics-pub/{}/{id}-m", topic())
    }

    fn master(id: BrokerId) -> String {
        format!("/meta/brokers/ids/{id}/master")
    }
}

#[async_trait]
impl RegistryUnderTest for Registry {
    fn discovery(&self) -> Arc<dyn Discovery> {
        Arc::new(EtcdDiscovery::new(&self.endpoint).unwrap())
    }

    async fn register(&self, broker: BrokerId, addr: BrokerAddr, partitions: u32) {
        self.write(Self::master(broker), Some(addr.to_string())).await;
        self.write(Self::child(broker), Some(format!(r#"{{"numParts":{partitions}}}"#))).await;
    }

    async fn unregister(&self, broker: BrokerId) {
        self.write(Self::child(broker), None).await;
        self.write(Self::master(broker), None).await;
    }

    async fn spoil(&self, broker: BrokerId) {
        self.write(Self::child(broker), Some("not JSON".to_owned())).await;
    }

    async fn go_away(&self) {
        *self.later.lock().unwrap() = Some(Vec::new());
        self.etcd.lock().await.kill().await.unwrap();
    }

    async fn come_back(&self) {
        self.etcd.lock().await.restart().await.unwrap();
        let later = self.later.lock().unwrap().take();
        for (key, value) in later.unwrap_or_default() {
            self.apply(key, value).await;
        }
    }
}

fn addr(port: u16) -> BrokerAddr {
    BrokerAddr::new("127.0.0.1", port).unwrap()
}

async fn ports(watch: &mut TopicWatch, wanted: &[u16]) -> Duration {
    let started = Instant::now();
    let current = |watch: &TopicWatch| -> Vec<_> {
        watch.current().brokers().iter().map(|broker| broker.addr.port()).collect()
    };
    let reached = timeout(PATIENCE, async {
        while current(watch) != wanted {
            watch.changed().await.unwrap();
        }
    });
    assert!(reached.await.is_ok(), "the brokers are at {:?}, not {wanted:?}", current(watch));
    started.elapsed()
}

async fn told(events: &mut DiscoveryEvents, wanted: DiscoveryEvent) -> Duration {
    let started = Instant::now();
    let found = async { while events.next().await.unwrap() != wanted {} };
    timeout(PATIENCE, found).await.expect("the event is told");
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let Some(program) = EtcdProgram::get("keeps_the_contract") else { return };
    let registry = Registry::start(&program).await;
    println!("the slowest change was seen after {:?}", check_discovery(&registry).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_falls_silent_is_noticed_and_followed_again() {
    let Some(program) = EtcdProgram::get("a_server_that_falls_silent_is_noticed_and_followed_again") else {
        return;
    };
    let registry = Registry::start(&program).await;
    registry.register(BrokerId(0), addr(1000), 1).await;
    let mut config = EtcdConfig::default();
    config.keep_alive = Duration::from_secs(1);
    let discovery = EtcdDiscovery::with_config(&registry.endpoint, config).unwrap();
    let mut events = discovery.events();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    registry.etcd.lock().await.freeze();
    let noticed = told(&mut events, DiscoveryEvent::Lost).await;
    assert_eq!(watch.current().brokers().len(), 1, "the view holds");
    registry.etcd.lock().await.thaw();
    registry.register(BrokerId(1), addr(1001), 1).await;
    let seen = ports(&mut watch, &[1000, 1001]).await;
    println!("its silence was noticed after {noticed:?}, a change {seen:?} after it spoke again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_past_that_was_compacted_meanwhile_is_not_needed() {
    let Some(program) = EtcdProgram::get("a_past_that_was_compacted_meanwhile_is_not_needed") else { return };
    let registry = Registry::start(&program).await;
    registry.register(BrokerId(0), addr(1000), 1).await;
    let discovery = EtcdDiscovery::new(&registry.endpoint).unwrap();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    registry.etcd.lock().await.kill().await.unwrap();
    registry.etcd.lock().await.restart().await.unwrap();
    registry.unregister(BrokerId(0)).await;
    registry.register(BrokerId(1), addr(1001), 1).await;
    let mut client = registry.client.clone();
    let revision = client.get("x", None).await.unwrap().header().unwrap().revision();
    client.compact(revision, None).await.unwrap();
    registry.register(BrokerId(2), addr(1002), 1).await;
    let seen = ports(&mut watch, &[1001, 1002]).await;
    println!("what was left after the compaction was seen after {seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_beside_a_good_one_is_passed_over() {
    let Some(program) = EtcdProgram::get("a_dead_server_beside_a_good_one_is_passed_over") else { return };
    let registry = Registry::start(&program).await;
    registry.register(BrokerId(0), addr(1000), 1).await;
    let connect = format!("etcd://{},{}/meta", nobody(), registry.endpoint);
    let discovery = EtcdDiscovery::new(&connect).unwrap();
    let started = Instant::now();
    assert_eq!(discovery.watch(&topic()).await.unwrap().current().brokers().len(), 1);
    println!("the good server was found after {:?}", started.elapsed());
    assert_eq!(discovery.topics().await.unwrap(), [topic()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_every_watch_ends_the_following() {
    let Some(program) = EtcdProgram::get("dropping_every_watch_ends_the_following") else { return };
    let registry = Registry::start(&program).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let discovery = EtcdDiscovery::new(&registry.endpoint).unwrap();
    for _ in 0..2 {
        let watch = discovery.watch(&topic()).await.unwrap();
        assert!(tasks() > before);
        drop(watch);
        let ended = async {
            while tasks() > before {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, ended).await.expect("no task is left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_not_for_everybody_is_read_with_credentials() {
    let Some(program) = EtcdProgram::get("a_registry_that_is_not_for_everybody_is_read_with_credentials")
    else {
        return;
    };
    let registry = Registry::start(&program).await;
    registry.register(BrokerId(0), addr(1000), 1).await;
    let mut client = registry.client.clone();
    client.role_add("root").await.unwrap();
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    let mut config = EtcdConfig::default();
    config.connect_timeout = Duration::from_secs(1);
    let anybody = EtcdDiscovery::with_config(&registry.endpoint, config.clone()).unwrap();
    let error = anybody.watch(&topic()).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap();
    let cause = std::error::Error::source(cause).unwrap().to_string();
    assert!(cause.contains("user name is empty"), "{error}: {cause}");
    config.credentials = Some(Credentials::new("root", "secret"));
    let root = EtcdDiscovery::with_config(&registry.endpoint, config).unwrap();
    assert_eq!(root.watch(&topic()).await.unwrap().current().brokers().len(), 1);
}

#[tokio::test]
async fn servers_that_are_not_there_fail_within_the_deadline() {
    let (host, mut config) = (nobody(), EtcdConfig::default());
    config.connect_timeout = Duration::from_secs(1);
    let discovery = EtcdDiscovery::with_config(&host, config).unwrap();
    let started = Instant::now();
    let error = discovery.watch(&topic()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    assert_eq!(error.kind(), DiscoveryErrorKind::Unreachable);
    assert_eq!(error.to_string(), format!("no etcd answered at {host} within 1s"));
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, format!("etcd at {host} failed to read the registry"));
}

/// An address where nobody listens.
fn nobody() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
