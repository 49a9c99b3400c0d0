//! What is spooled reaches the bounds, or waits for its interval.

use std::time::Duration;

use super::{assert_balanced, message, options, payload, pinned, queue, read, start};
use crate::{Fsync, WhenFull, store::memory::MemoryStore};

#[tokio::test]
async fn what_is_dropped_for_new_messages_takes_no_commit() {
    let store = MemoryStore::default();
    let mut options = options();
    (options.max_messages, options.when_full) = (100, WhenFull::DropOldest);
    // Only a flush commits.
    options.fsync = Fsync::Interval(Duration::from_secs(3600));
    let storage = start(&options, &store);
    let spool = async |range: std::ops::Range<i32>| {
        let before = store.0.lock().commits;
        let pending: Vec<_> =
            range.map(|n| storage.try_submit(pinned(n.to_string(), n % 4)).unwrap()).collect();
        storage.flush().await;
        for pending in pending {
            pending.outcome().await.unwrap();
        }
        store.0.lock().commits - before
    };
    assert_eq!(spool(0..100).await, 1);
    assert_eq!(spool(100..140).await, 1);
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.dropped, counts.waiting, counts.spooled), (40, 100, 140));
    // The oldest of all queues are gone, in each as many.
    for n in 0..4 {
        let rows = read(&storage, &queue(&storage, &pinned("", n))).await.unwrap();
        assert_eq!((rows.len(), payload(&rows[0].1)), (25, (40 + n).to_string()));
    }
    // More than there may be at all: what is too much of these is dropped by another commit.
    assert_eq!(spool(140..300).await, 2);
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.dropped, counts.waiting), (200, 100));
    assert_balanced(&storage);
}

#[tokio::test]
async fn the_longest_interval_is_no_panic() {
    let store = MemoryStore::default();
    let mut options = options();
    options.fsync = Fsync::Interval(Duration::MAX);
    let storage = start(&options, &store);
    let mut pending = Box::pin(storage.try_submit(message("a")).unwrap().outcome());
    // Answered by the writer, which has looked at its clock since the message came.
    storage
        .common
        .inbox
        .push(crate::storage::inbox::Request::Finish(queue(&storage, &message("")), Vec::new()))
        .ok();
    let _ = read(&storage, &queue(&storage, &message(""))).await.unwrap();
    assert!(futures_util::FutureExt::now_or_never(&mut pending).is_none());
    storage.flush().await;
    pending.await.unwrap();
}
