//! What is spooled, what is not, and what becomes of it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use metaq_producer::{Message, Outcome, Partition, SendErrorKind, SendReceipt, Topic};
use metaq_spool::{
    ReplayListener, Sent, SpoolEvent, SpoolId, SpoolOptions, SpoolSendErrorKind, SpoolingProducer,
};
use metaq_testkit::{EmbeddedRegistry, Fault, Requests};

use crate::form::{
    SOON, assert_balanced, broker, id, in_partition, message, open, options, pinned, producer, stored, topic,
    until,
};

#[tokio::test]
async fn with_a_broker_messages_are_stored() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let broker = broker(&registry);
    let spool = open(&registry, options(folder.path())).await;
    assert!(matches!(spool.send(message("a")).await, Ok(Sent::Stored(_))));
    let handle = spool.enqueue(message("b")).await.unwrap();
    assert!(matches!(handle.await, Ok(Sent::Stored(_))));
    assert!(matches!(spool.try_send(message("c")).unwrap().await, Ok(Sent::Stored(_))));
    let all = spool.send_all(["d", "e"].map(message)).await;
    assert!(all.iter().all(|sent| matches!(sent, Ok(Sent::Stored(_)))));
    let stats = spool.stats();
    assert_eq!((stats.offered, stats.stored, stats.spooled), (5, 5, 0));
    assert_eq!(stored(&broker).len(), 5);
    assert_balanced(&stats);
}

#[tokio::test]
async fn without_a_broker_messages_are_spooled_and_replayed() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let spool = open(&registry, options(folder.path())).await;
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(id(&spool.send(message(format!("{n}")).with_attribute("a").with_key("k")).await.unwrap()));
    }
    ids.push(id(&spool.try_send(pinned("p", 3)).unwrap().await.unwrap()));
    assert!(ids.is_sorted());
    let stats = spool.stats();
    assert_eq!((stats.spooled, stats.waiting, stats.queues.len()), (11, 11, 2));
    assert_balanced(&stats);

    let broker = broker(&registry);
    assert_eq!(spool.drain(SOON).await, 0);
    let found = stored(&broker);
    assert_eq!(found.len(), 11);
    assert!(found.values().all(|count| *count == 1));
    assert!(in_partition(&broker, 3).contains(&"p".to_owned()));
    let with_attribute = broker.messages("t").iter().filter(|message| message.attribute.is_some()).count();
    assert_eq!(with_attribute, 10);
    let stats = spool.stats();
    assert_eq!((stats.replayed, stats.waiting, stats.waiting_bytes), (11, 0, 0));
    assert_balanced(&stats);
    assert!(matches!(spool.send(message("live")).await, Ok(Sent::Stored(_))));
}

#[tokio::test]
async fn messages_that_no_broker_takes_are_not_spooled() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let broker = broker(&registry);
    let spool = open(&registry, options(folder.path())).await;
    let large = Message::new(topic(), vec![0; 2 << 20]);
    let error = spool.send(large.clone()).await.unwrap_err();
    assert_eq!(error.kind(), SpoolSendErrorKind::Send);
    assert_eq!(error.send_error().unwrap().kind(), SendErrorKind::TooLarge);
    assert_eq!(error.into_message(), Some(large));

    let unknown = Message::new("never-published".parse().unwrap(), "x");
    let error = spool.send(unknown).await.unwrap_err();
    assert_eq!(error.send_error().unwrap().kind(), SendErrorKind::NotPublished);

    for status in [400, 401, 500] {
        broker.faults().plan(Requests::puts().first(1), Fault::refuse(status, "no"));
        let error = spool.send(message("refused")).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Rejected, "{status}");
    }
    let stats = spool.stats();
    assert_eq!((stats.failed, stats.spooled, stats.waiting), (5, 0, 0));
    assert_balanced(&stats);
}

