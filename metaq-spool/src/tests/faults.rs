//! Writing fails, for a while or at random.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{SOON, append, assert_balanced, finished, message, options, payload, pinned, queue, read, start};
use crate::{Fsync, SpoolEvent, SpoolSendErrorKind, WhenFull, store::memory::MemoryStore};

#[tokio::test]
async fn a_full_disk_refuses_messages_until_there_is_space() {
    let store = MemoryStore::default();
    let storage = start(&options(), &store);
    let mut events = storage.common.events.subscribe();
    append(&storage, message("a")).await.unwrap();
    store.0.lock().is_full = true;
    for _ in 0..3 {
        let error = append(&storage, message("b")).await.unwrap_err();
        assert_eq!(error.kind(), SpoolSendErrorKind::Store);
        assert!(error.to_string().contains("no space is left"), "{error}");
        assert_eq!(error.into_message(), Some(message("b")));
    }
    let queue = queue(&storage, &message("a"));
    assert_eq!(queue.held(), 1);
    // A removal that can't be written is kept, and its message not read again.
    let rows = read(&storage, &queue).await.unwrap();
    storage.finish(&queue, vec![finished(rows[0].0, &rows[0].1)]);
    storage.flush().await;
    assert_eq!(
        (read(&storage, &queue).await.unwrap().len(), storage.common.ledger.counts().replayed),
        (0, 0)
    );
    store.0.lock().is_full = false;
    tokio::time::timeout(SOON, async {
        while queue.held() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    append(&storage, message("c")).await.unwrap();
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.spooled, counts.replayed, counts.unwritten, counts.waiting), (2, 1, 3, 1));
    assert_balanced(&storage);
    let failed = async { while !matches!(events.next().await, Some(SpoolEvent::StoreFailed { .. })) {} };
    tokio::time::timeout(SOON, failed).await.unwrap();
}

#[tokio::test]
async fn a_queue_whose_first_commit_failed_is_read_from_its_start() {
    let store = MemoryStore::default();
    let mut options = options();
    // Only a flush commits.
    options.fsync = Fsync::Interval(Duration::from_secs(3600));
    let storage = start(&options, &store);
    store.0.lock().is_full = true;
    let pending = ["a", "b"].into_iter().zip(0..);
    let pending: Vec<_> = pending.map(|(text, n)| storage.try_submit(pinned(text, n)).unwrap()).collect();
    storage.flush().await;
    for pending in pending {
        assert_eq!(pending.outcome().await.unwrap_err().kind(), SpoolSendErrorKind::Store);
    }
    store.0.lock().is_full = false;
    let pending = storage.try_submit(pinned("c", 1)).unwrap();
    storage.flush().await;
    pending.outcome().await.unwrap();
    let rows = read(&storage, &queue(&storage, &pinned("", 1))).await.unwrap();
    assert_eq!(rows.iter().map(|(_, row)| payload(row)).collect::<Vec<_>>(), ["c"]);
    assert_balanced(&storage);
}

#[tokio::test]
async fn a_failed_removal_is_tried_again_after_later_messages() {
    let store = MemoryStore::default();
    let storage = start(&options(), &store);
    append(&storage, message("a")).await.unwrap();
    let queue = queue(&storage, &message(""));
    let rows = read(&storage, &queue).await.unwrap();
    store.0.lock().keeps_messages = true;
    storage.finish(&queue, vec![finished(rows[0].0, &rows[0].1)]);
    append(&storage, message("b")).await.unwrap();
    assert_eq!(queue.held(), 2);
    store.0.lock().keeps_messages = false;
    let removed = async {
        while queue.held() > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, removed).await.unwrap();
    assert_balanced(&storage);
}

#[tokio::test]
async fn a_commit_that_is_found_later_is_undone() {
    let store = MemoryStore::default();
    let storage = start(&options(), &store);
    append(&storage, message("a")).await.unwrap();
    {
        let mut memory = store.0.lock();
        (memory.failing, memory.failing_after_commit, memory.failing_reopens) = (1.0, 1.0, 1);
    }
    let error = append(&storage, message("b")).await.unwrap_err();
    assert_eq!(error.kind(), SpoolSendErrorKind::Store);
    store.0.lock().failing = 0.0;
    append(&storage, message("c")).await.unwrap();
    let queue = queue(&storage, &message(""));
    let rows = read(&storage, &queue).await.unwrap();
    assert_eq!(rows.iter().map(|(_, row)| payload(row)).collect::<Vec<_>>(), ["a", "c"]);
    // A removal that is found later was made.
    {
        let mut memory = store.0.lock();
        (memory.failing, memory.failing_reopens) = (1.0, 1);
    }
    storage.finish(&queue, vec![finished(rows[0].0, &rows[0].1)]);
    storage.flush().await;
    store.0.lock().failing = 0.0;
    storage.flush().await;
    storage.finish(&queue, vec![finished(rows[1].0, &rows[1].1)]);
    storage.flush().await;
    assert_eq!((queue.held(), storage.common.ledger.counts().replayed), (0, 2));
    assert_balanced(&storage);
    storage.close();
    assert!(start(&options(), &store).common.was_closed);
}

