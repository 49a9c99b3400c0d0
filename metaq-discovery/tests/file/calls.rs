//! Concurrent calls, dropped calls, and calls while the clock is paused.

use std::{
    fmt::Write as _,
    fs,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use metaq_discovery::{Discovery, DiscoveryEvent, FileDiscovery};

use crate::{Place, TIMEOUT, events_so_far, file, topic};

#[tokio::test]
async fn thousands_of_topics_are_opened_with_few_scans() {
    const TOPICS: usize = 2_000;
    let place = Place::old(&file(TOPICS, 1, 1000));
    let discovery = FileDiscovery::new(&place.path);
    let mut events = discovery.events();
    let (topics, started) = ((0..TOPICS).map(topic).collect::<Vec<_>>(), Instant::now());
    let watches = try_join_all(topics.iter().map(|topic| discovery.watch(topic))).await.unwrap();
    let took = started.elapsed();
    assert!(watches.iter().all(|watch| watch.current().brokers().len() == 1));
    // When each call read the file and published all views, this took minutes.
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(events_so_far(&mut events).await, [DiscoveryEvent::Connected]);
}

/// The number of threads of this process that read files.
#[cfg(target_os = "linux")]
fn threads() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    names.filter(|name| name.starts_with("metaq-file")).count()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_dropped_call_does_not_affect_the_next() {
    let mut text = file(1, 1, 1000);
    while text.len() < 30 << 20 {
        writeln!(text, "# {}", "x".repeat(1000)).unwrap();
    }
    let place = Place::old(&text);
    for _ in 0..5 {
        let discovery = FileDiscovery::new(&place.path);
        let mut events = discovery.events();
        let watched = topic(0);
        let before = threads();
        let mut watch = discovery.watch(&watched);
        let started = Instant::now();
        loop {
            match watch.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                // The call completed before it could be dropped.
                Poll::Ready(_) => break,
                Poll::Pending if threads() > before => break,
                Poll::Pending => assert!(started.elapsed() < TIMEOUT, "no thread reads"),
            }
        }
        drop(watch);
        let watch = discovery.watch(&watched).await.unwrap();
        assert_eq!(watch.current().brokers().len(), 1);
        assert_eq!(events_so_far(&mut events).await, [DiscoveryEvent::Connected]);
    }
}

/// Threads do not stop a paused clock from advancing.
#[tokio::test(start_paused = true)]
async fn files_are_followed_while_the_clock_is_paused() {
    let place = Place::new(&file(1, 1, 1000));
    let discovery = FileDiscovery::new(&place.path);
    let mut events = discovery.events();
    let mut watch = discovery.watch(&topic(0)).await.unwrap();
    assert_eq!(discovery.topics().await.unwrap(), [topic(0)]);
    place.replace(&file(1, 2, 1000));
    assert_eq!(watch.changed().await.unwrap().brokers().len(), 2);
    assert!(!events_so_far(&mut events).await.contains(&DiscoveryEvent::Lost));
}

#[tokio::test]
async fn debug_shows_no_content() {
    let text = file(20_000, 1, 1000);
    let place = Place::old(&text);
    let discovery = FileDiscovery::new(&place.path);
    let _watches = try_join_all((0..10).map(topic).collect::<Vec<_>>().iter().map(|t| discovery.watch(t)))
        .await
        .unwrap();
    let shown = format!("{discovery:?}");
    assert!(shown.contains("brokers.toml") && shown.contains("20000") && shown.len() < 1024, "{shown}");
}
