//! Ends of a process that closes the folder, and may leave replayed messages in it.

use std::time::Duration;

use metaq_producer::Producer;
use metaq_testkit::{Broker, Fault, Requests};

use super::{SOON, append, finished, message, options, queue, read, start};
use crate::{SpoolOptions, SpoolingProducer, store::memory::MemoryStore};

fn was_closed(options: &SpoolOptions, store: &MemoryStore) -> bool {
    start(options, store).common.was_closed
}

#[tokio::test]
async fn a_removal_that_fails_at_the_end_is_no_clean_end() {
    let store = MemoryStore::default();
    let storage = start(&options(), &store);
    append(&storage, message("a")).await.unwrap();
    let queue = queue(&storage, &message(""));
    let rows = read(&storage, &queue).await.unwrap();
    store.0.lock().keeps_messages = true;
    storage.finish(&queue, vec![finished(rows[0].0, &rows[0].1)]);
    storage.close();
    store.0.lock().keeps_messages = false;
    assert!(!was_closed(&options(), &store));
    assert!(was_closed(&options(), &store), "the one before had replayed nothing");
}

#[tokio::test]
async fn a_removal_that_comes_after_the_end_is_no_clean_end() {
    let store = MemoryStore::default();
    let storage = start(&options(), &store);
    append(&storage, message("a")).await.unwrap();
    let queue = queue(&storage, &message(""));
    let rows = read(&storage, &queue).await.unwrap();
    let replaying = crate::storage::Replaying::begin(&storage.common);
    storage.close();
    storage.finish(&queue, vec![finished(rows[0].0, &rows[0].1)]);
    replaying.end();
    assert!(!was_closed(&options(), &store));
}

#[test]
fn a_runtime_that_ends_during_replay_is_no_clean_end() {
    let store = MemoryStore::default();
    let of_broker = tokio::runtime::Runtime::new().unwrap();
    let broker = of_broker.block_on(async { Broker::builder().topic("t", 1).start().await.unwrap() });
    let swallowed = broker.faults().plan(Requests::puts(), Fault::Swallow);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let spool = runtime.block_on(async {
        let storage = start(&options(), &store);
        append(&storage, message("a")).await.unwrap();
        let producer = Producer::builder().discovery(broker.discovery()).build().unwrap();
        let spool = SpoolingProducer::start(producer, options(), storage, tokio::runtime::Handle::current());
        let is_sent = async {
            while swallowed.met() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(SOON, is_sent).await.unwrap();
        spool
    });
    drop(runtime);
    drop(spool);
    assert!(!was_closed(&options(), &store));
}

#[tokio::test]
async fn a_clean_end_forgets_no_message_that_may_be_doubled() {
    let store = MemoryStore::default();
    let mut options = options();
    options.replay_window = 4;
    let storage = start(&options, &store);
    for n in 0..6 {
        append(&storage, message(n.to_string())).await.unwrap();
    }
    let copy = MemoryStore::default();
    copy.0.lock().rows = store.0.lock().rows.clone();
    // The next one replays nothing, and closes the folder.
    start(&options, &copy).close();
    for (expected, count) in [(3, 3), (1, 3)] {
        let storage = start(&options, &copy);
        assert!(storage.common.was_closed);
        let queue = queue(&storage, &message(""));
        let rows = read(&storage, &queue).await.unwrap();
        let some = rows[..count].iter().map(|(number, row)| finished(*number, row));
        storage.finish(&queue, some.collect());
        storage.flush().await;
        assert_eq!(storage.common.ledger.counts().maybe_duplicates, expected);
        storage.close();
    }
}

#[tokio::test]
async fn as_many_may_be_doubled_as_the_killed_process_allowed() {
    let store = MemoryStore::default();
    let mut options = options();
    options.replay_window = 4;
    let storage = start(&options, &store);
    for n in 0..6 {
        append(&storage, message(n.to_string())).await.unwrap();
    }
    let copy = MemoryStore::default();
    copy.0.lock().rows = store.0.lock().rows.clone();
    options.replay_window = 1000;
    let storage = start(&options, &copy);
    let queue = queue(&storage, &message(""));
    let rows = read(&storage, &queue).await.unwrap();
    storage.finish(&queue, rows.iter().map(|(number, row)| finished(*number, row)).collect());
    storage.flush().await;
    let counts = storage.common.ledger.counts();
    assert_eq!((counts.replayed, counts.maybe_duplicates), (6, 4));
}