#[tokio::test]
async fn a_message_that_is_dropped_and_stored_counts_once() {
    let store = MemoryStore::default();
    let mut options = options();
    (options.max_messages, options.when_full) = (2, WhenFull::DropOldest);
    let storage = start(&options, &store);
    append(&storage, message("a")).await.unwrap();
    append(&storage, message("b")).await.unwrap();
    let queue = queue(&storage, &message(""));
    let rows = read(&storage, &queue).await.unwrap();
    {
        let mut memory = store.0.lock();
        (memory.failing, memory.failing_after_commit, memory.failing_reopens) = (1.0, 1.0, 2);
    }
    append(&storage, message("c")).await.unwrap_err();
    store.0.lock().failing = 0.0;
    // "a" is acknowledged before it is known that it was dropped for "c".
    storage.finish(&queue, vec![finished(rows[0].0, &rows[0].1)]);
    storage.flush().await;
    let left = read(&storage, &queue).await.unwrap();
    assert_eq!(left.iter().map(|(_, row)| payload(row)).collect::<Vec<_>>(), ["b"]);
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.dropped, counts.replayed, counts.waiting), (1, 0, 1));
    assert_eq!((queue.held(), queue.unremoved()), (1, 0));
    assert_balanced(&storage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn failing_commits_lose_and_double_nothing() {
    let store = MemoryStore::default();
    {
        let mut memory = store.0.lock();
        (memory.failing, memory.failing_after_commit) = (0.3, 0.5);
    }
    // The first commit of opening may fail, too.
    let storage = loop {
        match crate::storage::Storage::start(&options(), Box::new(store.clone()), None) {
            Ok(storage) => break Arc::new(storage),
            Err(_) => crate::store::Store::reopen(&mut store.clone()).unwrap(),
        }
    };
    let appenders: Vec<_> = (0..6)
        .map(|appender| {
            let storage = Arc::clone(&storage);
            tokio::spawn(async move {
                let mut stored = BTreeSet::new();
                for n in 0..200 {
                    let payload = format!("{appender}-{n}");
                    if append(&storage, pinned(&payload, n % 3)).await.is_ok() {
                        stored.insert(payload);
                    }
                }
                stored
            })
        })
        .collect();
    let mut replayed = Vec::new();
    while !appenders.iter().all(tokio::task::JoinHandle::is_finished) {
        for queue in storage.common.index.filled() {
            let rows = read(&storage, &queue).await.unwrap_or_default();
            replayed.extend(rows.iter().map(|(_, row)| payload(row)));
            storage.finish(&queue, rows.iter().map(|(number, row)| finished(*number, row)).collect());
        }
    }
    let mut expected = BTreeSet::new();
    for appender in appenders {
        expected.extend(appender.await.unwrap());
    }
    store.0.lock().failing = 0.0;
    tokio::time::timeout(SOON, async {
        loop {
            storage.flush().await;
            let filled = storage.common.index.filled();
            if filled.is_empty() {
                return;
            }
            for queue in filled {
                let rows = read(&storage, &queue).await.unwrap();
                replayed.extend(rows.iter().map(|(_, row)| payload(row)));
                storage.finish(&queue, rows.iter().map(|(number, row)| finished(*number, row)).collect());
            }
        }
    })
    .await
    .unwrap();
    let once: BTreeSet<_> = replayed.iter().cloned().collect();
    assert_eq!((once.len(), &once), (replayed.len(), &expected), "each was read once");
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.spooled, counts.spooled + counts.unwritten), (expected.len() as u64, 1200));
    assert!(counts.unwritten > 0);
    assert_balanced(&storage);
    storage.close();
    let rows = store.0.lock().rows.len();
    assert_eq!(rows, 4, "the state and three queues");
}

#[tokio::test]
async fn a_clock_that_jumps_ages_no_message() {
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    fn later() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000)
    }
    fn earlier() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000)
    }
    let store = MemoryStore::default();
    let mut options = options();
    (options.max_age, options.wall_clock) = (Some(Duration::from_secs(3600)), later);
    let storage = start(&options, &store);
    append(&storage, message("a")).await.unwrap();
    storage.close();
    // The clock was set back between the processes: time goes on from what was written.
    options.wall_clock = earlier;
    let storage = start(&options, &store);
    assert!(at(0) + storage.common.clock.now() >= later());
    append(&storage, message("b")).await.unwrap();
    let queue = queue(&storage, &message("a"));
    let rows = read(&storage, &queue).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert!(rows.is_sorted_by_key(|(_, row)| crate::record::time(row).unwrap()));
    assert_balanced(&storage);
}
