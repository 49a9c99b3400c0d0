//! The tasks of queues that are sent to in order: they end when they have no messages, and lose none by that.

use std::{collections::HashSet, time::Duration};

use metaq_producer::{Producer, ProducerConfig};
use metaq_testkit::Broker;
use tokio::runtime::Handle;

use super::{
    SOON, options, start, until,
    unused::{KEPT, PARTITIONS, to, topic},
};
use crate::{SpoolingProducer, store::memory::MemoryStore};

fn ordered(broker: &Broker) -> SpoolingProducer {
    let mut config = ProducerConfig::default();
    config.retry.max_attempts = 1;
    let builder = Producer::builder().discovery(broker.discovery()).transport(broker.transport());
    let mut options = options();
    options.ordered = true;
    let storage = start(&options, &MemoryStore::default());
    SpoolingProducer::start(builder.config(config).build().unwrap(), options, storage, Handle::current())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_end_beside_those_who_send_to_them() {
    let broker = Broker::builder().topic("t0", PARTITIONS as u32).start_without_port().unwrap();
    let spool = ordered(&broker);
    spool.publish_topic(&topic(0)).await.unwrap();
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let spool = spool.clone();
            tokio::spawn(async move {
                for n in 0..500 {
                    spool.send(to(0, format!("{sender} {n:04}"))).await.unwrap();
                    if n % 8 == sender {
                        // About as long as a task without messages goes on.
                        tokio::time::sleep(Duration::from_micros(fastrand::u64(500..1500))).await;
                    }
                }
            })
        })
        .collect();
    for sender in senders {
        tokio::time::timeout(SOON, sender).await.unwrap().unwrap();
    }
    let stored = broker.messages("t0");
    let stored: Vec<_> =
        stored.iter().map(|message| String::from_utf8(message.payload.to_vec()).unwrap()).collect();
    assert_eq!((stored.len(), stored.iter().collect::<HashSet<_>>().len()), (2000, 2000));
    for sender in 0..4 {
        let prefix = format!("{sender} ");
        assert!(stored.iter().filter(|payload| payload.starts_with(&prefix)).is_sorted());
    }
    until("the task has not ended", || spool.lanes().unwrap().counts().0 == 0).await;
    let stats = spool.stats();
    assert_eq!((stats.offered, stats.stored, stats.failed), (2000, 2000, 0));
    spool.close(Duration::ZERO).await;
}

#[tokio::test]
async fn tasks_and_topics_that_are_not_used_are_given_back() {
    let broker = Broker::builder().topic("t0", PARTITIONS as u32).start_without_port().unwrap();
    let spool = ordered(&broker);
    for index in 1..1000 {
        // Its topic was not published.
        spool.send(to(index, "a")).await.unwrap_err();
        // While a task has not ended, its topic stays.
        until("tasks have not ended", || spool.lanes().unwrap().counts().0 == 0).await;
        let (_, topics) = spool.lanes().unwrap().counts();
        assert!(topics <= KEPT, "{topics}");
    }
    spool.close(Duration::ZERO).await;
}
