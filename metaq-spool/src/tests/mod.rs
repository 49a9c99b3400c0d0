//! Tests over a store in memory, which fails, forgets and is damaged as they want it.

mod ages;
mod bounds;
mod crashes;
mod damage;
mod disk;
mod ends;
mod faults;
mod flips;
mod flushes;
mod handles;
mod many;
mod moves;
mod places;
mod queues;
mod simulation;
mod stalls;
mod tasks;
mod unused;

use std::{sync::Arc, time::Duration};

use metaq_producer::{Message, Partition, Topic};

use crate::{
    SpoolId, SpoolOptions,
    record::{self, QueueKey},
    storage::{
        Storage,
        inbox::{Fate, Finished, Stored},
        index::Queue,
    },
    store::{Limit, memory::MemoryStore},
};

/// Far more time than what a test waits for takes, also on a busy machine.
const SOON: Duration = Duration::from_secs(120);

fn topic() -> Topic {
    "t".parse().unwrap()
}

fn message(payload: impl Into<String>) -> Message {
    Message::new(topic(), payload.into())
}

fn pinned(payload: impl Into<String>, index: i32) -> Message {
    message(payload).with_partition(Partition::new(0, index))
}

fn options() -> SpoolOptions {
    SpoolOptions::new("/in-memory")
}

fn start(options: &SpoolOptions, store: &MemoryStore) -> Storage {
    Storage::start(options, Box::new(store.clone()), None).unwrap()
}

async fn append(storage: &Storage, message: Message) -> Result<SpoolId, crate::SpoolSendError> {
    storage.submit(message).await?.outcome().await
}

fn queue(storage: &Storage, message: &Message) -> Arc<Queue> {
    storage.common.index.find(&QueueKey::of(message)).unwrap()
}

/// Reads a queue to its end, as if each message was stored, and returns the payloads.
async fn replay_all(storage: &Storage) -> Vec<String> {
    let mut replayed = Vec::new();
    // What is read again and again is no end.
    for _ in 0..100 {
        let filled = storage.common.index.filled();
        if filled.is_empty() {
            return replayed;
        }
        for queue in filled {
            let rows = read(storage, &queue).await.unwrap();
            let decoded = rows.iter().filter_map(|(_, row)| record::decode(row.clone()).ok());
            let payloads = decoded.map(|record| record.message.payload().to_vec());
            replayed.extend(payloads.map(|payload| String::from_utf8(payload).unwrap()));
            storage.finish(&queue, rows.iter().map(|(number, row)| finished(*number, row)).collect());
        }
        storage.flush().await;
    }
    panic!("it has no end: {:?}", storage.common.ledger.counts());
}

async fn read(storage: &Storage, queue: &Arc<Queue>) -> std::io::Result<Stored> {
    let limit = Limit { rows: 1000, bytes: 1 << 20 };
    storage.begin_read(queue, 0, limit).unwrap().await.unwrap()
}

fn payload(row: &[u8]) -> String {
    String::from_utf8(record::decode(row.to_vec()).unwrap().message.payload().to_vec()).unwrap()
}

fn finished(number: u64, row: &[u8]) -> Finished {
    Finished { number, bytes: row.len() as u64, fate: Fate::Replayed }
}

/// Waits until a condition holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

fn assert_balanced(storage: &Storage) {
    let counts = storage.common.ledger.counts();
    let gone = counts.replayed + counts.set_aside + counts.dropped + counts.damaged;
    assert_eq!(counts.recovered + counts.spooled, gone + counts.waiting, "{counts:?}");
}
