//! Handles that are kept and not observed: which messages they keep in memory, and that the spool keeps no
//! others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use metaq_producer::{Message, Producer, ProducerConfig};
use metaq_testkit::{Broker, Fault, Requests};
use tokio::runtime::Handle;

use super::{SOON, options, start, topic, until};
use crate::{SpoolHandle, SpoolingProducer, store::memory::MemoryStore};

/// The capacity of the producer.
const CAPACITY: usize = 16;

const MESSAGES: usize = 200;

/// A payload that counts itself while it is in memory.
struct Counted(Arc<AtomicUsize>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        b"payload"
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn message(alive: &Arc<AtomicUsize>) -> Message {
    alive.fetch_add(1, Ordering::AcqRel);
    Message::new(topic(), Bytes::from_owner(Counted(Arc::clone(alive))))
}

async fn open(broker: &Broker) -> SpoolingProducer {
    let mut config = ProducerConfig::default();
    (config.max_in_flight, config.retry.max_attempts) = (CAPACITY, 1);
    (config.send_timeout, config.publish_timeout) = (SOON, SOON);
    let builder = Producer::builder().discovery(broker.discovery()).transport(broker.transport());
    let producer = builder.config(config).build().unwrap();
    let storage = start(&options(), &MemoryStore::default());
    let spool = SpoolingProducer::start(producer, options(), storage, Handle::current());
    spool.publish_topic(&topic()).await.unwrap();
    spool.set_replay_paused(true);
    spool
}

/// Drops the handles, and expects that all messages are spooled, and that none is left in memory.
async fn assert_all_spooled(spool: &SpoolingProducer, handles: Vec<SpoolHandle>, alive: &Arc<AtomicUsize>) {
    drop(handles);
    until("they are not spooled", || spool.stats().spooled == MESSAGES as u64).await;
    until("some are kept in memory", || alive.load(Ordering::Acquire) == 0).await;
    assert_eq!(spool.stats().in_flight, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn messages_that_are_refused_are_kept_by_their_handles_alone() {
    let broker = Broker::builder().topic("t", 4).start_without_port().unwrap();
    let spool = open(&broker).await;
    let refused = broker.faults().plan(Requests::puts(), Fault::refuse(503, "busy"));
    let alive = Arc::default();
    let mut handles = Vec::new();
    for _ in 0..MESSAGES {
        // Those before it have given their capacity back.
        let handle = tokio::time::timeout(SOON, spool.enqueue(message(&alive))).await.unwrap();
        handles.push(handle.unwrap());
    }
    assert_eq!((spool.stats().in_flight, spool.stats().spooled), (MESSAGES as u64, 0));
    assert_eq!(alive.load(Ordering::Acquire), MESSAGES, "one for each handle");
    assert!(refused.met() >= (MESSAGES - CAPACITY) as u64);
    assert_all_spooled(&spool, handles, &alive).await;
    spool.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn messages_without_an_outcome_are_no_more_than_the_capacity() {
    let broker = Broker::builder().topic("t", 4).start_without_port().unwrap();
    let spool = open(&broker).await;
    let silent = broker.faults().plan(Requests::puts(), Fault::Ignore);
    let alive = Arc::default();
    let handles: Vec<_> = (0..MESSAGES).map(|_| spool.try_send(message(&alive)).unwrap()).collect();
    // The others are written without their handles.
    let expected = (MESSAGES - CAPACITY) as u64;
    until("the others are not spooled", || spool.stats().spooled == expected).await;
    assert_eq!(spool.stats().in_flight, CAPACITY as u64);
    assert!(alive.load(Ordering::Acquire) <= MESSAGES, "one for each handle");
    drop((handles, silent));
    until("those that are spooled are kept in memory", || alive.load(Ordering::Acquire) <= CAPACITY).await;
    spool.close(Duration::ZERO).await;
}
