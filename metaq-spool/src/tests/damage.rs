//! Rows that were flipped, cut or can't be read.

use std::time::Duration;

use metaq_producer::Producer;
use metaq_testkit::Broker;
use tokio::runtime::Handle;

use super::{SOON, append, assert_balanced, finished, message, options, payload, queue, read, start, topic};
use crate::{
    SpoolEvent, SpoolingProducer,
    storage::Storage,
    store::{Key, Kind, memory::MemoryStore},
};

fn message_keys(store: &MemoryStore) -> Vec<Key> {
    store.0.lock().rows.keys().filter(|key| key.kind == Kind::Message).copied().collect()
}

#[tokio::test]
async fn rows_that_cannot_be_read_are_skipped_and_counted() {
    for (unreadable, left) in [(0..1, 49), (0..20, 30), (7..30, 27), (49..50, 49), (0..50, 0)] {
        let store = MemoryStore::default();
        let storage = start(&options(), &store);
        let mut events = storage.common.events.subscribe();
        for n in 0..50 {
            append(&storage, message(n.to_string())).await.unwrap();
        }
        store.0.lock().unreadable = message_keys(&store)[unreadable.clone()].to_vec();
        let queue = queue(&storage, &message(""));
        let mut found = Vec::new();
        tokio::time::timeout(SOON, async {
            while queue.held() > 0 {
                let rows = read(&storage, &queue).await.unwrap();
                found.extend(rows.iter().map(|(_, row)| payload(row)));
                storage.finish(&queue, rows.iter().map(|(number, row)| finished(*number, row)).collect());
                storage.flush().await;
            }
        })
        .await
        .unwrap();
        let expected: Vec<_> =
            (0..50).filter(|n| !unreadable.contains(n)).map(|n: usize| n.to_string()).collect();
        assert_eq!((found.len(), &found), (left, &expected));
        let counts = storage.common.ledger.counts();
        assert_eq!((counts.damaged, counts.replayed), (50 - left as u64, left as u64));
        assert_balanced(&storage);
        let damaged = async {
            loop {
                if let Some(SpoolEvent::Damaged { count, .. }) = events.next().await {
                    return count;
                }
            }
        };
        assert_eq!(tokio::time::timeout(SOON, damaged).await.unwrap(), 50 - left as u64);
    }
}

#[tokio::test]
async fn damage_beside_removals_that_wait_counts_once() {
    let store = MemoryStore::default();
    let storage = start(&options(), &store);
    for n in 0..10 {
        append(&storage, message(n.to_string())).await.unwrap();
    }
    let queue = queue(&storage, &message(""));
    let rows = read(&storage, &queue).await.unwrap();
    store.0.lock().keeps_messages = true;
    storage.finish(&queue, rows[..3].iter().map(|(number, row)| finished(*number, row)).collect());
    storage.flush().await;
    assert_eq!((queue.held(), queue.unremoved()), (10, 3));
    // One that waits for its removal, and one that waits for replay.
    let keys = message_keys(&store);
    store.0.lock().unreadable = vec![keys[1], keys[5]];
    let left = read(&storage, &queue).await.unwrap();
    let left: Vec<_> = left.iter().map(|(_, row)| payload(row)).collect();
    assert_eq!(left, ["3", "4", "6", "7", "8", "9"]);
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.replayed, counts.damaged, counts.waiting), (3, 1, 6));
    assert_eq!((queue.held(), queue.unremoved()), (6, 0));
    assert_balanced(&storage);
    assert_eq!(store.0.lock().replacements, 1);
}

#[tokio::test]
async fn damage_that_is_met_after_a_failed_commit_is_repaired() {
    let store = MemoryStore::default();
    let storage = start(&options(), &store);
    append(&storage, message("a")).await.unwrap();
    {
        let mut memory = store.0.lock();
        (memory.failing, memory.failing_after_commit) = (1.0, 1.0);
        memory.is_damaged = true;
    }
    append(&storage, message("b")).await.unwrap_err();
    store.0.lock().failing = 0.0;
    append(&storage, message("c")).await.unwrap();
    let queue = queue(&storage, &message(""));
    let rows = read(&storage, &queue).await.unwrap();
    assert_eq!(rows.iter().map(|(_, row)| payload(row)).collect::<Vec<_>>(), ["a", "c"]);
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.spooled, counts.damaged, counts.files_set_aside, queue.held()), (2, 0, 1, 2));
    assert_balanced(&storage);
}

#[tokio::test]
async fn flipped_messages_are_set_aside_and_delay_no_other() {
    let store = MemoryStore::default();
    let storage = start(&options(), &store);
    for n in 0..20 {
        append(&storage, message(n.to_string())).await.unwrap();
    }
    storage.close();
    for (n, key) in message_keys(&store).into_iter().enumerate().filter(|(n, _)| n % 4 == 1) {
        let mut memory = store.0.lock();
        let row = memory.rows.get_mut(&key).unwrap();
        let at = n * 7 % row.len();
        row[at] ^= 0x40;
    }
    let broker = Broker::builder().topic("t", 1).start_without_port().unwrap();
    let builder = Producer::builder().discovery(broker.discovery());
    let producer = builder.transport(broker.transport()).build().unwrap();
    let storage = start(&options(), &store);
    let spool = SpoolingProducer::start(producer, options(), storage, Handle::current());
    assert_eq!(spool.drain(SOON).await, 0);
    let stats = spool.stats();
    assert_eq!((stats.recovered, stats.replayed, stats.set_aside), (20, 15, 5));
    assert_eq!(broker.messages(topic()).len(), 15);
    spool.close(Duration::ZERO).await;
    let aside = store.0.lock().rows.keys().filter(|key| key.kind == Kind::SetAside).count();
    assert_eq!(aside, 5);
}

#[tokio::test]
async fn damaged_rows_about_queues_are_rebuilt_from_messages() {
    for damaged in [Key::STATE, Key::queue(0)] {
        let store = MemoryStore::default();
        let storage = start(&options(), &store);
        for n in 0..10 {
            append(&storage, message(n.to_string())).await.unwrap();
        }
        storage.close();
        store.0.lock().rows.get_mut(&damaged).unwrap()[9] ^= 1;
        let storage = start(&options(), &store);
        assert_eq!(storage.common.ledger.counts().recovered, 10);
        let id = append(&storage, message("more")).await.unwrap();
        let rows = read(&storage, &queue(&storage, &message(""))).await.unwrap();
        assert_eq!((rows.len(), rows.last().unwrap().0), (11, id.0));
        assert!(rows.is_sorted_by_key(|(number, _)| *number));
        assert_balanced(&storage);
    }
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let store = MemoryStore::default();
    start(&options(), &store).close();
    let newer = crate::fields::as_newer(&store.0.lock().rows[&Key::STATE]);
    store.0.lock().rows.insert(Key::STATE, newer);
    let error = Storage::start(&options(), Box::new(store), None).err().unwrap();
    assert_eq!(error.kind(), crate::OpenErrorKind::Version);
    assert!(error.to_string().contains("version 2"), "{error}");
}
