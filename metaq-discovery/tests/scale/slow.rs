//! A registry with a slow connection.

use std::time::Duration;

use metaq_discovery::Discovery;
use metaq_testkit::{
    peers::{Peers, ZooKeeper},
    proxy::Plan,
};
use tokio::time::{Instant, sleep};

use crate::{
    figures::{alone, figure, form},
    large_registry::{LargeRegistry, all_become},
};

/// The limit in seconds until a change is visible.
const SEEN: f64 = 5.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_seen_at_twenty_kilobytes_per_second() {
    let Some(peers) = Peers::get("changes_are_seen_at_twenty_kilobytes_per_second") else { return };
    let _alone = alone().await;
    let (topics, brokers, lasts) = form((80, 5, Duration::from_secs(8)), (400, 5, Duration::from_secs(240)));
    let registry = LargeRegistry::start(&peers, ZooKeeper::builder(), topics, brokers).await;
    registry.proxy.plan_both(Plan::new().bandwidth(20_000));
    // Frequent enough to keep the connection always busy.
    let discovery = registry.discovery(Duration::from_secs(2));
    let (started, bytes) = (Instant::now(), registry.bytes());
    let mut watches = registry.open(&discovery).await;
    let what = format!("{topics} topics on {brokers} brokers over 20 kB/s");
    let opened = started.elapsed().as_secs_f64();
    figure(format!("{what}: opened"), " s", opened, 3.0 + registry.nodes() as f64 * 200.0 / 20_000.0);
    figure(format!("{what}: bytes to open"), "", registry.bytes() - bytes, registry.nodes() * 300);
    let (mut slowest, mut changes, begun) = (0.0_f64, 0_u32, Instant::now());
    while begun.elapsed() < lasts {
        changes += 1;
        let topic = fastrand::usize(0..topics);
        registry.offer(topic, fastrand::i32(0..brokers), 2 + changes).await;
        let took = all_become(&mut watches[topic..=topic], |view| {
            view.brokers().iter().any(|broker| broker.partitions == Some(2 + changes))
        });
        slowest = slowest.max(took.await.as_secs_f64());
        sleep(Duration::from_millis(500)).await;
    }
    figure(
        format!("{what}: the slowest of {changes} changes in {lasts:?} was seen after"),
        " s",
        slowest,
        SEEN,
    );
    registry.remove_addresses(0..1).await;
    let took = all_become(&mut watches, |view| view.brokers().len() == brokers as usize - 1).await;
    figure(format!("{what}: a broker's address gone from all views"), " s", took.as_secs_f64(), SEEN);
    // Nothing was lost meanwhile.
    registry.proxy.plan_both(Plan::new());
    discovery.close().await;
}
