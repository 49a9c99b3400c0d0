//! The fate of messages: limits, retries, order, and the account. Time is paused.

use std::time::Duration;

use metaq_producer::{
    Message, Outcome, Partition, SendErrorKind, Topic, config::Jitter, selector::select_fn,
};
use metaq_testkit::{Broker, Fault, Requests};
use tokio::time::{Instant, timeout};

use crate::common::{
    SOON,
    cluster::{Cluster, broker, builder, counts, producer, sum},
    message, topic, until,
};

#[tokio::test(start_paused = true)]
async fn a_message_is_sent_and_counted_whatever_becomes_of_its_handle() {
    let cluster = Cluster::new(1, |_| {}).await;
    let producer = &cluster.producer;
    let kept = producer.enqueue(message("kept")).await.unwrap();
    drop(producer.enqueue(message("dropped")).await.unwrap());
    let forgotten = producer.enqueue(message("forgotten")).await.unwrap();
    assert_eq!(kept.await.unwrap().attempts, 1);
    producer.flush().await;
    let counts = cluster.counts().await;
    assert_eq!((counts.offered, counts.acknowledged), (3, 3), "{counts:?}");
    assert_eq!(producer.stats().await.unacknowledged, 0, "nobody looked, and the capacity is free again");
    let mut stored = cluster.stored();
    stored.sort();
    assert_eq!(stored, ["dropped", "forgotten", "kept"]);
    assert!(forgotten.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn more_than_the_room_is_accepted_before_handles_are_polled() {
    let cluster = Cluster::new(2, |config| config.max_in_flight = 4).await;
    let outcomes = cluster.producer.send_all((0..1000).map(|n| message(n.to_string()))).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(cluster.stored().len(), 1000);
    let receipts: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    for (n, receipt) in receipts.iter().enumerate() {
        let broker = &cluster.brokers[receipt.partition.broker.0 as usize];
        let stored = broker.messages("t");
        let stored = stored.iter().find(|stored| stored.id == receipt.message_id).unwrap();
        assert_eq!((&stored.payload[..], stored.offset), (n.to_string().as_bytes(), receipt.offset));
    }
}

#[tokio::test(start_paused = true)]
async fn when_there_is_no_room_one_can_wait_or_have_the_message_back() {
    let cluster = Cluster::new(2, |config| config.max_in_flight = 4).await;
    let producer = &cluster.producer;
    cluster.brokers.iter().for_each(|broker| broker.faults().freeze());
    let handles: Vec<_> = (0..4).map(|n| producer.try_send(message(n.to_string())).unwrap()).collect();
    let error = producer.try_send(message("full")).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Full, Outcome::NotSent), "at once");
    assert!(error.to_string().contains("4 of 4 messages"), "{error}");
    assert_eq!(error.into_message(), Some(message("full")));
    // Those who wait are served in order, and are not overtaken.
    let waiting: Vec<_> = (0..3)
        .map(|n| {
            let producer = producer.clone();
            tokio::spawn(async move { producer.enqueue(message(format!("waited {n}"))).await.unwrap().await })
        })
        .collect();
    until(async || cluster.counts().await.queued == 3).await;
    assert_eq!(producer.try_send(message("passes")).unwrap_err().kind(), SendErrorKind::Full);
    cluster.brokers.iter().for_each(|broker| broker.faults().thaw());
    for handle in handles {
        handle.await.unwrap();
    }
    for waited in waiting {
        waited.await.unwrap().unwrap();
    }
    let counts = cluster.counts().await;
    assert_eq!((counts.acknowledged, counts.not_sent, counts.offered), (7, 2, 9));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_room_ends_at_the_deadline_and_can_be_given_up() {
    let cluster = Cluster::new(1, |config| config.max_in_flight = 1).await;
    let producer = &cluster.producer;
    cluster.brokers[0].faults().freeze();
    let first = producer.enqueue(message("first")).await.unwrap();
    let started = Instant::now();
    let error = producer.enqueue_with_timeout(message("late"), Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(started.elapsed().as_millis(), 300);
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Full, Outcome::NotSent));
    assert_eq!(error.into_message(), Some(message("late")));
    assert!(timeout(Duration::from_millis(10), producer.enqueue(message("given up"))).await.is_err());
    cluster.brokers[0].faults().thaw();
    assert!(first.await.is_ok());
    assert!(producer.send(message("next")).await.is_ok(), "no capacity is lost");
    let counts = cluster.counts().await;
    assert_eq!((counts.offered, counts.acknowledged, counts.not_sent, counts.queued), (4, 2, 2, 0));
    assert_eq!(cluster.stored(), ["next", "first"]);
}

