//! Closing during changes.

use std::{
    panic,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use metaq_discovery::Discovery;
use metaq_testkit::{
    conformance::Tasks,
    peers::{Peers, ZooKeeper},
};
use tokio::time::Instant;

use crate::{
    figures::{alone, figure, form},
    large_registry::LargeRegistry,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn closing_at_any_moment_leaves_no_task_and_no_panic() {
    let Some(peers) = Peers::get("closing_at_any_moment_leaves_no_task_and_no_panic") else { return };
    let _alone = alone().await;
    let registry = LargeRegistry::start(&peers, ZooKeeper::builder(), 200, 4).await;
    let panics = Arc::new(AtomicUsize::new(0));
    let former = Arc::new(panic::take_hook());
    let (seen, shown) = (Arc::clone(&panics), Arc::clone(&former));
    panic::set_hook(Box::new(move |panic| {
        seen.fetch_add(1, Ordering::Relaxed);
        shown(panic);
    }));
    let rounds = form(15, 200);
    let (tasks, mut longest) = (Tasks::now(), Duration::ZERO);
    for round in 0..rounds {
        let discovery = registry.discovery(Duration::from_millis(100));
        let opening = Box::pin(registry.open(&discovery));
        // While topics are opened, while their nodes change, or while idle.
        let watches = tokio::time::timeout(Duration::from_millis(round % 5 * 30), opening).await;
        if round % 2 == 0 {
            registry.offer(0, 0, 3).await;
        }
        let started = Instant::now();
        discovery.close().await;
        longest = longest.max(started.elapsed());
        drop(watches);
    }
    tasks.wait_until_none_left().await;
    let _ = panic::take_hook();
    figure(format!("{rounds} discoveries closed: panics"), "", panics.load(Ordering::Relaxed), 0);
    figure(format!("{rounds} discoveries closed: longest"), " ms", longest.as_millis(), 1_000);
}
