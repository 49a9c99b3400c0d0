//! Registries of the largest size.

use std::time::Duration;

use metaq_discovery::{Discovery, TopicView};
use metaq_testkit::peers::{Peers, ZooKeeper};
use tokio::time::{Instant, sleep};

use crate::{
    figures::{alone, figure, form, resident_kib},
    large_registry::{LargeRegistry, all_become},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_registry_is_followed_over_a_restart() {
    let Some(peers) = Peers::get("a_large_registry_is_followed_over_a_restart") else { return };
    let _alone = alone().await;
    let (topics, brokers, heap) = form((400, 20, 256), (10_000, 100, 4096));
    let server = ZooKeeper::builder().heap_mib(heap);
    let mut registry = LargeRegistry::start(&peers, server, topics, brokers).await;
    let (nodes, what) = (registry.nodes(), format!("{topics} topics on {brokers} brokers"));
    // The limit in seconds for a number of nodes, in an unoptimized build on a busy machine.
    let seconds = |nodes: u64| form(60.0, 10.0) + nodes as f64 / 4_000.0;
    let discovery = registry.discovery(Duration::from_secs(60));
    let before = resident_kib();
    let (calls, bytes, started) =
        (registry.zookeeper.packets_received().await, registry.bytes(), Instant::now());
    let mut watches = registry.open(&discovery).await;
    let opened = started.elapsed().as_secs_f64();
    let calls = registry.zookeeper.packets_received().await - calls;
    let per_node = (resident_kib() - before) * 1024 / nodes as i64;
    figure(format!("{what}: connections to open"), "", registry.proxy.accepted(), 1);
    figure(format!("{what}: opened in"), " s", opened, seconds(nodes));
    figure(format!("{what}: calls to open"), "", calls, nodes + nodes / 10 + 100);
    figure(format!("{what}: bytes to open"), "", registry.bytes() - bytes, nodes * 300);
    figure(format!("{what}: memory for each node"), " B", per_node, 2_000);

    let (calls, bytes, started) =
        (registry.zookeeper.packets_received().await, registry.bytes(), Instant::now());
    registry.remove_broker(0).await;
    let removed = started.elapsed().as_secs_f64();
    all_become(&mut watches, |view| view.brokers().len() == brokers as usize - 1).await;
    let seen = started.elapsed().as_secs_f64();
    let calls = registry.zookeeper.packets_received().await - calls;
    figure(
        format!("{what}: a broker that took {removed:.1} s to leave was gone from all views after"),
        " s",
        seen,
        removed + form(30.0, 2.0) + nodes as f64 / 20_000.0,
    );
    // The test's own deletions are included.
    figure(
        format!("{what}: calls when a broker goes"),
        "",
        calls,
        topics as u64 * 4 + 1_500 * (1 + seen as u64),
    );
    figure(
        format!("{what}: bytes when a broker goes"),
        "",
        registry.bytes() - bytes,
        topics as u64 * 4_000 + 1_000_000,
    );

    registry.zookeeper.kill().await.unwrap();
    let killed = Instant::now();
    registry.zookeeper.restart().await.unwrap();
    let (bytes, started) = (registry.bytes(), Instant::now());
    registry.reconnect().await;
    registry.offer(topics / 2, 1, 7).await;
    let changed = |view: &TopicView| view.brokers()[0].partitions == Some(7);
    all_become(&mut watches[topics / 2..=topics / 2], changed).await;
    let first = started.elapsed().as_secs_f64();
    let since = Instant::now();
    let mut fresh = 0;
    // The first topics may be read before the test learns that the server has started.
    while fresh < topics {
        assert!(since.elapsed() < crate::large_registry::TIMEOUT * 4, "{fresh} views are new");
        sleep(Duration::from_millis(20)).await;
        let now = Instant::now();
        fresh = watches.iter().filter(|watch| watch.current().age() < now - killed).count();
    }
    let all = started.elapsed().as_secs_f64();
    let calls = registry.zookeeper.packets_received().await;
    figure(format!("{what}: a change after a restart was seen after"), " s", first, 3.0 + seconds(nodes));
    figure(format!("{what}: all was read again after a restart after"), " s", all, 3.0 + seconds(nodes));
    figure(
        format!("{what}: calls after a restart"),
        "",
        calls,
        nodes + nodes / 10 + 1_500 * (1 + all as u64),
    );
    figure(format!("{what}: bytes after a restart"), "", registry.bytes() - bytes, nodes * 400 + 1_000_000);
    let per_node = (resident_kib() - before) * 1024 / nodes as i64;
    figure(format!("{what}: memory for each node in the end"), " B", per_node, 3_000);
    discovery.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_with_many_watches_reconnects_once() {
    let Some(peers) = Peers::get("a_broken_connection_with_many_watches_reconnects_once") else {
        return;
    };
    let _alone = alone().await;
    let (topics, rounds) = form((1_000, 3), (4_000, 20));
    let registry = LargeRegistry::start(&peers, ZooKeeper::builder(), topics, 4).await;
    let discovery = registry.discovery(Duration::from_secs(60));
    let mut watches = registry.open(&discovery).await;
    let what = format!("{topics} topics on 4 brokers");
    let (before, mut slowest) = (registry.proxy.accepted(), 0.0_f64);
    for round in 0..rounds {
        registry.proxy.reset_all();
        registry.offer(round, 1, 3).await;
        let changed = |view: &TopicView| view.brokers().iter().any(|broker| broker.partitions == Some(3));
        slowest = slowest.max(all_become(&mut watches[round..=round], changed).await.as_secs_f64());
    }
    // The client library may begin to reconnect before it is stopped.
    let accepted = registry.proxy.accepted() - before;
    figure(format!("{what}: connections for {rounds} that broke"), "", accepted, 2 * rounds);
    let bound = form(30.0, 2.0) + registry.nodes() as f64 / 2_000.0;
    figure(format!("{what}: a change at that moment was seen after"), " s", slowest, bound);
    // With several requests for the watches, the new connection would break immediately, again and again.
    let accepted = registry.proxy.accepted();
    sleep(Duration::from_secs(3)).await;
    figure(format!("{what}: connections in the 3 s after"), "", registry.proxy.accepted() - accepted, 0);
    discovery.close().await;
}
