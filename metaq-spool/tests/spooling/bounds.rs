//! Bounds in messages, bytes and age.

use std::time::Duration;

use metaq_producer::Outcome;
use metaq_spool::{DropReason, SpoolEvent, SpoolSendErrorKind, WhenFull};
use metaq_testkit::EmbeddedRegistry;

use crate::form::{SOON, assert_balanced, broker, id, message, open, options, pinned, stored, until};

#[tokio::test]
async fn a_full_spool_refuses_and_takes_again() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let mut options = options(folder.path());
    options.max_messages = 3;
    let spool = open(&registry, options).await;
    let mut events = spool.events();
    for n in 0..3 {
        id(&spool.send(message(format!("{n}"))).await.unwrap());
    }
    let error = spool.send(message("4")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SpoolSendErrorKind::Full, Outcome::NotSent));
    assert!(error.to_string().contains("max_messages, which is 3"), "{error}");
    assert_eq!(error.into_message(), Some(message("4")));
    let full = async { while !matches!(events.next().await, Some(SpoolEvent::Full)) {} };
    tokio::time::timeout(SOON, full).await.unwrap();
    assert_balanced(&spool.stats());
    let broker = broker(&registry);
    assert_eq!(spool.drain(SOON).await, 0);
    assert_eq!(stored(&broker).len(), 3);
    assert_eq!(spool.stats().failed, 1);
}

#[tokio::test]
async fn the_oldest_of_all_queues_are_dropped_and_counted() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let mut options = options(folder.path());
    (options.max_messages, options.when_full) = (10, WhenFull::DropOldest);
    let spool = open(&registry, options).await;
    let mut events = spool.events();
    for n in 0..25 {
        id(&spool.send(pinned(format!("{n:02}"), n % 3)).await.unwrap());
    }
    let stats = spool.stats();
    assert_eq!((stats.waiting, stats.dropped), (10, 15));
    assert_balanced(&stats);
    let dropped = async {
        loop {
            if let Some(SpoolEvent::Dropped { reason, .. }) = events.next().await {
                return reason;
            }
        }
    };
    assert_eq!(tokio::time::timeout(SOON, dropped).await.unwrap(), DropReason::Full);
    let broker = broker(&registry);
    assert_eq!(spool.drain(SOON).await, 0);
    let expected: Vec<_> = (15..25).map(|n| format!("{n:02}")).collect();
    assert_eq!(stored(&broker).into_keys().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn bytes_are_bounded_and_a_huge_message_refused() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let mut options = options(folder.path());
    (options.max_bytes, options.when_full) = (10_000, WhenFull::DropOldest);
    let spool = open(&registry, options).await;
    for _ in 0..20 {
        id(&spool.send(message("x".repeat(2_000))).await.unwrap());
    }
    let stats = spool.stats();
    assert_eq!((stats.waiting, stats.dropped), (4, 16));
    assert!(stats.waiting_bytes <= 10_000);
    let error = spool.send(message("x".repeat(10_000))).await.unwrap_err();
    assert!(error.to_string().contains("more than max_bytes"), "{error}");
    assert_balanced(&spool.stats());
}

#[tokio::test]
async fn messages_that_are_too_old_are_dropped_and_counted() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let mut options = options(folder.path());
    options.max_age = Some(Duration::from_millis(300));
    let spool = open(&registry, options).await;
    for n in 0..5 {
        id(&spool.send(message(format!("{n}"))).await.unwrap());
    }
    until(&spool, |stats| stats.waiting == 0).await;
    let stats = spool.stats();
    assert_eq!((stats.dropped, stats.queues.len()), (5, 0));
    assert_balanced(&stats);
}
