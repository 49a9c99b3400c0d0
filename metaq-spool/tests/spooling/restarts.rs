//! Brokers and programs that are away and come back.

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metaq_producer::{Partition, SendError, Topic};
use metaq_spool::{OpenErrorKind, ReplayListener, Sent, SpoolId, SpoolOptions, SpoolingProducer};
use metaq_testkit::EmbeddedRegistry;

use crate::form::{
    SOON, assert_balanced, broker, id, message, open, options, pinned, producer, stored, topic, until,
};

#[tokio::test]
async fn a_folder_is_used_once_at_a_time() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let spool = open(&registry, options(folder.path())).await;
    let again = SpoolingProducer::open(producer(&registry), SpoolOptions::new(folder.path())).await;
    let error = again.unwrap_err();
    assert_eq!((error.kind(), error.pid()), (OpenErrorKind::InUse, Some(std::process::id())));
    spool.close(Duration::ZERO).await;
    open(&registry, options(folder.path())).await;
}

#[tokio::test]
async fn messages_survive_restarts_of_program_and_broker() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let mut last = None;
    for round in 0..3 {
        let spool = open(&registry, options(folder.path())).await;
        assert_eq!(spool.stats().recovered, round * 10);
        for n in 0..10 {
            let now = id(&spool.send(message(format!("{round}-{n}"))).await.unwrap());
            assert!(last.replace(now).is_none_or(|before| before < now), "no id is used twice");
        }
        if round == 1 {
            // The last clone closes the folder as well, once its tasks have ended.
            drop(spool);
            let lock = File::open(folder.path().join("lock")).unwrap();
            while lock.try_lock().is_err() {
                tokio::task::yield_now().await;
            }
        } else {
            spool.close(Duration::ZERO).await;
        }
    }
    let broker = broker(&registry);
    // Nothing is published by the program: the spool knows its topics.
    let spool = SpoolingProducer::open(producer(&registry), options(folder.path())).await.unwrap();
    assert_eq!(spool.stats().recovered, 30);
    assert_eq!(spool.drain(SOON).await, 0);
    let stored = stored(&broker);
    assert_eq!((stored.len(), stored.values().sum::<usize>()), (30, 30));
    let stats = spool.stats();
    assert_eq!((stats.replayed, stats.maybe_duplicates), (30, 0));
    assert_balanced(&stats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn brokers_come_and_go_under_load() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let folder_of_broker = tempfile::tempdir().unwrap();
    let builder = || crate::form::builder(&registry).data_dir(folder_of_broker.path());
    let mut options = options(folder.path());
    options.spool_unknown = true;
    let spool = open(&registry, options).await;
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            let spool = spool.clone();
            tokio::spawn(async move {
                let mut stored = 0;
                for n in 0..500 {
                    match spool.send(message(format!("{sender}-{n}"))).await.unwrap() {
                        Sent::Stored(_) => stored += 1,
                        _ => tokio::task::yield_now().await,
                    }
                }
                stored
            })
        })
        .collect();
    while !senders.iter().all(tokio::task::JoinHandle::is_finished) {
        let broker = builder().start().await.unwrap();
        let before = spool.stats();
        let some_were_sent = async {
            while spool.stats().stored + spool.stats().replayed < before.stored + before.replayed + 100
                && !senders.iter().all(tokio::task::JoinHandle::is_finished)
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = tokio::time::timeout(SOON, some_were_sent).await;
        broker.kill().await;
    }
    let mut live = 0;
    for sender in senders {
        live += sender.await.unwrap();
    }
    let broker = builder().start().await.unwrap();
    assert_eq!(spool.drain(SOON).await, 0);
    let stats = spool.stats();
    assert_balanced(&stats);
    assert_eq!((stats.offered, stats.stored, stats.failed), (4000, live, 0));
    assert_eq!(stored(&broker).len(), 4000, "{stats:?}");
}

/// Closes a spool while one queue is replayed.
async fn close_in_the_midst() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let mut options = options(folder.path());
    options.ordered = true;
    let spool = open(&registry, options).await;
    for n in 0..2000 {
        drop(spool.enqueue(pinned(n.to_string(), 0)).await.unwrap());
    }
    until(&spool, |stats| stats.spooled == 2000).await;
    let _broker = broker(&registry);
    until(&spool, |stats| stats.replayed > 10).await;
    let report = spool.close(Duration::from_secs(5)).await;
    let stats = spool.stats();
    assert_balanced(&stats);
    assert_eq!(stats.replayed + report.waiting, 2000);
}

#[test]
fn closing_ends_the_replay_of_a_queue() {
    use tokio::runtime::Builder;
    for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        let (done, is_done) = std::sync::mpsc::channel();
        // A task that never yields would hold the runtime, and this test with it.
        std::thread::spawn(move || {
            builder.enable_all().build().unwrap().block_on(close_in_the_midst());
            done.send(()).unwrap();
        });
        is_done.recv_timeout(2 * SOON).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pause_stops_replay_and_nothing_else() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let spool = open(&registry, options(folder.path())).await;
    for n in 0..100 {
        id(&spool.send(message(n.to_string())).await.unwrap());
    }
    spool.set_replay_paused(true);
    let broker = broker(&registry);
    let live = async {
        // The first ones may come before the broker is connected.
        while !matches!(spool.send(message("live")).await, Ok(Sent::Stored(_))) {}
    };
    tokio::time::timeout(SOON, live).await.unwrap();
    spool.replay_now();
    assert_eq!(spool.drain(Duration::from_millis(50)).await, spool.stats().waiting);
    assert_eq!(spool.stats().replayed, 0);
    spool.set_replay_paused(false);
    assert_eq!(spool.drain(SOON).await, 0);
    assert!(stored(&broker).len() > 100);
    // A spool that is closed during a pause ends.
    broker.kill().await;
    let kept = async { while !matches!(spool.send(message("kept")).await, Ok(Sent::Spooled(_))) {} };
    tokio::time::timeout(SOON, kept).await.unwrap();
    spool.set_replay_paused(true);
    let closed = tokio::time::timeout(SOON, spool.close(Duration::ZERO)).await.unwrap();
    assert!(closed.waiting > 0, "{closed:?}");
    assert_balanced(&spool.stats());
}

/// Counts failed attempts.
#[derive(Default)]
struct Attempts(AtomicU64);

impl ReplayListener for Attempts {
    fn failed(&self, _: SpoolId, of: &Topic, partition: Option<Partition>, error: &SendError) {
        assert_eq!((of, partition, error.topic()), (&topic(), None, &topic()));
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_listener_hears_of_failed_attempts() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let attempts = Arc::<Attempts>::default();
    let options = options(folder.path()).listener(Arc::clone(&attempts) as Arc<dyn ReplayListener>);
    let spool = open(&registry, options).await;
    id(&spool.send(message("x")).await.unwrap());
    until(&spool, |_| attempts.0.load(Ordering::SeqCst) > 1).await;
    let _broker = broker(&registry);
    assert_eq!(spool.drain(SOON).await, 0);
    assert_balanced(&spool.stats());
}
