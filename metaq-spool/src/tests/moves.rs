//! Messages that are moved to the queues of their partitions, beside what else happens to the store.

use std::{sync::Arc, time::Duration};

use super::{append, assert_balanced, finished, message, options, payload, pinned, queue, read, start};
use crate::{
    Fsync, SpoolOptions, WhenFull,
    record::{self, QueueKey},
    storage::{Storage, inbox::Placed, index::Queue},
    store::{Key, Kind, memory::MemoryStore},
};

/// Asks for a message to be moved, as replay does.
fn place(storage: &Storage, from: &Arc<Queue>, number: u64, row: &[u8], partition: i32) -> Arc<Queue> {
    let record = record::decode(row.to_vec()).unwrap();
    let moved = pinned(payload(row), partition);
    let to = storage.common.index.find_or_make(&QueueKey::of(&moved));
    to.add();
    let (row, bytes) = (record::encode(&moved, record.time), row.len() as u64);
    storage.place(from, vec![Placed { from: Arc::clone(from), number, bytes, to: Arc::clone(&to), row }]);
    to
}

/// A spool with messages that name no partition, their queue, and their rows.
async fn spooled(
    options: &SpoolOptions,
    payloads: &[&str],
) -> (MemoryStore, Storage, Arc<Queue>, Vec<(u64, Vec<u8>)>) {
    let store = MemoryStore::default();
    let storage = start(options, &store);
    for payload in payloads {
        append(&storage, message(*payload)).await.unwrap();
    }
    let queue = queue(&storage, &message(""));
    let rows = read(&storage, &queue).await.unwrap();
    (store, storage, queue, rows)
}

async fn payloads(storage: &Storage, queue: &Arc<Queue>) -> Vec<String> {
    read(storage, queue).await.unwrap().iter().map(|(_, row)| payload(row)).collect()
}

/// Fails unless the counts are those of the store.
fn assert_agrees(storage: &Storage, store: &MemoryStore) {
    assert_balanced(storage);
    let counts = storage.common.ledger.counts();
    let memory = store.0.lock();
    let rows = || memory.rows.iter().filter(|(key, _)| key.kind == Kind::Message).map(|(_, row)| row.len());
    assert_eq!((counts.waiting, counts.waiting_bytes), (rows().count() as u64, rows().sum::<usize>() as u64));
    assert_eq!(storage.common.ledger.reserved(), 0);
}

#[tokio::test]
async fn a_move_that_is_found_later_counts_once() {
    let (store, storage, from, rows) = spooled(&options(), &["a", "b"]).await;
    {
        let mut memory = store.0.lock();
        (memory.failing, memory.failing_after_commit, memory.failing_reopens) = (1.0, 1.0, 2);
    }
    let to = place(&storage, &from, rows[0].0, &rows[0].1, 0);
    storage.flush().await;
    store.0.lock().heal();
    storage.flush().await;
    append(&storage, pinned("c", 0)).await.unwrap();
    assert_eq!(payloads(&storage, &from).await, ["b"]);
    assert_eq!(payloads(&storage, &to).await, ["a", "c"]);
    assert_eq!((from.held(), from.unremoved(), to.held(), to.placed()), (1, 0, 2, 1));
    assert_agrees(&storage, &store);
    assert_eq!(store.0.lock().replacements, 0);
}

#[tokio::test]
async fn a_message_that_was_dropped_is_not_moved() {
    let mut options = options();
    (options.max_messages, options.when_full) = (2, WhenFull::DropOldest);
    let (store, storage, from, rows) = spooled(&options, &["a", "b"]).await;
    {
        let mut memory = store.0.lock();
        (memory.failing, memory.failing_after_commit, memory.failing_reopens) = (1.0, 1.0, 2);
    }
    append(&storage, message("c")).await.unwrap_err();
    store.0.lock().failing = 0.0;
    // It is asked for before it is known that "a" was dropped for "c".
    let to = place(&storage, &from, rows[0].0, &rows[0].1, 0);
    storage.flush().await;
    storage.flush().await;
    assert_eq!(payloads(&storage, &from).await, ["b"]);
    assert!(payloads(&storage, &to).await.is_empty());
    assert_eq!((from.held(), from.unremoved(), to.held(), to.placed()), (1, 0, 0, 0));
    assert_eq!(storage.common.ledger.counts().dropped, 1);
    // Or after that.
    let to = place(&storage, &from, rows[0].0, &rows[0].1, 0);
    storage.flush().await;
    assert_eq!((from.held(), from.unremoved(), to.held(), to.placed()), (1, 0, 0, 0));
    assert_agrees(&storage, &store);
    assert_eq!(store.0.lock().replacements, 0);
}

