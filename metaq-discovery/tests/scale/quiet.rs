//! An idle registry.

use std::{sync::Arc, time::Duration};

use metaq_discovery::{Discovery, TopicView, TopicWatch};
use metaq_testkit::peers::{Peers, ZooKeeper, ZooKeeperBuilder};
use tokio::time::{Instant, sleep};

use crate::{
    figures::{alone, figure, form, resident_kib},
    large_registry::{LargeRegistry, TIMEOUT, all_become},
};

/// Waits until a topic was reread `rounds` times.
async fn rounds(watch: &TopicWatch, rounds: usize) {
    for round in 0..rounds {
        let (read, since) = (watch.current(), Instant::now());
        while Arc::ptr_eq(&watch.current(), &read) {
            assert!(since.elapsed() < TIMEOUT, "it was read anew {round} times");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn is_quiet(which: &str, peers: &Peers, server: ZooKeeperBuilder) {
    let (topics, brokers, count) = form((60, 4, 6), (300, 4, 120));
    let registry = LargeRegistry::start(peers, server, topics, brokers).await;
    // The shortest interval, but at most 1,000 nodes are read per second.
    let discovery = registry.discovery(Duration::from_millis(100));
    let watches = registry.open(&discovery).await;
    // The first rounds fill the caches.
    rounds(&watches[0], 2).await;
    let before = (resident_kib(), registry.zookeeper.warnings(), registry.zookeeper.packets_received().await);
    let (bytes, started) = (registry.bytes(), Instant::now());
    rounds(&watches[0], count).await;
    let took = started.elapsed();
    let calls = registry.zookeeper.packets_received().await - before.2;
    let warnings = registry.zookeeper.warnings() - before.1;
    let what =
        format!("ZooKeeper {which}, {topics} topics on {brokers} brokers, read {count} times in {took:.1?}");
    figure(format!("{what}: warnings of the server"), "", warnings, 0);
    figure(format!("{what}: memory"), " KiB more", resident_kib() - before.0, 2 * 1024);
    // One call per node and round; the first and the last round are incomplete, and there are pings and the
    // test's own requests.
    figure(format!("{what}: calls"), "", calls, registry.nodes() * (count as u64 + 2) + 100);
    figure(format!("{what}: bytes"), "", registry.bytes() - bytes, calls * 300);
    let per_second = calls as f64 / took.as_secs_f64();
    figure(format!("{what}: calls a second"), "", per_second.round(), 1050.0);
    let watches_kept = registry.zookeeper.watches().await as u64;
    assert_eq!(watches_kept, registry.nodes(), "each node is watched once");
    discovery.close().await;
    assert_eq!(registry.zookeeper.warnings(), before.1, "closing leaves no warning either");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_old_server_costs_no_memory_and_no_warning() {
    let Some(peers) = Peers::get("an_idle_old_server_costs_no_memory_and_no_warning") else {
        return;
    };
    let _alone = alone().await;
    is_quiet("3.4.3", &peers, ZooKeeper::builder().old()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_registry_costs_no_memory_and_no_warning() {
    let Some(peers) = Peers::get("an_idle_registry_costs_no_memory_and_no_warning") else { return };
    let _alone = alone().await;
    is_quiet("3.9.5", &peers, ZooKeeper::builder()).await;
}

/// The first round begins while most nodes are unknown, and must not take longer because of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_reread_soon_after_opening() {
    let Some(peers) = Peers::get("everything_is_reread_soon_after_opening") else { return };
    let _alone = alone().await;
    let (topics, brokers, interval) = form((200, 10, 5), (1_000, 20, 30));
    let registry = LargeRegistry::start(&peers, ZooKeeper::builder(), topics, brokers).await;
    let discovery = registry.discovery(Duration::from_secs(interval));
    let watches = registry.open(&discovery).await;
    let opened = Instant::now();
    let is_fresh = |watch: &TopicWatch| watch.current().age() < opened.elapsed();
    while !watches.iter().all(is_fresh) {
        assert!(opened.elapsed() < TIMEOUT, "some views were not read once more");
        sleep(Duration::from_millis(20)).await;
    }
    let what = format!("{topics} topics on {brokers} brokers");
    // A topic that misses the first round, which may be short, is read in the second.
    figure(
        format!("{what}: all was read once more, every {interval} s, after"),
        " s",
        opened.elapsed().as_secs_f64(),
        8.0 * interval as f64,
    );
    discovery.close().await;
}

/// Watches a topic repeatedly. At the end the server has the watches of the topics that are still watched.
async fn gives_watches_back(which: &str, peers: &Peers, server: ZooKeeperBuilder) {
    let (topics, brokers) = (2_400, 4);
    let registry = LargeRegistry::start(peers, server, topics, brokers).await;
    let discovery = registry.discovery(Duration::from_secs(60));
    let kept = discovery.watch(&registry.topics[0]).await.unwrap();
    let calls = registry.zookeeper.packets_received().await;
    // Watching one topic repeatedly costs one call each time, and no further watch.
    for _ in 0..200 {
        drop(discovery.watch(&registry.topics[1]).await.unwrap());
    }
    let calls = registry.zookeeper.packets_received().await - calls;
    let what = format!("ZooKeeper {which}");
    figure(format!("{what}, a topic watched and left 200 times: calls"), "", calls, 220);
    figure(
        format!("{what}, a topic watched and left 200 times: watches"),
        "",
        registry.zookeeper.watches().await,
        14,
    );
    let warnings = registry.zookeeper.warnings();
    let watches = registry.open(&discovery).await;
    drop(watches);
    let since = Instant::now();
    while registry.zookeeper.watches().await > 14 {
        assert!(since.elapsed() < TIMEOUT, "{} watches are left", registry.zookeeper.watches().await);
        sleep(Duration::from_millis(20)).await;
    }
    registry.offer(0, 1, 5).await;
    let changed = |view: &TopicView| view.brokers()[1].partitions == Some(5);
    all_become(&mut [kept], changed).await;
    let warned = registry.zookeeper.warnings() - warnings;
    figure(format!("{what}, {topics} topics watched and left: warnings"), "", warned, 0);
    discovery.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unneeded_watches_are_released() {
    let Some(peers) = Peers::get("unneeded_watches_are_released") else { return };
    let _alone = alone().await;
    gives_watches_back("3.4.3", &peers, ZooKeeper::builder().old()).await;
    gives_watches_back("3.9.5", &peers, ZooKeeper::builder()).await;
}
