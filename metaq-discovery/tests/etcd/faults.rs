//! Trouble with the server.

use std::time::Duration;

use metaq_discovery::{BrokerId, Discovery, DiscoveryEvent, EtcdConfig, EtcdDiscovery};
use metaq_testkit::{
    conformance::{RegistryUnderTest as _, topic},
    peers::EtcdProgram,
};

use crate::registry::{Registry, addr, ports, told};

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
