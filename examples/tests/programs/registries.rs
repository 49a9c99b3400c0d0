//! The examples that find brokers in a real ZooKeeper or etcd, in which an embedded broker registers.

use metaq_testkit::{
    Broker, Registry,
    peers::{Etcd, EtcdProgram, Peers, ZooKeeper},
};

use crate::program::assert_prints_as_documented;

/// Starts a broker that is registered in `registry`.
async fn registered(registry: Registry) -> Broker {
    Broker::builder().topic("orders", 4).register_in(registry).start().await.unwrap()
}

#[tokio::test]
async fn zookeeper() {
    let Some(peers) = Peers::get("zookeeper") else { return };
    let server = ZooKeeper::start(&peers).await.unwrap();
    let servers = format!("{}/meta", server.connect_string());
    let _broker = registered(Registry::zookeeper(&servers)).await;
    assert_prints_as_documented("zookeeper", &[&servers, "orders"]).await;
}

#[tokio::test]
async fn etcd() {
    let Some(program) = EtcdProgram::get("etcd") else { return };
    let server = Etcd::start(&program).await.unwrap();
    let servers = format!("{}/meta", server.endpoint());
    let _broker = registered(Registry::etcd(&servers)).await;
    assert_prints_as_documented("etcd", &[&servers, "orders"]).await;
}
