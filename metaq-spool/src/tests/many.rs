//! Replay of very many queues.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use metaq_producer::{Message, Partition, Producer, Topic};
use metaq_testkit::Broker;
use tokio::runtime::Handle;

use super::{append, options, start, until};
use crate::{SpoolingProducer, store::memory::MemoryStore};

const TOPICS: usize = 10;

const PARTITIONS: u32 = 500;

const QUEUES: u64 = TOPICS as u64 * PARTITIONS as u64;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_work_for_a_queue_is_independent_of_their_number() {
    let topics: Vec<Topic> = (0..TOPICS).map(|n| format!("t{n}").parse().unwrap()).collect();
    let storage = start(&options(), &MemoryStore::default());
    for topic in &topics {
        for index in 0..PARTITIONS {
            let message = Message::new(topic.clone(), "m");
            append(&storage, message.with_partition(Partition::new(0, index as i32))).await.unwrap();
        }
    }
    let broker =
        topics.iter().fold(Broker::builder(), |broker, topic| broker.topic(topic.as_str(), PARTITIONS));
    let broker = broker.start_without_port().unwrap();
    let producer = Producer::builder().discovery(broker.discovery()).transport(broker.transport());
    let common = Arc::clone(&storage.common);
    let producer = producer.build().unwrap();
    let begun = Instant::now();
    let spool = SpoolingProducer::start(producer, options(), storage, Handle::current());
    until("not all are replayed", || common.ledger.counts().replayed == QUEUES).await;
    let looks = u128::from(common.index.looks());
    // One takes 2 µs at most, and there is no pause while few queues are left. With a look at all of them for
    // each that ends, it is 17 million in a few seconds.
    let most = begun.elapsed().as_micros() / 2 + 1_000_000;
    assert!(looks <= most, "{looks} looks at a queue, and {most} at most");
    assert_eq!(topics.iter().map(|topic| broker.messages(topic.as_str()).len() as u64).sum::<u64>(), QUEUES);
    spool.close(Duration::ZERO).await;
}