#[tokio::test]
async fn what_is_to_be_moved_survives_damage() {
    let (store, storage, from, rows) = spooled(&options(), &["a", "b", "c"]).await;
    append(&storage, pinned("d", 0)).await.unwrap();
    store.0.lock().keeps_messages = true;
    let to = place(&storage, &from, rows[0].0, &rows[0].1, 0);
    storage.flush().await;
    assert_eq!(payloads(&storage, &from).await, ["b", "c"]);
    // The one that is to be moved is at hand, and "b" is not.
    store.0.lock().unreadable = rows[..2].iter().map(|(number, _)| Key::message(from.id, *number)).collect();
    assert_eq!(payloads(&storage, &from).await, ["c"]);
    assert_eq!(payloads(&storage, &to).await, ["a", "d"]);
    assert_eq!((from.held(), from.unremoved(), to.held(), to.placed()), (1, 0, 2, 1));
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.damaged, counts.recovered, counts.files_set_aside), (1, 0, 1));
    store.0.lock().heal();
    storage.finish(&to, vec![finished(rows[0].0, &rows[0].1)]);
    storage.flush().await;
    assert_eq!(payloads(&storage, &to).await, ["d"]);
    assert_balanced(&storage);
    assert_eq!(store.0.lock().replacements, 1);
}

#[tokio::test]
async fn a_move_in_doubt_in_a_damaged_file_counts_once() {
    let (store, storage, from, rows) = spooled(&options(), &["a", "b"]).await;
    {
        let mut memory = store.0.lock();
        (memory.failing, memory.failing_after_commit, memory.is_damaged) = (1.0, 1.0, true);
    }
    let to = place(&storage, &from, rows[0].0, &rows[0].1, 0);
    storage.flush().await;
    store.0.lock().heal();
    storage.flush().await;
    assert_eq!(payloads(&storage, &from).await, ["b"]);
    assert_eq!(payloads(&storage, &to).await, ["a"]);
    assert_eq!((from.held(), from.unremoved(), to.held(), to.placed()), (1, 0, 1, 1));
    assert_agrees(&storage, &store);
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.damaged, counts.recovered, store.0.lock().replacements), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn messages_in_front_of_dropped_ones_are_removed() {
    let store = MemoryStore::default();
    let mut options = options();
    (options.fsync, options.max_age) =
        (Fsync::Interval(Duration::from_secs(3600)), Some(Duration::from_secs(10)));
    let storage = Storage::start_on_task(&options, Box::new(store.clone()), || Duration::ZERO).unwrap();
    let spooled = [message("a"), pinned("b", 0)].map(|message| storage.try_submit(message).unwrap());
    storage.flush().await;
    for pending in spooled {
        pending.outcome().await.unwrap();
    }
    let (from, to) = (queue(&storage, &message("")), queue(&storage, &pinned("", 0)));
    let (a, b) = (read(&storage, &from).await.unwrap(), read(&storage, &to).await.unwrap());
    // "b" is being replayed, and "a" is on its way to the place in front of it.
    place(&storage, &from, a[0].0, &a[0].1, 0);
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    assert_eq!((storage.common.ledger.counts().dropped, to.held()), (1, 1));
    storage.flush().await;
    assert_eq!(to.placed(), 1);
    storage.finish(&to, vec![finished(b[0].0, &b[0].1)]);
    storage.finish(&to, vec![finished(a[0].0, &a[0].1)]);
    storage.flush().await;
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.dropped, counts.replayed, counts.waiting), (1, 1, 0));
    assert_eq!((from.held(), to.held(), to.unremoved()), (0, 0, 0));
    assert_balanced(&storage);
    assert_eq!(store.0.lock().replacements, 0);
    storage.end().await;
}
