//! The load on the runtime for a large file.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::try_join_all;
use metaq_discovery::{Discovery, FileDiscovery};
use nix::time::{ClockId, clock_gettime};
use tokio::time::{sleep, timeout};

use crate::{Place, TIMEOUT, file, topic};

const TOPICS: usize = 1_000;

/// The longest time that a task may wait because of a discovery.
const LONGEST_MS: u64 = 100;

/// The CPU time of this thread, which excludes the time that other threads and processes use.
fn ran() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// The longest time in milliseconds that an always ready task had to wait, on a single-threaded runtime.
fn watch_delays() -> Arc<AtomicU64> {
    let longest = Arc::new(AtomicU64::new(0));
    let shown = Arc::downgrade(&longest);
    tokio::spawn(async move {
        let mut last = ran();
        while let Some(longest) = shown.upgrade() {
            tokio::task::yield_now().await;
            let now = ran();
            longest.fetch_max((now - last).as_millis() as u64, Ordering::Relaxed);
            last = now;
        }
    });
    longest
}

#[tokio::test]
async fn a_changing_large_file_blocks_no_task() {
    let place = Place::old(&file(TOPICS, 30, 1000));
    let discovery = FileDiscovery::new(&place.path);
    let topics: Vec<_> = (0..TOPICS).map(topic).collect();
    let mut watches = try_join_all(topics.iter().map(|topic| discovery.watch(topic))).await.unwrap();
    let longest = watch_delays();
    place.replace(&file(TOPICS, 31, 1000));
    let seen = timeout(TIMEOUT, watches[TOPICS - 1].changed()).await.expect("the change is seen").unwrap();
    assert_eq!(seen.brokers().len(), 31);
    let longest = longest.load(Ordering::Relaxed);
    println!("a change of {TOPICS} topics held tasks up for {longest} ms");
    assert!(longest < LONGEST_MS, "{longest} ms");
}

#[tokio::test]
async fn an_unchanged_large_file_costs_the_runtime_nothing() {
    let place = Place::old(&file(TOPICS, 30, 1000));
    let discovery = FileDiscovery::new(&place.path);
    let topics: Vec<_> = (0..TOPICS).map(topic).collect();
    let watches = try_join_all(topics.iter().map(|topic| discovery.watch(topic))).await.unwrap();
    let before = ran();
    sleep(Duration::from_secs(5)).await;
    let took = ran() - before;
    println!("5 s of quiet took {took:?} of the runtime's thread");
    assert!(took < Duration::from_millis(50), "{took:?}");
    // The views are nevertheless confirmed.
    assert!(watches.iter().all(|watch| watch.current().age() < Duration::from_secs(4)));
}
