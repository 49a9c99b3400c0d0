//! Messages that become too old.

use std::time::Duration;

use super::{SOON, append, assert_balanced, finished, message, options, queue, read, start};
use crate::{Fsync, SpoolSendErrorKind, storage::Storage, store::memory::MemoryStore};

/// Waits until what is spooled now is this old.
async fn wait_for_age(storage: &Storage, age: Duration) {
    let end = storage.common.clock.now() + age;
    while storage.common.clock.now() < end {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn old_messages_on_a_full_disk_hold_up_no_other() {
    let store = MemoryStore::default();
    let mut options = options();
    options.max_age = Some(Duration::from_millis(50));
    let storage = start(&options, &store);
    append(&storage, message("a")).await.unwrap();
    store.0.lock().is_full = true;
    wait_for_age(&storage, Duration::from_millis(150)).await;
    let late = tokio::time::timeout(SOON, append(&storage, message("b"))).await.unwrap();
    assert_eq!(late.unwrap_err().kind(), SpoolSendErrorKind::Store);
    assert_balanced(&storage);
}

#[tokio::test]
async fn old_messages_that_wait_for_removal_hold_up_no_other() {
    let store = MemoryStore::default();
    let mut options = options();
    options.fsync = Fsync::Interval(Duration::from_secs(3600));
    options.max_age = Some(Duration::from_millis(500));
    let storage = start(&options, &store);
    let pending = storage.try_submit(message("a")).unwrap();
    storage.flush().await;
    pending.outcome().await.unwrap();
    let queue = queue(&storage, &message(""));
    let rows = read(&storage, &queue).await.unwrap();
    storage.finish(&queue, rows.iter().map(|(number, row)| finished(*number, row)).collect());
    wait_for_age(&storage, Duration::from_millis(700)).await;
    let pending = storage.try_submit(message("b")).unwrap();
    tokio::time::timeout(SOON, storage.flush()).await.unwrap();
    pending.outcome().await.unwrap();
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.replayed + counts.dropped, counts.waiting), (1, 1));
    assert_balanced(&storage);
}
