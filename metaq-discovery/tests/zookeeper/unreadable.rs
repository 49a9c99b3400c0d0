//! Nodes that may not be read, and roots without brokers.

use std::{sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use metaq_discovery::{
    Discovery, DiscoveryErrorKind, DiscoveryEvent, DiscoveryEvents, Topic, TopicWatch, ZooKeeperConfig,
    ZooKeeperDiscovery,
};
use metaq_testkit::peers::{Peers, ZooKeeper};
use tokio::time::{Instant, sleep, timeout};
use zookeeper_client::{Acls, Client, CreateMode};

use crate::registry::{Registry, TIMEOUT, becomes, text, topic};

/// A client that owns nodes which no other client may read.
async fn owner(zookeeper: &ZooKeeper) -> Client {
    let connector = Client::connector().with_server_version(3, 4, 3).with_auth("digest", b"owner:secret");
    connector.connect(&zookeeper.connect_string()).await.unwrap()
}

fn discovery(zookeeper: &ZooKeeper, reread_interval: Duration) -> ZooKeeperDiscovery {
    let mut config = ZooKeeperConfig::default();
    config.reread_interval = reread_interval;
    ZooKeeperDiscovery::with_config(&zookeeper.connect_string(), config).unwrap()
}

/// Waits for the next event of a bad entry.
async fn bad_entry(events: &mut DiscoveryEvents) -> (String, String) {
    loop {
        let event = timeout(TIMEOUT, events.next()).await.expect("it is reported").unwrap();
        if let DiscoveryEvent::BadEntry(entry) = event {
            return (entry.path, entry.reason);
        }
    }
}

/// Waits until the topic was read again.
async fn is_reread(watch: &TopicWatch) {
    let (read, since) = (watch.current(), Instant::now());
    while Arc::ptr_eq(&watch.current(), &read) {
        assert!(since.elapsed() < TIMEOUT, "it is read anew");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn unreadable_nodes_are_bad_entries(zookeeper: ZooKeeper) {
    let registry = Registry::open_old(&zookeeper).await;
    for id in 0..3 {
        registry.register(id, 1000, 1).await;
    }
    let owner = owner(&zookeeper).await;
    let (master, child) = ("/meta/brokers/ids/1/master", "/meta/brokers/topics-pub/t/2-m");
    let owners = CreateMode::Persistent.with_acls(Acls::creator_all());
    for (path, data) in [(master, "meta://127.0.0.1:1000"), (child, r#"{"numParts":1}"#)] {
        owner.delete(path, None).await.unwrap();
        owner.create(path, data.as_bytes(), &owners).await.unwrap();
    }
    // Nothing is reread within this test: changes must be found through watches.
    let discovery = discovery(&zookeeper, Duration::from_secs(600));
    let mut events = discovery.events();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    assert_eq!(text(&watch.current()), "0@1000:1");
    let mut reported = [bad_entry(&mut events).await, bad_entry(&mut events).await];
    reported.sort();
    let reason = "it can't be read: not authorized";
    assert_eq!(reported, [(master, reason), (child, reason)].map(|(path, why)| (path.into(), why.into())));
    // Changes of the topic are followed.
    registry.offer(0, 2).await;
    becomes(&mut watch, "0@1000:2").await;
    for path in [master, child] {
        owner.delete(path, None).await.unwrap();
    }
    registry.register(1, 1001, 1).await;
    becomes(&mut watch, "0@1000:2 1@1001:1").await;
    registry.register(2, 1002, 1).await;
    becomes(&mut watch, "0@1000:2 1@1001:1 2@1002:1").await;
    discovery.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_unreadable_node_is_a_bad_entry() {
    let Some(peers) = Peers::get("an_unreadable_node_is_a_bad_entry") else { return };
    unreadable_nodes_are_bad_entries(ZooKeeper::start(&peers).await.unwrap()).await;
    let old = ZooKeeper::builder().old().start(&peers).await.unwrap();
    unreadable_nodes_are_bad_entries(old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_of_rights_are_found_without_an_event() {
    let Some(peers) = Peers::get("changes_of_rights_are_found_without_an_event") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    registry.register(0, 1000, 1).await;
    registry.register(1, 1001, 1).await;
    let owner = owner(&zookeeper).await;
    let discovery = discovery(&zookeeper, Duration::from_millis(100));
    let mut watch = discovery.watch(&topic()).await.unwrap();
    let mut events = discovery.events();
    // ZooKeeper reports no change of rights.
    let restrict = async |path: &str| owner.set_acl(path, &Acls::creator_all(), None).await.unwrap();
    let open = async |path: &str| owner.set_acl(path, &Acls::anyone_all(), None).await.unwrap();
    restrict("/meta/brokers/ids/1/master").await;
    becomes(&mut watch, "0@1000:1").await;
    assert_eq!(bad_entry(&mut events).await.0, "/meta/brokers/ids/1/master");
    open("/meta/brokers/ids/1/master").await;
    becomes(&mut watch, "0@1000:1 1@1001:1").await;
    // The last view of a topic that can't be listed remains valid, whatever changes below it.
    restrict("/meta/brokers/topics-pub/t").await;
    let since = Instant::now();
    let refused = loop {
        match discovery.watch(&topic()).await {
            Err(error) => break error,
            Ok(_) => assert!(since.elapsed() < TIMEOUT, "it can't be listed"),
        }
    };
    assert_eq!(refused.kind(), DiscoveryErrorKind::Failed);
    assert!(refused.to_string().ends_with("failed to list /meta/brokers/topics-pub/t"), "{refused}");
    owner.delete("/meta/brokers/topics-pub/t/1-m", None).await.unwrap();
    assert_eq!(text(&watch.current()), "0@1000:1 1@1001:1", "the view holds");
    open("/meta/brokers/topics-pub/t").await;
    becomes(&mut watch, "0@1000:1").await;
    is_reread(&watch).await;
    discovery.close().await;
}

/// The node has no watcher, and nothing else happens: only rereading can find the change.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_right_to_read_is_found_without_an_event() {
    let Some(peers) = Peers::get("a_new_right_to_read_is_found_without_an_event") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    registry.register(0, 1000, 1).await;
    registry.register(1, 1001, 1).await;
    let (owner, child) = (owner(&zookeeper).await, "/meta/brokers/topics-pub/t/1-m");
    owner.set_acl(child, &Acls::creator_all(), None).await.unwrap();
    let discovery = discovery(&zookeeper, Duration::from_millis(100));
    let mut watch = discovery.watch(&topic()).await.unwrap();
    assert_eq!(text(&watch.current()), "0@1000:1");
    for _ in 0..3 {
        is_reread(&watch).await;
    }
    owner.set_acl(child, &Acls::anyone_all(), None).await.unwrap();
    becomes(&mut watch, "0@1000:1 1@1001:1").await;
    discovery.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_watch_is_answered_while_the_last_one_is_dropped() {
    let Some(peers) = Peers::get("a_watch_is_answered_while_the_last_one_is_dropped") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    registry.register(0, 1000, 1).await;
    let discovery = discovery(&zookeeper, Duration::from_secs(600));
    for round in 0..500 {
        let watch = discovery.watch(&topic()).await.unwrap();
        let other = discovery.clone();
        let next = tokio::spawn(async move { other.watch(&topic()).await });
        // The watch is dropped before the other call is made, received, or answered.
        for _ in 0..round % 50 {
            std::thread::yield_now();
        }
        drop(watch);
        let next = timeout(TIMEOUT / 2, next).await.expect("it is answered").unwrap().unwrap();
        assert_eq!(text(&next.current()), "0@1000:1");
    }
    discovery.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_root_without_brokers_is_not_changed() {
    let Some(peers) = Peers::get("a_root_without_brokers_is_not_changed") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let discovery = ZooKeeperDiscovery::new(&zookeeper.connect_string()).unwrap();
    let topics: Vec<_> = (0..50).map(|n| Topic::new(&format!("topic-{n}")).unwrap()).collect();
    let mut watches = try_join_all(topics.iter().map(|topic| discovery.watch(topic))).await.unwrap();
    let client = Client::connect(&zookeeper.connect_string()).await.unwrap();
    assert_eq!(client.check_stat("/meta").await.unwrap(), None, "nothing was created");
    let registry = Registry::open_for(&zookeeper, topics[7].clone()).await;
    registry.register(0, 1000, 1).await;
    becomes(&mut watches[7], "0@1000:1").await;
    // Below a root with brokers, each topic costs one call to list it, one to create it, and one to list it
    // again.
    let before = zookeeper.packets_received().await;
    let others: Vec<_> = (50..100).map(|n| Topic::new(&format!("topic-{n}")).unwrap()).collect();
    let created = try_join_all(others.iter().map(|topic| discovery.watch(topic))).await.unwrap();
    let calls = zookeeper.packets_received().await - before;
    assert!(created.iter().all(|watch| watch.current().is_empty()));
    assert!(calls <= 50 * 3 + 10, "{calls} calls");
    let names = client.list_children("/meta/brokers/topics-pub").await.unwrap();
    assert_eq!(names.len(), 51, "{names:?}");
    // The error about a topic says so, and names the roots that have brokers.
    let mistyped = ZooKeeperDiscovery::new(&format!("{}/metaa", zookeeper.connect_string())).unwrap();
    let reason = mistyped.explain_absence(&topics[7]).await.unwrap();
    assert_eq!(reason, "no broker is registered below the root /metaa; there are brokers below /meta");
    assert_eq!(discovery.explain_absence(&topics[8]).await, None);
    discovery.close().await;
}
