//! Sending in order.

use std::time::Duration;

use metaq_producer::Outcome;
use metaq_spool::{Sent, SpoolingProducer};
use metaq_testkit::{EmbeddedRegistry, Fault, Requests};

use crate::form::{
    SOON, assert_balanced, builder, in_partition, message, open, options, pinned, producer_with, topic,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn order_holds_while_brokers_come_and_go() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let folder_of_broker = tempfile::tempdir().unwrap();
    let builder = || builder(&registry).data_dir(folder_of_broker.path());
    let mut options = options(folder.path());
    options.ordered = true;
    let spool = open(&registry, options).await;
    let senders: Vec<_> = (0..4)
        .map(|index| {
            let spool = spool.clone();
            tokio::spawn(async move {
                let mut handles = Vec::new();
                for n in 0..300 {
                    handles.push(spool.enqueue(pinned(n.to_string(), index)).await.unwrap());
                    if n % 7 == 0 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                let mut outcomes = Vec::new();
                for handle in handles {
                    outcomes.push(match handle.await {
                        Ok(sent) => format!("{sent:?}"),
                        // It may be stored: the connection was lost. It is not sent again.
                        Err(error) => {
                            assert_eq!(error.outcome(), Outcome::Unknown);
                            error.to_string()
                        }
                    });
                }
                outcomes
            })
        })
        .collect();
    let mut rounds = 0;
    while !senders.iter().all(tokio::task::JoinHandle::is_finished) {
        let broker = builder().start().await.unwrap();
        rounds += 1;
        if rounds % 2 == 0 {
            broker.faults().plan(Requests::puts().with_chance(0.1), Fault::refuse(503, "busy"));
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
        broker.kill().await;
    }
    let broker = builder().start().await.unwrap();
    let mut outcomes = Vec::new();
    for sender in senders {
        outcomes.push(sender.await.unwrap());
    }
    assert_eq!(spool.drain(SOON).await, 0);
    assert_balanced(&spool.stats());
    assert!(spool.stats().replayed > 0);
    for (index, outcomes) in (0..).zip(outcomes) {
        let numbers =
            in_partition(&broker, index).into_iter().map(|payload| payload.parse::<usize>().unwrap());
        let numbers: Vec<_> = numbers.collect();
        let is_kept = |outcome: &String| outcome.starts_with("Stored") || outcome.starts_with("Spooled");
        let kept = outcomes.iter().enumerate().filter(|(_, outcome)| is_kept(outcome));
        let lost: Vec<_> = kept.filter(|(n, _)| !numbers.contains(n)).collect();
        assert!(lost.is_empty(), "partition {index}: {lost:?}");
        if let Some(late) = numbers.windows(2).find(|pair| pair[1] < pair[0]) {
            panic!("partition {index}: {} after {}: {}; {numbers:?}", late[1], late[0], outcomes[late[1]]);
        }
    }
}

#[tokio::test]
async fn live_messages_stay_behind_spooled_ones() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let broker = builder(&registry).start_without_port().unwrap();
    let mut options = options(folder.path());
    options.ordered = true;
    let spool = open(&registry, options).await;
    let refused = broker.faults().plan(Requests::puts().of_partition(0), Fault::refuse(503, "busy"));
    assert!(matches!(spool.send(pinned("0", 0)).await, Ok(Sent::Spooled(_))));
    let before = refused.met();
    // It is not tried: another one is before it.
    assert!(matches!(spool.send(pinned("1", 0)).await, Ok(Sent::Spooled(_))));
    assert!(before > 0);
    assert!(matches!(spool.send(pinned("other", 1)).await, Ok(Sent::Stored(_))));
    broker.faults().heal();
    assert_eq!(spool.drain(SOON).await, 0);
    assert!(matches!(spool.send(pinned("2", 0)).await, Ok(Sent::Stored(_))));
    assert_eq!(in_partition(&broker, 0), ["0", "1", "2"]);
    assert_balanced(&spool.stats());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_keep_partition_and_order_through_outages() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let folder_of_broker = tempfile::tempdir().unwrap();
    let broker = || builder(&registry).data_dir(folder_of_broker.path());
    let configured =
        || producer_with(&registry, |config| _ = config.partitions.insert(topic(), "0:4".parse().unwrap()));
    for round in 0..3 {
        let mut options = options(folder.path());
        options.ordered = true;
        let spool = SpoolingProducer::open(configured(), options).await.unwrap();
        // Without a broker it is published in the background.
        let _ = spool.publish_topic(&topic()).await;
        let senders: Vec<_> = (0..6)
            .map(|key| {
                let spool = spool.clone();
                tokio::spawn(async move {
                    for n in 0..100 {
                        let payload = format!("{key}-{round}-{n:03}");
                        drop(spool.enqueue(message(payload).with_key(format!("key {key}"))).await.unwrap());
                    }
                })
            })
            .collect();
        while !senders.iter().all(tokio::task::JoinHandle::is_finished) {
            let started = broker().start().await.unwrap();
            let before = spool.stats();
            let some = async {
                while spool.stats().replayed + spool.stats().stored < before.replayed + before.stored + 50 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            // There may be no more.
            let _ = tokio::time::timeout(Duration::from_millis(200), some).await;
            started.kill().await;
        }
        spool.close(Duration::ZERO).await;
    }
    let started = broker().start().await.unwrap();
    let mut options = options(folder.path());
    options.ordered = true;
    let spool = SpoolingProducer::open(configured(), options).await.unwrap();
    assert_eq!(spool.drain(SOON).await, 0);
    let mut partitions = std::collections::BTreeMap::new();
    let mut last = std::collections::BTreeMap::new();
    for stored in started.messages("t") {
        let payload = String::from_utf8(stored.payload.to_vec()).unwrap();
        let key = payload.split('-').next().unwrap().to_owned();
        // Before the first broker was found, the partition was not known.
        let partition = partitions.entry(key.clone()).or_insert(stored.partition);
        assert_eq!(*partition, stored.partition, "{payload}");
        if let Some(before) = last.insert(key, payload.clone()) {
            assert!(before <= payload, "{payload} after {before}");
        }
    }
    assert_eq!(last.len(), 6);
}
