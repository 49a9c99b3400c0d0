//! Queues that were emptied, exist twice, or hold less than they should.

use std::{path::Path, time::Duration};

use super::{append, assert_balanced, message, options, payload, queue, read, start};
use crate::{
    SpoolFolder,
    record::{self, QueueKey, SetAside},
    storage::rows::{QueueRow, StateRow},
    store::{Change, Key, Kind, Store as _, disk::DiskStore, memory::MemoryStore},
};

fn row(text: &str) -> Vec<u8> {
    record::encode(&message(text), Duration::from_secs(1))
}

/// A queue of these messages, with its row.
fn filled(id: u32, messages: &[(u64, &str)]) -> Vec<Change> {
    let mut of_queue = QueueRow::new(QueueKey::of(&message("")), messages[0].0);
    let mut changes = Vec::new();
    for (number, text) in messages {
        of_queue.messages += 1;
        of_queue.bytes += row(text).len() as u64;
        of_queue.end = number + 1;
        changes.push(Change::Put(Key::message(id, *number), row(text)));
    }
    changes.push(Change::Put(Key::queue(id), of_queue.encode()));
    changes
}

fn state() -> Change {
    let state = StateRow { next_number: 1000, next_queue: 10, is_closed: true, ..StateRow::default() };
    Change::Put(Key::STATE, state.encode())
}

fn payloads(folder: &SpoolFolder) -> Vec<String> {
    let queues = folder.queues();
    assert_eq!(queues.len(), 1, "{queues:?}");
    let messages = folder.messages(&queues[0]).map(|message| message.unwrap().message.unwrap());
    messages.map(|message| String::from_utf8(message.payload().to_vec()).unwrap()).collect()
}

fn write(folder: &Path, changes: &[Change]) {
    DiskStore::open(folder, false).unwrap().commit(changes).unwrap();
}

#[test]
fn a_message_is_put_back_once_into_the_queue_of_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    let mut changes = filled(7, &[(100, "new")]);
    // It came from a queue that was emptied and forgotten since.
    let aside = SetAside {
        queue: 3,
        reason: "refused".to_owned(),
        attempts: 1,
        time: Duration::from_secs(2),
        row: row("old"),
    };
    changes.extend([Change::Put(Key::set_aside(5), aside.encode()), state()]);
    write(folder.path(), &changes);
    let mut folder = SpoolFolder::open(folder.path()).unwrap();
    let aside: Vec<_> = folder.set_aside().map(Result::unwrap).collect();
    assert_eq!(folder.put_back(aside.iter().cloned().chain(aside.clone())).unwrap(), 1);
    assert_eq!((payloads(&folder), folder.set_aside_count()), (vec!["old".to_owned(), "new".to_owned()], 0));
    // It is not where it was any more.
    assert_eq!(folder.put_back(aside.clone()).unwrap() + folder.remove(aside).unwrap(), 0);
    let waiting: Vec<_> = folder.messages(&folder.queues()[0]).map(Result::unwrap).collect();
    assert_eq!(folder.remove(waiting[..1].to_vec()).unwrap(), 1);
    assert_eq!(folder.remove(waiting[..1].to_vec()).unwrap(), 0);
    assert_eq!((payloads(&folder), folder.queues()[0].messages), (vec!["new".to_owned()], 1));
}

#[tokio::test]
async fn queues_that_exist_twice_are_united() {
    let mut store = MemoryStore::default();
    let mut changes = filled(2, &[(3, "b"), (9, "d")]);
    changes.extend(filled(5, &[(1, "a"), (7, "c")]));
    changes.push(state());
    store.commit(&changes).unwrap();
    let storage = start(&options(), &store);
    assert_eq!(storage.common.ledger.counts().recovered, 4);
    let queue = queue(&storage, &message(""));
    let rows = read(&storage, &queue).await.unwrap();
    assert_eq!(rows.iter().map(|(_, row)| payload(row)).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    assert_eq!(queue.held(), 4);
    assert_balanced(&storage);
}

#[tokio::test]
async fn queues_without_a_row_are_found_by_their_messages() {
    let mut store = MemoryStore::default();
    let mut changes = filled(2, &[(3, "b"), (9, "d")]);
    changes.extend(filled(700, &[(12, "x")]));
    changes.retain(|change| !matches!(change, Change::Put(key, _) if key.kind == Kind::Queue));
    store.commit(&changes).unwrap();
    let storage = start(&options(), &store);
    assert_eq!(storage.common.ledger.counts().recovered, 3);
    let id = append(&storage, message("y")).await.unwrap();
    assert!(id.0 > 12, "numbers are not used twice");
    assert_eq!(super::replay_all(&storage).await, ["b", "d", "x", "y"]);
    assert_balanced(&storage);
}

#[tokio::test]
async fn messages_that_are_missing_count_as_damaged() {
    let store = MemoryStore::default();
    let storage = start(&options(), &store);
    append(&storage, message("a")).await.unwrap();
    append(&storage, message("b")).await.unwrap();
    store.0.lock().rows.retain(|key, _| key.kind != Kind::Message);
    let queue = queue(&storage, &message(""));
    assert!(read(&storage, &queue).await.unwrap().is_empty());
    let counts = storage.common.ledger.counts();
    assert_eq!((queue.held(), counts.damaged, counts.waiting_bytes), (0, 2, 0));
    append(&storage, message("c")).await.unwrap();
    assert_eq!(read(&storage, &queue).await.unwrap().len(), 1);
    assert_balanced(&storage);
}