#[tokio::test]
async fn refusals_that_pass_are_spooled() {
    for status in [403, 404, 503] {
        let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
        let broker = broker(&registry);
        let spool = open(&registry, options(folder.path())).await;
        broker.faults().plan(Requests::puts(), Fault::refuse(status, "not now"));
        id(&spool.send(message("a")).await.unwrap());
        broker.faults().heal();
        assert_eq!(spool.drain(SOON).await, 0, "{status}");
        assert_eq!(stored(&broker)["a"], 1);
        assert_balanced(&spool.stats());
    }
}

#[tokio::test]
async fn unknown_and_500_are_spooled_by_choice() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let broker = broker(&registry);
    let spool = open(&registry, options(folder.path())).await;
    broker.faults().plan(Requests::puts().first(1), Fault::Swallow);
    let error = spool.send(message("a")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SpoolSendErrorKind::Send, Outcome::Unknown));
    assert_eq!(error.into_message(), None);
    spool.close(Duration::ZERO).await;

    let mut options = options(folder.path());
    (options.spool_unknown, options.spool_server_errors) = (true, true);
    let spool = open(&registry, options).await;
    broker.faults().plan(Requests::puts().first(1), Fault::Swallow);
    id(&spool.send(message("b")).await.unwrap());
    assert_eq!(spool.drain(SOON).await, 0);
    assert_eq!(stored(&broker)["b"], 2, "once by the attempt whose answer was lost");
    broker.faults().plan(Requests::puts().first(1), Fault::refuse(500, "disk"));
    id(&spool.send(message("c")).await.unwrap());
    assert_eq!(spool.drain(SOON).await, 0);
    assert_eq!(stored(&broker)["c"], 1);
    assert_balanced(&spool.stats());
}

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl ReplayListener for Seen {
    fn replayed(&self, id: SpoolId, topic: &Topic, receipt: &SendReceipt) {
        self.0.lock().unwrap().push(format!("{id} {topic} {}", receipt.partition));
        panic!("a panic of a listener is contained");
    }

    fn set_aside(&self, id: SpoolId, _: &Topic, _: Option<Partition>, reason: &str) {
        self.0.lock().unwrap().push(format!("{id} aside {reason}"));
    }
}

#[tokio::test]
async fn poison_is_set_aside_and_delays_no_other() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let seen = Arc::new(Seen::default());
    let mut options = options(folder.path()).listener(Arc::clone(&seen) as Arc<dyn ReplayListener>);
    (options.max_attempts, options.ordered) = (3, true);
    let spool = open(&registry, options).await;
    let mut events = spool.events();
    for (payload, index) in [("good", 0), ("poison", 1), ("better", 1), ("stubborn", 2), ("best", 2)] {
        id(&spool.send(pinned(payload, index)).await.unwrap());
    }
    let started = crate::form::builder(&registry).start_without_port().unwrap();
    started.faults().plan(Requests::puts().of_partition(1).first(1), Fault::refuse(400, "malformed"));
    // As often as one message is tried.
    started.faults().plan(Requests::puts().of_partition(2).first(3), Fault::refuse(500, "broken"));
    assert_eq!(spool.drain(SOON).await, 0);
    let stats = spool.stats();
    assert_balanced(&stats);
    let stored = stored(&started);
    assert_eq!(stored.keys().collect::<Vec<_>>(), ["best", "better", "good"]);
    assert_eq!((stats.set_aside, stats.held_aside, stats.replayed), (2, 2, 3));
    let lines = seen.0.lock().unwrap().clone();
    assert!(lines.iter().any(|line| line.contains(" aside ") && line.contains("400")), "{lines:?}");
    assert_eq!(lines.len(), 5);
    let mut aside = Vec::new();
    while aside.len() < 2 {
        let event = tokio::time::timeout(SOON, events.next()).await.unwrap().unwrap();
        if let SpoolEvent::SetAside { attempts, reason, .. } = event {
            assert!(reason.contains("answered"), "{reason}");
            aside.push(attempts);
        }
    }
    aside.sort_unstable();
    assert_eq!(aside, [1, 3]);
}

