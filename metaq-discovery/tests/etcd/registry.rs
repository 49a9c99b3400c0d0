//! A registry in etcd, as a program would write it, and the views that are read from it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use etcd_client::{Client, ConnectOptions};
use metaq_discovery::{BrokerAddr, BrokerId, Discovery, EtcdDiscovery, TopicWatch};
use metaq_testkit::{
    conformance::{RegistryUnderTest, on_own_runtime, topic},
    peers::{Etcd, EtcdProgram},
    proxy::{Plan, Proxy},
};
use tokio::time::{Instant, sleep, timeout};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// A key, and its new value; `None` removes it.
type Change = (String, Option<String>);

/// The registry of a server. Changes made while the server is away are applied when it is back.
pub(crate) struct Registry {
    pub(crate) etcd: tokio::sync::Mutex<Etcd>,
    pub(crate) endpoint: String,
    /// The proxy between a [`discovery`](RegistryUnderTest::discovery) and the server.
    way: Proxy,
    pub(crate) client: Client,
    later: Mutex<Option<Vec<Change>>>,
}

impl Registry {
    pub(crate) async fn start(program: &EtcdProgram) -> Self {
        Self::of(Etcd::start(program).await.unwrap(), None).await
    }

    /// Wraps the registry of a running server, reached with these options.
    pub(crate) async fn of(etcd: Etcd, options: Option<ConnectOptions>) -> Self {
        let endpoint = etcd.endpoint();
        let mut client = Client::connect([&endpoint], options).await.unwrap();
        // The client connects on its first call.
        client.get("x", None).await.unwrap();
        let way = on_own_runtime(Proxy::start(endpoint.clone())).await.unwrap();
        Self { way, etcd: tokio::sync::Mutex::new(etcd), endpoint, client, later: Mutex::default() }
    }

    async fn write(&self, key: String, value: Option<String>) {
        if let Some(later) = &mut *self.later.lock().unwrap() {
            return later.push((key, value));
        }
        self.apply(key, value).await;
    }

    /// Compacts the server's history to the current revision.
    pub(crate) async fn compact(&self) {
        let mut client = self.client.clone();
        let revision = client.get("x", None).await.unwrap().header().unwrap().revision();
        client.compact(revision, None).await.unwrap();
    }

    /// The client's connection may just have been lost.
    pub(crate) async fn apply(&self, key: String, value: Option<String>) {
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
        timeout(TIMEOUT, written).await.expect("the key is written");
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
        Arc::new(EtcdDiscovery::new(&self.way.addr().to_string()).unwrap())
    }

    async fn register(&self, broker: BrokerId, addr: BrokerAddr, partitions: u32) {
        self.write(Self::master(broker), Some(addr.to_string())).await;
        self.write(Self::child(broker), Some(format!(r#"{{"numParts":{partitions}}}"#))).await;
    }

    async fn unregister(&self, broker: BrokerId) {
        self.write(Self::child(broker), None).await;
        self.write(Self::master(broker), None).await;
    }

    async fn corrupt(&self, broker: BrokerId) {
        self.write(Self::child(broker), Some("not JSON".to_owned())).await;
    }

    fn slow_down(&self, delay: Duration) {
        self.way.plan_both(Plan::new().delay(delay));
    }

    async fn disconnect(&self) {
        *self.later.lock().unwrap() = Some(Vec::new());
        self.etcd.lock().await.kill().await.unwrap();
    }

    async fn reconnect(&self) {
        self.etcd.lock().await.restart().await.unwrap();
        let later = self.later.lock().unwrap().take();
        for (key, value) in later.unwrap_or_default() {
            self.apply(key, value).await;
        }
    }
}

pub(crate) fn addr(port: u16) -> BrokerAddr {
    BrokerAddr::new("127.0.0.1", port).unwrap()
}

pub(crate) async fn ports(watch: &mut TopicWatch, wanted: &[u16]) -> Duration {
    let started = Instant::now();
    let current = |watch: &TopicWatch| -> Vec<_> {
        watch.current().brokers().iter().map(|broker| broker.addr.port()).collect()
    };
    let reached = timeout(TIMEOUT, async {
        while current(watch) != wanted {
            watch.changed().await.unwrap();
        }
    });
    assert!(reached.await.is_ok(), "the brokers are at {:?}, not {wanted:?}", current(watch));
    started.elapsed()
}

/// An address on which no server listens.
pub(crate) fn nobody() -> String {
    metaq_testkit::unused_addr().unwrap().to_string()
}
