//! [`ZooKeeperDiscovery`] against a real ZooKeeper server. The nodes are made as a real broker makes them.
#![cfg(feature = "zookeeper")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use metaq_discovery::{
    Discovery, DiscoveryErrorKind, Topic, TopicView, TopicWatch, ZooKeeperConfig, ZooKeeperDiscovery,
};
use metaq_testkit::peers::{Peers, ZooKeeper};
use tokio::time::{Instant, timeout};
use zookeeper_client::{Acls, Client, CreateMode};

const PATIENCE: Duration = Duration::from_secs(10);

/// The registry as brokers write it.
struct Registry {
    client: Client,
}

impl Registry {
    async fn open(zookeeper: &ZooKeeper) -> Self {
        let client = timeout(PATIENCE, Client::connect(&zookeeper.connect_string())).await.unwrap().unwrap();
        let registry = Self { client };
        registry.mkdir("/meta/brokers/topics-pub/t").await;
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
        self.write(&format!("/meta/brokers/topics-pub/t/{id}-m"), &data).await;
    }

    /// Takes a broker's nodes out in the order in which a real one does.
    async fn unregister(&self, id: i32) {
        self.delete(&format!("/meta/brokers/ids/{id}/master")).await;
        self.delete(&format!("/meta/brokers/topics-pub/t/{id}-m")).await;
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
