//! Trouble with the servers.

use std::time::Duration;

use metaq_discovery::{Discovery, DiscoveryEvents, ZooKeeperDiscovery};
use metaq_testkit::peers::{Peers, ZooKeeper, ZooKeeperEnsemble};
use tokio::time::{Instant, timeout};

use crate::registry::{PATIENCE, Registry, becomes, discovery, text, topic};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ensemble_that_loses_its_leader_is_followed_on() {
    let Some(peers) = Peers::get("an_ensemble_that_loses_its_leader_is_followed_on") else { return };
    let mut ensemble = ZooKeeperEnsemble::start(&peers, 3).await.unwrap();
    let servers = ensemble.connect_string();
    let registry = Registry::open_at(&servers, topic()).await;
    registry.register(0, 1000, 1).await;
    let discovery = ZooKeeperDiscovery::new(&servers).unwrap();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    // The server of the one that writes may not have told the server of the one that reads yet.
    becomes(&mut watch, "0@1000:1").await;
    let mut seen = watch.clone();
    let observer = tokio::spawn(async move {
        while let Ok(view) = seen.changed().await {
            assert!(!view.is_empty(), "a view is never emptied by trouble with the registry");
        }
    });
    ensemble.leader().await.expect("there is a leader").kill().await.unwrap();
    let killed = Instant::now();
    let election = async {
        while ensemble.leader().await.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, election).await.expect("another leader is elected");
    let elected = killed.elapsed();
    registry.register(1, 1001, 1).await;
    let written = Instant::now();
    becomes(&mut watch, "0@1000:1 1@1001:1").await;
    let seen = written.elapsed();
    println!("another leader after {elected:?}, a change seen {seen:?} after it was written");
    discovery.close().await;
    observer.await.unwrap();
}
