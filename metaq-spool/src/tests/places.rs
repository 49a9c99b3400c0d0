//! Queues that get no answer beside queues that do.

use std::time::Duration;

use metaq_producer::{Partition, Producer, ProducerConfig};
use metaq_testkit::{Broker, EmbeddedRegistry};
use tokio::{runtime::Handle, time::Instant};

use super::{SOON, append, message, options, start, topic};
use crate::{SpoolingProducer, storage::Storage, store::memory::MemoryStore};

/// The queues of each broker.
const QUEUES: i32 = 100;

/// The messages of each queue.
const MESSAGES: usize = 5;

/// The time after which a message without an answer fails: no healthy queue may wait for that.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Opens a spool that holds messages for two brokers, the first of which is frozen once it is connected.
async fn open(storage: Storage, max_in_flight: usize) -> (SpoolingProducer, [Broker; 2]) {
    for n in 0..MESSAGES {
        for broker in 0..2 {
            for index in 0..QUEUES {
                let partition = Partition::new(broker, index);
                append(&storage, message(n.to_string()).with_partition(partition)).await.unwrap();
            }
        }
    }
    let registry = EmbeddedRegistry::new();
    let broker = |id: i32| {
        let builder = Broker::builder().id(id).topic("t", QUEUES as u32);
        builder.register_with(&registry).start_without_port().unwrap()
    };
    let brokers = [broker(0), broker(1)];
    let mut config = ProducerConfig::default();
    (config.send_timeout, config.max_in_flight) = (TIMEOUT, max_in_flight);
    let mut connection = config.connection.clone();
    connection.max_in_flight = max_in_flight / 2;
    // A broker that is frozen counts as connected.
    (connection.stall_after, connection.heartbeat_after) = (2 * TIMEOUT, 2 * TIMEOUT);
    let builder = Producer::builder().discovery(registry.discovery());
    let producer = builder.transport(registry.transport_with(connection)).config(config).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    brokers[0].faults().freeze();
    (SpoolingProducer::start(producer, options(), storage, Handle::current()), brokers)
}

/// The messages that wait for a broker.
fn waiting(spool: &SpoolingProducer, broker: i32) -> u64 {
    let queues = spool.stats().queues.into_iter();
    let is_of_broker = |partition: Partition| partition.broker.0 == broker;
    queues.filter(|queue| queue.partition.is_some_and(is_of_broker)).map(|queue| queue.waiting).sum()
}

/// The time until everything is replayed that the healthy broker is to get.
async fn healthy_replayed(spool: &SpoolingProducer, bound: Duration) -> Duration {
    let began = Instant::now();
    let replayed = async {
        while waiting(spool, 1) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let within = tokio::time::timeout(bound, replayed).await;
    assert!(within.is_ok(), "{} messages of healthy queues wait after {bound:?}", waiting(spool, 1));
    began.elapsed()
}

/// Has the frozen broker answer, and fails unless everything is replayed once then.
async fn thaw(spool: &SpoolingProducer, brokers: &[Broker; 2]) {
    brokers[0].faults().thaw();
    assert_eq!(spool.drain(SOON).await, 0);
    for broker in brokers {
        assert_eq!(broker.messages("t").len(), QUEUES as usize * MESSAGES);
    }
    assert_eq!(spool.stats().replayed, 2 * (QUEUES as usize * MESSAGES) as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn queues_of_a_frozen_broker_keep_no_other_waiting() {
    let store = MemoryStore::default();
    let (spool, brokers) = open(start(&options(), &store), 1 << 14).await;
    healthy_replayed(&spool, SOON).await;
    assert_eq!(waiting(&spool, 0), 500, "the other broker is frozen");
    // A queue without an answer has nothing in memory but what is in flight.
    let place = tokio::time::timeout(SOON, spool.shared().places.take()).await;
    assert!(place.is_ok(), "queues without an answer keep their places");
    drop(place);
    thaw(&spool, &brokers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn queues_without_capacity_keep_no_other_waiting() {
    let store = MemoryStore::default();
    // The frozen broker is at its limit after 20 messages of its 500.
    let (spool, brokers) = open(start(&options(), &store), 40).await;
    healthy_replayed(&spool, SOON).await;
    thaw(&spool, &brokers).await;
}

#[tokio::test(start_paused = true)]
async fn the_delay_by_a_frozen_broker_is_independent_of_the_timeout() {
    let store = MemoryStore::default();
    let on_task = || Duration::ZERO;
    let storage = Storage::start_on_task(&options(), Box::new(store.clone()), on_task).unwrap();
    let (spool, brokers) = open(storage, 1 << 14).await;
    let delay = healthy_replayed(&spool, Duration::from_secs(1)).await;
    assert!(delay < Duration::from_millis(200), "{delay:?}");
    thaw(&spool, &brokers).await;
}
