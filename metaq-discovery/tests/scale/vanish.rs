//! The addresses of all brokers vanish at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metaq_discovery::{Discovery, TopicView};
use metaq_testkit::peers::{Peers, ZooKeeper};
use nix::time::{ClockId, clock_gettime};

use crate::{
    figures::{alone, figure, form},
    large_registry::{LargeRegistry, all_become},
};

/// The CPU time of this thread, which excludes the time that other threads and processes use.
fn ran() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// The longest time in microseconds that an always ready task had to wait, on a single-threaded runtime.
fn watch_delays() -> Arc<AtomicU64> {
    let longest = Arc::new(AtomicU64::new(0));
    let shown = Arc::downgrade(&longest);
    tokio::spawn(async move {
        let mut last = ran();
        while let Some(longest) = shown.upgrade() {
            tokio::task::yield_now().await;
            let now = ran();
            longest.fetch_max((now - last).as_micros() as u64, Ordering::Relaxed);
            last = now;
        }
    });
    longest
}

#[tokio::test]
async fn vanishing_addresses_block_no_task() {
    let Some(peers) = Peers::get("vanishing_addresses_block_no_task") else { return };
    let _alone = alone().await;
    let (topics, brokers) = form((500, 10), (2_000, 10));
    let registry = LargeRegistry::start(&peers, ZooKeeper::builder(), topics, brokers).await;
    let discovery = registry.discovery(Duration::from_secs(60));
    let mut watches = registry.open(&discovery).await;
    let what = format!("{topics} topics whose {brokers} brokers lose their addresses");
    let longest = watch_delays();
    let calls = registry.zookeeper.packets_received().await;
    registry.remove_addresses(0..brokers).await;
    let took = all_become(&mut watches, TopicView::is_empty).await;
    let calls = registry.zookeeper.packets_received().await - calls;
    figure(format!("{what}: all views were right after"), " s", took.as_secs_f64(), 2.0);
    figure(format!("{what}: calls"), "", calls, 40);
    figure(format!("{what}: longest delay of a task"), " us", longest.load(Ordering::Relaxed), 10_000);
    discovery.close().await;
}
