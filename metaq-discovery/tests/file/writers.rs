//! Files that are written while they are read.

use std::{io::Write as _, time::Duration};

use futures_util::future::join_all;
use metaq_discovery::{Discovery, DiscoveryEvent, FileDiscovery};
use tokio::{
    spawn,
    time::{Instant, sleep, timeout},
};

use crate::{Place, TIMEOUT, events_so_far, file, replace, topic};

/// Many calls read the first half of a file many times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_a_file_is_never_accepted() {
    // On a busy machine writing the rest may take so long that the half is rightly accepted.
    while !is_half_of_a_file_ignored().await {}
}

/// Returns false if the rest was written too late for a result.
async fn is_half_of_a_file_ignored() -> bool {
    let (before, after) = (file(20, 2, 1000), file(20, 3, 1000));
    let place = Place::old(&before);
    let discovery = FileDiscovery::new(&place.path);
    let mut watch = discovery.watch(&topic(19)).await.unwrap();
    let mut events = discovery.events();
    // The file is truncated and written in two portions.
    let (first, second) = after.split_at(after.len() / 2);
    let first = &first[..first.rfind("[topics").unwrap()];
    let second = &after[first.len()..second.len() + after.len() / 2];
    let began = Instant::now();
    let mut writing = std::fs::File::create(&place.path).unwrap();
    writing.write_all(first.as_bytes()).unwrap();
    let calls = join_all((0..50).map(|_| discovery.topics()));
    let answered = timeout(Duration::from_millis(200), calls).await;
    writing.write_all(second.as_bytes()).unwrap();
    drop(writing);
    if began.elapsed() > Duration::from_millis(400) {
        return false;
    }
    assert!(answered.is_err(), "none has half of it for an answer");
    let changed = timeout(TIMEOUT, watch.changed()).await.expect("the whole is seen").unwrap();
    assert_eq!(changed.brokers().len(), 3);
    for event in events_so_far(&mut events).await {
        if let DiscoveryEvent::ViewChanged(change) = event {
            assert!(change.removed.is_empty(), "{change:?}");
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changing_comments_do_not_delay_acceptance() {
    let place = Place::old(&file(1, 1, 1000));
    let discovery = FileDiscovery::new(&place.path);
    let mut watch = discovery.watch(&topic(0)).await.unwrap();
    let new = file(1, 2, 1000);
    let path = place.path.clone();
    let writing = spawn(async move {
        for round in 0.. {
            replace(&path, &format!("# {round}\n{new}"));
            // Not a divisor of the scan interval.
            sleep(Duration::from_millis(37)).await;
        }
    });
    let changed = timeout(TIMEOUT, watch.changed()).await.expect("the new broker is seen").unwrap();
    assert_eq!(changed.brokers().len(), 2);
    let again = timeout(TIMEOUT, discovery.watch(&topic(0))).await.expect("it counts").unwrap();
    assert_eq!(again.current().brokers().len(), 2);
    writing.abort();
}