/// A broker whose disk is full for a while refuses each message.
#[tokio::test]
async fn a_passing_500_sets_few_messages_aside() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let mut options = options(folder.path());
    (options.max_attempts, options.ordered) = (1, true);
    let spool = open(&registry, options).await;
    for n in 0..20 {
        id(&spool.send(pinned(n.to_string(), 0)).await.unwrap());
    }
    let started = crate::form::builder(&registry).start_without_port().unwrap();
    let refused = started.faults().plan(Requests::puts(), Fault::refuse(500, "the disk is full"));
    until(&spool, |_| refused.met() >= 6).await;
    started.faults().heal();
    assert_eq!(spool.drain(SOON).await, 0);
    let stats = spool.stats();
    assert_eq!((stats.set_aside, stats.replayed), (3, 17));
    assert_balanced(&stats);
}

#[tokio::test]
async fn a_dropped_handle_is_taken_to_its_outcome() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let broker = broker(&registry);
    let spool = open(&registry, options(folder.path())).await;
    broker.faults().plan(Requests::puts(), Fault::refuse(503, "busy"));
    for n in 0..20 {
        drop(spool.enqueue(message(format!("{n}"))).await.unwrap());
    }
    until(&spool, |stats| stats.in_flight == 0).await;
    assert_eq!(spool.stats().spooled, 20);
    spool.flush().await;
    broker.faults().heal();
    assert_eq!(spool.drain(SOON).await, 0);
    assert!(stored(&broker).values().all(|count| *count == 1));
    assert_balanced(&spool.stats());
}

#[tokio::test]
async fn one_failing_queue_delays_no_other() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let spool = open(&registry, options(folder.path())).await;
    for n in 0..50 {
        id(&spool.send(pinned(format!("{n}"), n % 4)).await.unwrap());
    }
    let broker = broker(&registry);
    let refused = broker.faults().plan(Requests::puts().of_partition(1), Fault::refuse(503, "busy"));
    let is_refused = |reason: &String| reason.contains("503");
    until(&spool, |stats| stats.waiting == 13 && stats.queues[0].failing.as_ref().is_some_and(is_refused))
        .await;
    assert!(refused.met() > 0);
    assert_eq!(spool.stats().queues.len(), 1);
    broker.faults().heal();
    assert_eq!(spool.drain(SOON).await, 0);
    for index in 0..4 {
        let expected: Vec<_> = (0..50).filter(|n| n % 4 == index).map(|n| n.to_string()).collect();
        let mut found = in_partition(&broker, index);
        found.sort_by_key(|n| n.parse::<i32>().unwrap());
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn closing_spools_what_could_not_be_sent() {
    let (registry, folder) = (EmbeddedRegistry::new(), tempfile::tempdir().unwrap());
    let started = broker(&registry);
    let spool = open(&registry, options(folder.path())).await;
    started.faults().plan(Requests::puts(), Fault::refuse(503, "busy"));
    for n in 0..5 {
        drop(spool.enqueue(message(format!("{n}"))).await.unwrap());
    }
    let report = spool.close(Duration::ZERO).await;
    let stats = spool.stats();
    assert_balanced(&stats);
    assert_eq!((report.waiting, stats.in_flight), (5 - stats.failed, 0));
    let error = spool.send(message("late")).await.unwrap_err();
    assert_eq!((error.kind(), error.into_message()), (SpoolSendErrorKind::Closed, Some(message("late"))));
    drop(spool);
    started.faults().heal();
    let spool = SpoolingProducer::open(producer(&registry), SpoolOptions::new(folder.path())).await.unwrap();
    assert_eq!(spool.stats().recovered, report.waiting);
    assert!(spool.stats().was_closed);
    assert_eq!(spool.drain(SOON).await, 0);
}
