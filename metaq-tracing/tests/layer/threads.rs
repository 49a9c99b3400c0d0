//! Many threads that log while the broker dies and returns.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
};

use metaq_testkit::EmbeddedRegistry;

use crate::form::{SOON, assert_balanced, builder, numbers, subscriber, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_event_is_counted_once_while_a_broker_dies_and_returns() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let mut broker = builder(&registry).data_dir(folder.path()).start_without_port().unwrap();
    let (dispatch, guard) = subscriber(&registry, |builder| builder.max_buffered(500));
    let (next, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let threads: Vec<_> = (0..6)
        .map(|_| {
            let (dispatch, next, is_over) = (dispatch.clone(), Arc::clone(&next), Arc::clone(&is_over));
            thread::spawn(move || {
                tracing::dispatcher::with_default(&dispatch, || {
                    while !is_over.load(SeqCst) {
                        for _ in 0..10 {
                            tracing::info!(n = next.fetch_add(1, SeqCst), "an event");
                        }
                        thread::yield_now();
                    }
                });
            })
        })
        .collect();
    let stats = guard.stats_handle();
    for _ in 0..4 {
        let before = stats.stats();
        until(&stats, |stats| stats.sent > before.sent + 200).await;
        // Some are being sent when it dies.
        let restart = broker.kill().await;
        let before = stats.stats();
        until(&stats, |stats| stats.dropped.full > before.dropped.full).await;
        assert!(stats.stats().buffered <= 500);
        broker = restart.start_without_port().unwrap();
    }
    is_over.store(true, SeqCst);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let at_end = guard.shutdown(SOON).await;
    assert_balanced(at_end);
    assert_eq!((at_end.offered, at_end.buffered), (next.load(SeqCst), 0), "{at_end:?}");
    assert_eq!((at_end.failed.rejected, at_end.failed.not_sent), (0, 0), "{at_end:?}");
    let stored = numbers(&broker);
    assert_eq!(stored.iter().collect::<BTreeSet<_>>().len(), stored.len(), "nothing is stored twice");
    let most = at_end.sent + at_end.failed.unknown;
    assert!((at_end.sent..=most).contains(&(stored.len() as u64)), "{} stored, {at_end:?}", stored.len());
}
