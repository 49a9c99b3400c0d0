//! Queues that are empty and not in use: they are given back, and no message is lost by that.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use metaq_producer::{Message, Partition, Topic};

use super::{SOON, append, assert_balanced, finished, options, payload, read, replay_all, start};
use crate::{
    storage::Storage,
    store::{Kind, memory::MemoryStore},
};

/// As many are kept of each, and at most twice as many as are in use.
pub(super) const KEPT: usize = 8;

pub(super) const PARTITIONS: i32 = 4;

pub(super) fn topic(index: usize) -> Topic {
    format!("t{index}").parse().unwrap()
}

pub(super) fn to(index: usize, payload: impl Into<String>) -> Message {
    let partition = Partition::new(0, index as i32 % PARTITIONS);
    Message::new(topic(index), payload.into()).with_partition(partition)
}

fn queue_rows(store: &MemoryStore) -> usize {
    store.0.lock().rows.keys().filter(|key| key.kind == Kind::Queue).count()
}

#[tokio::test]
async fn queues_that_were_emptied_are_given_back() {
    let store = MemoryStore::default();
    let storage = start(&options(), &store);
    for index in 0..1000 {
        append(&storage, to(index, index.to_string())).await.unwrap();
        assert_eq!(replay_all(&storage).await, [index.to_string()]);
        let (known, rows) = (storage.common.index.len(), queue_rows(&store));
        assert!(known <= KEPT + 1 && rows <= 2 * KEPT, "{known} queues and {rows} rows after {index}");
    }
    // Those that hold messages stay, and those that were to be forgotten while nothing was written are gone
    // when the folder is closed.
    for index in 0..100 {
        append(&storage, to(index, index.to_string())).await.unwrap();
    }
    assert!(storage.common.index.len() >= 100);
    assert_balanced(&storage);
    storage.close();
    let storage = start(&options(), &store);
    assert_eq!((storage.common.ledger.counts().recovered, queue_rows(&store)), (100, 100));
    assert_eq!(replay_all(&storage).await.len(), 100);
    storage.flush().await;
    assert!(storage.common.index.len() <= KEPT, "{}", storage.common.index.len());
}

#[tokio::test]
async fn queues_whose_messages_could_not_be_written_are_given_back() {
    let store = MemoryStore::default();
    let storage = start(&options(), &store);
    store.0.lock().is_full = true;
    for index in 0..100 {
        append(&storage, to(index, "a")).await.unwrap_err();
    }
    store.0.lock().is_full = false;
    append(&storage, to(0, "b")).await.unwrap();
    storage.flush().await;
    let known = storage.common.index.len();
    assert!(known <= 2 * KEPT, "{known}");
    assert_eq!(replay_all(&storage).await, ["b"]);
}

#[tokio::test]
async fn rows_of_empty_queues_do_not_outlive_killed_processes() {
    let mut store = MemoryStore::default();
    for index in 0..50 {
        let storage = start(&options(), &store);
        assert_eq!(storage.common.index.len(), 0);
        append(&storage, to(index, "a")).await.unwrap();
        assert_eq!(replay_all(&storage).await, ["a"]);
        assert!(queue_rows(&store) <= 2, "{}", queue_rows(&store));
        // The kill.
        let left = MemoryStore::default();
        left.0.lock().rows = store.0.lock().rows.clone();
        store = left;
    }
}

/// Reads the messages of all queues as they come, and removes them; returns them by queue.
async fn replay_until(storage: Arc<Storage>, is_done: Arc<AtomicBool>) -> BTreeMap<String, Vec<String>> {
    let mut replayed = BTreeMap::<_, Vec<_>>::new();
    loop {
        let was_done = is_done.load(Ordering::Acquire);
        let filled = storage.common.index.filled();
        if was_done && filled.is_empty() {
            return replayed;
        }
        for queue in filled {
            let rows = read(&storage, &queue).await.unwrap();
            let of_queue = replayed.entry(queue.key.topic.to_string()).or_default();
            of_queue.extend(rows.iter().map(|(_, row)| payload(row)));
            storage.finish(&queue, rows.iter().map(|(number, row)| finished(*number, row)).collect());
        }
        storage.flush().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn queues_are_given_back_beside_those_who_fill_them() {
    const QUEUES: usize = 5 * KEPT;
    let store = MemoryStore::default();
    let storage = Arc::new(start(&options(), &store));
    let is_done = Arc::new(AtomicBool::new(false));
    let replaying = tokio::spawn(replay_until(Arc::clone(&storage), Arc::clone(&is_done)));
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let storage = Arc::clone(&storage);
            tokio::spawn(async move {
                for n in 0..500 {
                    // All use the same queues at about the same time.
                    let message = to(n / 4 % QUEUES, format!("{sender} {n:04}"));
                    append(&storage, message).await.unwrap();
                }
            })
        })
        .collect();
    for sender in senders {
        tokio::time::timeout(SOON, sender).await.unwrap().unwrap();
    }
    is_done.store(true, Ordering::Release);
    let replayed = tokio::time::timeout(SOON, replaying).await.unwrap().unwrap();
    let all: Vec<_> = replayed.values().flatten().collect();
    assert_eq!((all.len(), all.iter().collect::<HashSet<_>>().len()), (2000, 2000));
    for (topic, of_queue) in &replayed {
        for sender in 0..4 {
            let prefix = format!("{sender} ");
            let of_sender = of_queue.iter().filter(|payload| payload.starts_with(&prefix));
            assert!(of_sender.is_sorted(), "{topic}: {of_queue:?}");
        }
    }
    storage.flush().await;
    assert_balanced(&storage);
    let known = storage.common.index.len();
    assert!(known < QUEUES && queue_rows(&store) < QUEUES, "{known}");
    assert!(storage.common.index.next_id() as usize > QUEUES, "some were made anew");
}