#[tokio::test(start_paused = true)]
async fn dropped_send_is_taken_back_unless_handed_over() {
    let mut cluster = Cluster::new(1, |_| {}).await;
    let producer = cluster.producer.clone();
    drop(cluster.brokers.pop());
    until(async || producer.partitions(&topic()).is_empty()).await;
    assert!(timeout(Duration::from_millis(10), producer.send(message("cancelled"))).await.is_err());
    let kept = producer.enqueue(message("kept")).await.unwrap();
    drop(producer.enqueue(message("dropped")).await.unwrap());
    assert_eq!(cluster.counts().await.queued, 2);
    cluster.brokers.push(broker(&cluster.registry, 0));
    assert!(kept.await.is_ok());
    producer.flush().await;
    assert_eq!(cluster.stored().len(), 2, "both are sent once a broker is there");
    let counts = cluster.counts().await;
    assert_eq!((counts.offered, counts.acknowledged, counts.not_sent), (3, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_certainly_not_stored_is_sent_again_elsewhere() {
    for (status, text) in [(403, "partition[0-1] has been closed"), (404, "?"), (503, "busy")] {
        let cluster = Cluster::new(2, |config| config.retry.jitter = Jitter::seeded(1)).await;
        // The first message goes to the second partition.
        cluster.brokers[0].faults().plan(Requests::puts(), Fault::refuse(status, text));
        let receipt = cluster.producer.send(message("x")).await.unwrap();
        assert_eq!(receipt.partition.broker.0, 1, "{status}");
        assert!(receipt.attempts >= 2);
        let before = cluster.producer.stats().await.topics[0].brokers[0].retried;
        for _ in 0..20 {
            let receipt = cluster.producer.send(message("y")).await.unwrap();
            assert_eq!(receipt.partition.broker.0, 1);
        }
        let after = cluster.producer.stats().await.topics[0].brokers[0].retried;
        assert!(after - before <= 4, "what was refused is left alone: {before} to {after}");
        assert_eq!(cluster.stored().len(), 21);
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_that_go_on_end_with_the_last_word_and_the_attempts() {
    let cluster = Cluster::new(1, |_| {}).await;
    cluster.brokers[0].faults().plan(Requests::puts(), Fault::refuse(503, "busy"));
    let error = cluster.producer.send(message("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Rejected, Outcome::Rejected), "M-23");
    assert_eq!(error.attempts().len(), 4, "five attempts, of which the last is the error itself");
    assert!(error.to_string().contains("tried 4 times before"), "{error}");
    let attempt = &error.attempts()[0];
    assert_eq!(
        (attempt.partition, attempt.outcome),
        (Partition::new(0, 1), Outcome::Rejected),
        "each attempt is listed"
    );
    assert_eq!(error.into_message(), Some(message("x")));
    // 500 is no reason to try again by default.
    cluster.brokers[0].faults().heal();
    let plan = cluster.brokers[0].faults().plan(Requests::puts(), Fault::refuse(500, "broken"));
    assert_eq!(cluster.producer.send(message("x")).await.unwrap_err().attempts().len(), 0);
    assert_eq!(plan.met(), 1);
    let counts = cluster.counts().await;
    assert_eq!((counts.rejected, counts.offered), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn server_errors_are_tried_again_only_if_asked_for() {
    let cluster = Cluster::new(1, |config| config.retry.server_errors = true).await;
    let plan = cluster.brokers[0].faults().plan(Requests::puts().first(2), Fault::refuse(500, "broken"));
    assert_eq!(cluster.producer.send(message("x")).await.unwrap().attempts, 3);
    assert_eq!((plan.met(), cluster.stored().len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn what_may_be_stored_is_not_sent_again_unless_asked_for() {
    let cluster = Cluster::new(2, |_| {}).await;
    for broker in &cluster.brokers {
        broker.faults().plan(Requests::puts().first(1), Fault::Swallow);
    }
    let started = Instant::now();
    let error = cluster.producer.send(message("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::TimedOut, Outcome::Unknown), "R-9");
    assert_eq!(started.elapsed().as_millis(), 3000, "M-1");
    assert!(error.into_message().is_none());
    assert_eq!(cluster.stored(), ["x"], "it was stored once");

    let cluster = Cluster::new(2, |config| config.retry.at_least_once = true).await;
    cluster.brokers[0].faults().plan(Requests::puts().first(1), Fault::Swallow);
    let started = Instant::now();
    let receipt = cluster.producer.send(message("x")).await.unwrap();
    assert_eq!(receipt.attempts, 2);
    assert!(started.elapsed() < Duration::from_secs(3), "the first attempt leaves time for another");
    assert_eq!(cluster.stored(), ["x", "x"], "at least once");
}

#[tokio::test(start_paused = true)]
async fn what_may_be_stored_stays_unknown_whatever_comes_later() {
    let mut cluster = Cluster::new(1, |config| config.retry.at_least_once = true).await;
    cluster.brokers[0].faults().plan(Requests::puts(), Fault::Cut(0));
    let send = cluster.producer.enqueue(message("x")).await.unwrap();
    until(async || cluster.stored().len() == 1).await;
    cluster.brokers.clear();
    let error = send.await.unwrap_err();
    assert_eq!(
        error.outcome(),
        Outcome::Unknown,
        "the last attempt was not sent, but the first may be stored"
    );
    assert!(!error.attempts().is_empty());
    assert_eq!(cluster.counts().await.unknown, 1);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_falls_silent_takes_its_share_and_no_more() {
    let cluster = Cluster::new(2, |config| config.max_in_flight = 100).await;
    cluster.brokers[0].faults().freeze();
    let started = Instant::now();
    let mut handles = Vec::new();
    for n in 0..2000 {
        handles.push(cluster.producer.enqueue(message(n.to_string())).await.unwrap());
    }
    assert!(started.elapsed() < Duration::from_millis(500), "the other one goes on: {:?}", started.elapsed());
    let mut unknown = 0;
    for handle in handles {
        match handle.await {
            Ok(receipt) => assert_eq!(receipt.partition.broker.0, 1),
            Err(error) => {
                assert_eq!(error.outcome(), Outcome::Unknown);
                unknown += 1;
            }
        }
    }
    assert!((1..=50).contains(&unknown), "at most half of what may be in flight: {unknown}");
    assert!(started.elapsed() <= Duration::from_millis(3_100), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nobody_passes_those_who_wait_for_room_on_a_connection() {
    // Eight of sixteen may be in flight at the only broker, and four may wait for it.
    let cluster = Cluster::new(1, |config| config.max_in_flight = 16).await;
    cluster.brokers[0].faults().freeze();
    let mut handles = Vec::new();
    for n in 0..12 {
        handles.push(cluster.producer.enqueue(message(n.to_string())).await.unwrap());
    }
    // The last one waits to be accepted at all.
    let producer = cluster.producer.clone();
    let last = tokio::spawn(async move { producer.send(message("12")).await.unwrap().message_id });
    until(async || cluster.counts().await.queued == 5).await;
    cluster.brokers[0].faults().thaw();
    let mut ids = Vec::new();
    for handle in handles {
        ids.push(handle.await.unwrap().message_id);
    }
    ids.push(last.await.unwrap());
    assert!(ids.is_sorted(), "stored in the order in which they came: {ids:?}");
}

#[tokio::test(start_paused = true)]
async fn messages_wait_for_a_silent_broker_without_alternative() {
    let cluster = Cluster::new(1, |_| {}).await;
    cluster.brokers[0].faults().freeze();
    let first = cluster.producer.enqueue_with_timeout(message("first"), SOON).await.unwrap();
    until(async || cluster.producer.partitions(&topic()).is_empty()).await;
    let second = cluster.producer.enqueue(message("second")).await.unwrap();
    let error = second.await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NotConnected, Outcome::NotSent));
    assert!(error.to_string().contains("is silent"), "{error}");
    cluster.brokers[0].faults().thaw();
    assert!(first.await.is_ok());
    assert!(cluster.producer.send(message("third")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn ordered_messages_are_stored_in_the_order_of_the_calls() {
    let cluster = Cluster::new(2, |config| config.ordered = true).await;
    // A broker that answers late would reorder what is in flight together.
    for broker in &cluster.brokers {
        broker.faults().plan(Requests::puts().with_chance(0.3), Fault::Late(Duration::from_millis(20)));
        broker.faults().plan(Requests::puts().with_chance(0.1), Fault::refuse(503, "busy"));
    }
    let mut handles = Vec::new();
    for n in 0..200 {
        handles.push(cluster.producer.enqueue_with_timeout(message(n.to_string()), SOON).await.unwrap());
    }
    for handle in handles {
        handle.await.unwrap();
    }
    let mut all = 0;
    for broker in &cluster.brokers {
        for partition in 0..2 {
            let stored =
                broker.messages("t").into_iter().filter(|stored| stored.partition.index == partition);
            let numbers: Vec<u32> =
                stored.map(|stored| std::str::from_utf8(&stored.payload).unwrap().parse().unwrap()).collect();
            assert!(numbers.is_sorted(), "K-50: {numbers:?}");
            all += numbers.len();
        }
    }
    assert_eq!(all, 200);
}

#[tokio::test(start_paused = true)]
async fn default_topic_takes_messages_of_unpublished_topics() {
    let registry = metaq_testkit::EmbeddedRegistry::new();
    let builder = Broker::builder().topic("t", 2).topic("other", 2);
    let broker = builder.register_with(&registry).start_without_port().unwrap();
    let producer = producer(&registry, |config| config.default_topic = Some(topic()));
    let other = || Message::new(Topic::new("other").unwrap(), "x");
    assert_eq!(producer.send(other()).await.unwrap_err().kind(), SendErrorKind::NotPublished);
    producer.publish_topic(&topic()).await.unwrap();
    producer.send(other()).await.unwrap();
    assert_eq!((broker.messages("other").len(), broker.messages("t").len()), (1, 0), "P-10, C-155");
    let counts = counts(&producer).await;
    assert_eq!((counts.offered, counts.acknowledged, counts.not_sent), (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn closing_accounts_for_every_message_in_time() {
    let cluster = Cluster::new(2, |_| {}).await;
    let producer = cluster.producer.clone();
    producer.send(message("before")).await.unwrap();
    cluster.brokers[0].faults().plan(Requests::puts(), Fault::Swallow);
    cluster.brokers[1].faults().plan(Requests::puts().only(1), Fault::refuse(500, "no"));
    cluster.brokers[1].faults().plan(Requests::puts(), Fault::Late(Duration::from_millis(50)));
    let mut handles = Vec::new();
    for n in 0..20 {
        handles.push(producer.enqueue(message(n.to_string())).await.unwrap());
    }
    let started = Instant::now();
    let report = producer.close(Duration::from_millis(500)).await;
    assert!(started.elapsed() <= Duration::from_millis(600), "{:?}", started.elapsed());
    assert_eq!((report.acknowledged, report.rejected, report.unknown, report.unsent.len()), (9, 1, 10, 0));
    let mut seen = [0; 3];
    for handle in handles {
        // Every handle is resolved by now.
        match timeout(Duration::ZERO, handle).await.expect("an outcome") {
            Ok(_) => seen[0] += 1,
            Err(error) if error.outcome() == Outcome::Rejected => seen[1] += 1,
            Err(error) => {
                assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Closed, Outcome::Unknown));
                seen[2] += 1;
            }
        }
    }
    assert_eq!(seen, [9, 1, 10]);
    let counts = counts(&producer).await;
    assert_eq!((counts.offered, sum(counts), counts.in_flight, counts.queued), (21, 21, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn dropping_a_producer_resolves_every_handle() {
    let mut cluster = Cluster::new(1, |_| {}).await;
    cluster.brokers[0].faults().plan(Requests::puts(), Fault::Swallow);
    let flying =
        cluster.producer.enqueue_with_timeout(message("flying"), Duration::from_secs(60)).await.unwrap();
    until(async || cluster.stored().len() == 1).await;
    cluster.brokers.clear();
    until(async || cluster.producer.partitions(&topic()).is_empty()).await;
    let waiting = cluster.producer.enqueue_with_timeout(message("waiting"), Duration::from_secs(60)).await;
    drop(cluster.producer);
    let error = timeout(SOON, waiting.unwrap()).await.expect("an outcome").unwrap_err();
    assert_eq!((error.outcome(), error.into_message()), (Outcome::NotSent, Some(message("waiting"))));
    assert_eq!(timeout(SOON, flying).await.expect("an outcome").unwrap_err().outcome(), Outcome::Unknown);
}

#[test]
fn a_runtime_that_ends_resolves_every_handle() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (handles, producer, _cluster) = runtime.block_on(async {
        let cluster = Cluster::new(1, |_| {}).await;
        cluster.brokers[0].faults().plan(Requests::puts(), Fault::Swallow);
        let flying = cluster.producer.enqueue_with_timeout(message("flying"), SOON).await.unwrap();
        until(async || cluster.stored().len() == 1).await;
        cluster.brokers[0].faults().refuse_connections(true);
        cluster.brokers[0].faults().close_connections();
        until(async || cluster.producer.partitions(&topic()).is_empty()).await;
        let waiting = cluster.producer.enqueue_with_timeout(message("waiting"), SOON).await.unwrap();
        ([flying, waiting], cluster.producer.clone(), cluster)
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    let other = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    other.block_on(async {
        let [flying, waiting] = handles;
        assert_eq!(timeout(SOON, flying).await.expect("an outcome").unwrap_err().outcome(), Outcome::Unknown);
        assert_eq!(
            timeout(SOON, waiting).await.expect("an outcome").unwrap_err().outcome(),
            Outcome::NotSent
        );
        let error = timeout(SOON, producer.send(message("after"))).await.unwrap().unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotSent);
    });
}

#[tokio::test(start_paused = true)]
async fn the_account_tells_topics_brokers_and_latencies() {
    let cluster = Cluster::new(2, |_| {}).await;
    let slow = Fault::Late(Duration::from_millis(40));
    cluster.brokers[1].faults().plan(Requests::puts(), slow);
    for n in 0..40 {
        cluster.producer.send(message(n.to_string())).await.unwrap();
    }
    let stats = cluster.producer.stats().await;
    let [topic] = stats.topics.as_slice() else { panic!("one topic: {stats:?}") };
    assert_eq!(topic.messages, stats.messages);
    let [fast, slow] = topic.brokers.as_slice() else { panic!("two brokers: {stats:?}") };
    assert_eq!((fast.acknowledged, slow.acknowledged), (20, 20));
    assert!(fast.latencies.quantile(0.5) < Duration::from_millis(1));
    let median = slow.latencies.quantile(0.5).as_millis();
    assert!((40..=42).contains(&median), "{median}");
    assert_eq!(fast.latencies.merged(&slow.latencies).count(), 40);
    assert_eq!(stats.connections.len(), 2);
    assert!(stats.connections.iter().all(|(_, connection)| connection.established == 1));
    let told = cluster.producer.broker_stats(None, SOON).await;
    let total = |n: usize| told[n].1.as_ref().unwrap().get("total_messages").map(str::to_owned);
    assert_eq!((total(0), total(1)), (Some("20".to_owned()), Some("20".to_owned())), "Q-1");
}

#[tokio::test(start_paused = true)]
async fn topics_that_share_a_full_connection_both_go_on() {
    let registry = metaq_testkit::EmbeddedRegistry::new();
    let builder = Broker::builder().topic("t", 1).topic("u", 1);
    let broker = builder.register_with(&registry).start_without_port().unwrap();
    let producer = producer(&registry, |config| config.max_in_flight = 8);
    let other = Topic::new("u").unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer.publish_topic(&other).await.unwrap();
    broker.faults().plan(Requests::puts(), Fault::Late(Duration::from_millis(10)));
    let mut handles = Vec::new();
    for n in 0..200 {
        let topic = if n % 10 == 0 { other.clone() } else { topic() };
        handles.push(producer.enqueue_with_timeout(Message::new(topic, n.to_string()), SOON).await.unwrap());
    }
    for handle in handles {
        handle.await.unwrap();
    }
    assert_eq!((broker.messages("t").len(), broker.messages("u").len()), (180, 20));
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_insists_on_a_full_broker_waits_for_it() {
    let registry = metaq_testkit::EmbeddedRegistry::new();
    let brokers: Vec<_> = (0..2).map(|id| broker(&registry, id)).collect();
    let by_key = select_fn(|_, partitions, message| {
        let broker = if message.key().is_some() { partitions.first()? } else { partitions.last()? };
        Some(*broker)
    });
    let producer = builder(&registry, |config| config.max_in_flight = 8).selector(by_key).build();
    let producer = producer.unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    brokers[0].faults().plan(Requests::puts(), Fault::Late(Duration::from_millis(10)));
    let mut handles = Vec::new();
    for n in 0..40 {
        let message = if n % 2 == 0 { message(n.to_string()).with_key("k") } else { message(n.to_string()) };
        handles.push((n, producer.enqueue_with_timeout(message, SOON).await.unwrap()));
    }
    for (n, handle) in handles {
        let receipt = handle.await.unwrap();
        assert_eq!(receipt.partition, if n % 2 == 0 { Partition::new(0, 0) } else { Partition::new(1, 1) });
        assert_eq!(receipt.attempts, 1);
    }
}
