//! The conformance suite that every backend must pass.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use metaq_discovery::{BrokerAddr, BrokerId, Discovery, ZooKeeperDiscovery};
use metaq_testkit::{
    conformance::{self, RegistryUnderTest},
    peers::{Peers, ZooKeeper},
    proxy::{Plan, Proxy},
};

use crate::registry::Registry;

/// The registry of a server for the conformance suite. A killed server loses no data.
struct Conforming {
    server: tokio::sync::Mutex<ZooKeeper>,
    /// The proxy between a discovery and the server.
    way: Proxy,
    registry: Registry,
    /// The changes to apply when the server is back.
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
        Arc::new(ZooKeeperDiscovery::new(&self.way.addr().to_string()).unwrap())
    }

    async fn register(&self, broker: BrokerId, addr: BrokerAddr, partitions: u32) {
        self.change(Change::Register(broker, addr, partitions)).await;
    }

    async fn unregister(&self, broker: BrokerId) {
        self.change(Change::Unregister(broker)).await;
    }

    async fn corrupt(&self, broker: BrokerId) {
        let path = format!("/meta/brokers/topics-pub/{}/{broker}-m", self.registry.topic);
        self.registry.write(&path, r#"{"numParts":-1}"#).await;
    }

    fn slow_down(&self, delay: Duration) {
        self.way.plan_both(Plan::new().delay(delay));
    }

    async fn disconnect(&self) {
        *self.later.lock().unwrap() = Some(Vec::new());
        self.server.lock().await.kill().await.unwrap();
    }

    async fn reconnect(&self) {
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
        way: conformance::on_own_runtime(Proxy::start(server.connect_string())).await.unwrap(),
        registry: Registry::open_for(&server, conformance::topic()).await,
        server: tokio::sync::Mutex::new(server),
        later: Mutex::default(),
    };
    println!("the slowest change was seen after {:?}", conformance::check_discovery(&conforming).await);
}
