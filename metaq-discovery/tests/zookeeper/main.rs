//! [`ZooKeeperDiscovery`] with real ZooKeeper servers. The nodes are created as a real broker creates them.
#![cfg(feature = "zookeeper")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod contents;
mod contract;
mod faults;
mod frozen;
mod registry;
mod runtimes;
mod scale;
#[cfg(feature = "tls")]
mod tls;
mod unreadable;

use std::time::Duration;

use metaq_discovery::{Credentials, Discovery, DiscoveryErrorKind, ZooKeeperConfig, ZooKeeperDiscovery};
use metaq_testkit::{
    conformance::Observer,
    peers::{Peers, ZooKeeper},
};
use tokio::time::{Instant, timeout};
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

use registry::{Registry, TIMEOUT, becomes, discovery, text, topic};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_change_is_followed() {
    let Some(peers) = Peers::get("every_kind_of_change_is_followed") else { return };
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
    step("0@2000:2 1@3001:1 2@1002:1").await; // moved by registering again
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
async fn a_broker_that_offers_a_topic_again_keeps_its_address() {
    let Some(peers) = Peers::get("a_broker_that_offers_a_topic_again_keeps_its_address") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    registry.register(0, 1000, 2).await;
    let discovery = discovery(&zookeeper, Duration::from_secs(6));
    let mut watch = discovery.watch(&topic()).await.unwrap();
    // Registry §8: its topics' nodes are deleted and created again, and the node of its address is
    // not changed.
    for partitions in 3..6 {
        registry.delete("/meta/brokers/topics-pub/t/0-m").await;
        becomes(&mut watch, "").await;
        registry.offer(0, partitions).await;
        becomes(&mut watch, &format!("0@1000:{partitions}")).await;
    }
    // The broker may have moved meanwhile.
    registry.delete("/meta/brokers/topics-pub/t/0-m").await;
    becomes(&mut watch, "").await;
    registry.address(0, "meta://127.0.0.1:2000").await;
    registry.offer(0, 1).await;
    becomes(&mut watch, "0@2000:1").await;
    assert_eq!(zookeeper.watches().await, 3, "its children, the child and the address");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_write_access_the_path_of_a_topic_is_awaited() {
    let Some(peers) = Peers::get("without_write_access_the_path_of_a_topic_is_awaited") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let owner = Client::connector().with_auth("digest", b"owner:secret");
    let owner = owner.connect(&zookeeper.connect_string()).await.unwrap();
    let readable =
        [Acl::new(Permission::ALL, AuthId::authed()), Acl::new(Permission::READ, AuthId::anyone())];
    let options = CreateMode::Persistent.with_acls(Acls::new(&readable));
    let root = "/some/where";
    owner.mkdir(&format!("{root}/brokers/topics-pub"), &options).await.unwrap();
    owner.mkdir(&format!("{root}/brokers/ids/0"), &options).await.unwrap();
    // Several hosts, one of which is away.
    let nobody = metaq_testkit::unused_addr().unwrap();
    let connect = format!("zk://{nobody}, {}{root}/", zookeeper.connect_string());
    let discovery = ZooKeeperDiscovery::new(&connect).unwrap();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    assert!(watch.current().is_empty());
    let path = format!("{root}/brokers/topics-pub/t");
    assert!(owner.check_stat(&path).await.unwrap().is_none(), "it wasn't created");
    owner.create(&format!("{root}/brokers/ids/0/master"), b"meta://127.0.0.1:1000", &options).await.unwrap();
    owner.create(&path, b"", &options).await.unwrap();
    owner.create(&format!("{path}/0-m"), br#"{"numParts":2}"#, &options).await.unwrap();
    becomes(&mut watch, "0@1000:2").await;
    assert_eq!(discovery.topics().await.unwrap(), [topic()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_as_old_as_metaq_are_followed() {
    let Some(peers) = Peers::get("servers_as_old_as_metaq_are_followed") else { return };
    let mut zookeeper = ZooKeeper::builder().old().start(&peers).await.unwrap();
    let registry = Registry::open_old(&zookeeper).await;
    registry.register(0, 1000, 2).await;
    let mut config = ZooKeeperConfig::default();
    config.reread_interval = Duration::from_millis(300);
    let discovery = ZooKeeperDiscovery::with_config(&zookeeper.connect_string(), config).unwrap();
    let watch = discovery.watch(&topic()).await.unwrap();
    assert_eq!(text(&watch.current()), "0@1000:2");
    let mut observer = Observer::new(&discovery, &watch);
    // A topic whose path must be created, and a watch that is dropped.
    let nobody = metaq_discovery::Topic::new("nobody").unwrap();
    drop(discovery.watch(&nobody).await.unwrap());
    assert!(discovery.topics().await.unwrap().contains(&nobody), "its path was created");
    for round in 1..=10_u16 {
        registry.register(1, 1000 + round, 1).await;
        observer.wait_for_view(&format!("0@1000:2 1@{}:1", 1000 + round), Instant::now()).await;
        // Everything is read again in between.
        let (read, since) = (watch.current(), Instant::now());
        while std::sync::Arc::ptr_eq(&watch.current(), &read) {
            assert!(since.elapsed() < TIMEOUT, "it is read anew");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        registry.unregister(1).await;
        observer.wait_for_view("0@1000:2", Instant::now()).await;
    }
    let reported = observer.take_events();
    assert!(!reported.iter().any(|event| event == "lost"), "{reported:?}");
    zookeeper.kill().await.unwrap();
    observer.wait_for_event("lost").await;
    zookeeper.restart().await.unwrap();
    let back = Instant::now();
    Registry::open_old(&zookeeper).await.register(2, 1002, 1).await;
    observer.wait_for_view("0@1000:2 2@1002:1", back).await;
    discovery.close().await;
}

#[tokio::test]
async fn unreachable_servers_fail_within_the_deadline() {
    let port = metaq_testkit::unused_addr().unwrap().port();
    let mut config = ZooKeeperConfig::default();
    config.connect_timeout = Duration::from_secs(1);
    let discovery = ZooKeeperDiscovery::with_config(&format!("127.0.0.1:{port}"), config).unwrap();
    let started = Instant::now();
    let error = discovery.watch(&topic()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    assert_eq!(error.kind(), DiscoveryErrorKind::Unreachable);
    let expected =
        format!("no ZooKeeper answered at 127.0.0.1:{port} within 1s: 127.0.0.1:{port} refuses connections");
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_silent_server_fails_within_the_deadline() {
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
async fn closing_ends_waiting_calls() {
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
async fn dropping_all_handles_ends_the_session() {
    let Some(peers) = Peers::get("dropping_all_handles_ends_the_session") else { return };
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
    timeout(TIMEOUT, gone).await.expect("the session ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protected_registry_is_read_with_credentials() {
    let Some(peers) = Peers::get("a_protected_registry_is_read_with_credentials") else {
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
