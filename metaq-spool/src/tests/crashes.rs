//! The process is killed at any moment, and the next one goes on with what the store has.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use metaq_producer::{Outcome, Producer, ProducerConfig};
use metaq_testkit::{Broker, Fault, Requests};
use tokio::runtime::Handle;

use super::{SOON, options, pinned, start};
use crate::{Sent, SpoolOptions, SpoolSendErrorKind, SpoolingProducer, store::memory::MemoryStore};

/// What was promised to the senders.
#[derive(Default)]
struct Promised {
    kept: BTreeSet<String>,
    /// Reported as failed, and certainly not stored.
    not_stored: BTreeSet<String>,
}

fn producer(broker: &Broker) -> Producer {
    let mut config = ProducerConfig::default();
    config.send_timeout = Duration::from_millis(200);
    config.retry.max_attempts = 1;
    let builder = Producer::builder().discovery(broker.discovery()).transport(broker.transport());
    builder.config(config).build().unwrap()
}

/// One life of a process: four threads send, the broker misbehaves, and the store is copied in the midst.
async fn live(
    broker: &Broker,
    store: &MemoryStore,
    options: &SpoolOptions,
    round: u32,
) -> (MemoryStore, Promised) {
    let storage = start(options, store);
    let spool = SpoolingProducer::start(producer(broker), options.clone(), storage, Handle::current());
    spool.publish_topic(&super::topic()).await.unwrap();
    let promised = Arc::new(Mutex::new(Promised::default()));
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let (spool, promised) = (spool.clone(), Arc::clone(&promised));
            tokio::spawn(async move {
                for n in 0_u32.. {
                    let payload = format!("{sender}-{round}-{n:05}");
                    let sent = spool.send(pinned(&payload, sender)).await;
                    let mut promised = promised.lock().unwrap();
                    match sent {
                        Ok(Sent::Stored(_) | Sent::Spooled(_)) => _ = promised.kept.insert(payload),
                        Err(error) if error.kind() == SpoolSendErrorKind::Closed => return,
                        Err(error) if error.outcome() == Outcome::Unknown => {}
                        Err(_) => _ = promised.not_stored.insert(payload),
                    }
                }
            })
        })
        .collect();
    let enough = async {
        let goal = fastrand::u64(50..300);
        while spool.stats().spooled < goal {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, enough).await.unwrap();
    // What this life does after its end reaches no broker.
    broker.faults().plan(Requests::puts(), Fault::refuse(503, "it is dead"));
    // The kill: what was promised until this moment is kept by the store of the same moment or a later one.
    let told = {
        let promised = promised.lock().unwrap();
        Promised { kept: promised.kept.clone(), not_stored: promised.not_stored.clone() }
    };
    let copy = MemoryStore::default();
    copy.0.lock().rows = store.0.lock().rows.clone();
    for sender in senders {
        sender.abort();
    }
    spool.close(Duration::ZERO).await;
    (copy, told)
}

async fn crash_again_and_again(options: SpoolOptions) {
    let broker = Broker::builder().topic("t", 4).start_without_port().unwrap();
    let mut store = MemoryStore::default();
    let (mut kept, mut not_stored) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..6 {
        let faults = broker.faults();
        faults.plan(Requests::puts().with_chance(0.2), Fault::refuse(503, "busy"));
        faults.plan(Requests::puts().with_chance(0.02), Fault::Close);
        let (copy, promised) = live(&broker, &store, &options, round).await;
        store = copy;
        kept.extend(promised.kept);
        not_stored.extend(promised.not_stored);
        faults.heal();
    }
    let storage = start(&options, &store);
    let spool = SpoolingProducer::start(producer(&broker), options, storage, Handle::current());
    assert_eq!(spool.drain(SOON).await, 0);
    let mut stored = BTreeMap::<_, u64>::new();
    for message in broker.messages("t") {
        *stored.entry(String::from_utf8(message.payload.to_vec()).unwrap()).or_default() += 1;
    }
    let lost: Vec<_> = kept.iter().filter(|payload| !stored.contains_key(*payload)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let wrong: Vec<_> = not_stored.iter().filter(|payload| stored.contains_key(*payload)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(!spool.stats().was_closed && kept.len() > 200);
    spool.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_that_was_promised_is_lost_by_kills() {
    crash_again_and_again(options()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_by_kills_in_order() {
    let mut options = options();
    options.ordered = true;
    crash_again_and_again(options).await;
}
