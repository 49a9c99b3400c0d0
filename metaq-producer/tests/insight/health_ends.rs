//! Health, readiness and events when connections, producers and runtimes end.

use std::{collections::BTreeSet, time::Duration};

use metaq_producer::health::{ConnectionPhase, ProducerEvent, ProducerEvents};
use metaq_testkit::EmbeddedRegistry;
use tokio::{
    runtime::Builder,
    time::{sleep, timeout},
};

use crate::common::{
    SOON,
    cluster::{Cluster, broker, broker_with, producer},
    message, topic, topic_named, until,
};

async fn is_closed(events: &mut ProducerEvents) -> bool {
    let end = async {
        while let Some(event) = events.next().await {
            if matches!(event, ProducerEvent::Closed { .. }) {
                return true;
            }
        }
        false
    };
    timeout(SOON, end).await.expect("the end comes")
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_lets_nobody_in_is_reported_once() {
    let cluster = Cluster::new(1, |_| ()).await;
    let mut events = cluster.producer.events();
    cluster.brokers[0].faults().refuse_connections(true);
    cluster.brokers[0].faults().close_connections();
    sleep(Duration::from_secs(60)).await;
    cluster.brokers[0].faults().refuse_connections(false);
    let mut unreachable = 0;
    loop {
        match events.next().await.unwrap() {
            ProducerEvent::Unreachable { .. } => unreachable += 1,
            ProducerEvent::Connected { .. } => break,
            _ => {}
        }
    }
    assert_eq!(unreachable, 1);
}

#[tokio::test(start_paused = true)]
async fn health_is_not_sending_before_publishing_or_after_closing() {
    let cluster = Cluster::unpublished(1, |_| ());
    assert!(!cluster.producer.health().is_sending());
    cluster.producer.publish_topic(&topic()).await.unwrap();
    let health = cluster.producer.health();
    assert!(health.is_sending() && !health.is_closed);
    sleep(Duration::from_secs(10)).await;
    // A frozen broker keeps the close waiting.
    cluster.brokers[0].faults().freeze();
    let handle = cluster.producer.enqueue(message("x")).await.unwrap();
    let closing = tokio::spawn({
        let producer = cluster.producer.clone();
        async move { producer.close(Duration::from_secs(2)).await }
    });
    sleep(Duration::from_millis(500)).await;
    let health = cluster.producer.health();
    assert!(!health.is_sending() && health.is_closed);
    let connection = &health.brokers[0].connections[0];
    assert_eq!((connection.phase, connection.since), (ConnectionPhase::Closing, Duration::from_millis(500)));
    closing.await.unwrap();
    handle.await.unwrap_err();
    assert!(!cluster.producer.health().is_sending());
}

#[test]
fn the_end_of_a_runtime_is_told_and_readiness_heals_it() {
    let registry = EmbeddedRegistry::new();
    let runtime = || Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // The broker lives on a runtime of its own.
    let of_broker = runtime();
    let _broker = of_broker.block_on(async { broker(&registry, 0) });
    let producer = producer(&registry, |_| ());
    let first = runtime();
    first.block_on(producer.publish_topic(&topic())).unwrap();
    let mut events = producer.events();
    assert!(producer.ready([&topic()]).is_ok() && producer.health().is_sending());
    drop(first);
    assert!(!producer.health().is_sending(), "{}", producer.health());
    let second = runtime();
    second.block_on(async {
        assert!(is_closed(&mut events).await);
        producer.ready([&topic()]).unwrap_err();
        until(async || producer.ready([&topic()]).is_ok()).await;
        producer.send(message("x")).await.unwrap();
        producer.close(SOON).await;
    });
}

#[test]
fn readiness_follows_a_topic_whose_runtime_has_ended() {
    let registry = EmbeddedRegistry::new();
    let runtime = || Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (of_broker, of_connection, of_topic) = (runtime(), runtime(), runtime());
    let start = |id| {
        let _entered = of_broker.enter();
        broker_with(&registry, id, &[("t", 1), ("u", 1)])
    };
    let _first = start(0);
    let producer = producer(&registry, |_| ());
    // The connection lives on another runtime than the task that follows the topic.
    of_connection.block_on(producer.publish_topic(&topic_named("u"))).unwrap();
    of_topic.block_on(producer.publish_topic(&topic())).unwrap();
    drop(of_topic);
    let _second = start(1);
    of_connection.block_on(async {
        until(async || producer.ready([&topic()]).is_ok() && producer.partitions(&topic()).len() == 2).await;
        producer.close(SOON).await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_event_of_a_connection_follows_its_end() {
    for _ in 0..30 {
        let cluster = Cluster::new(4, |_| ()).await;
        let mut events = cluster.producer.events();
        let closing = tokio::spawn({
            let producer = cluster.producer.clone();
            async move { producer.close(SOON).await }
        });
        for broker in &cluster.brokers {
            broker.faults().close_connections();
        }
        closing.await.unwrap();
        let mut ended = BTreeSet::new();
        while let Some(event) = timeout(SOON, events.next()).await.expect("the events end") {
            let broker = match &event {
                ProducerEvent::Closed { broker, .. } => {
                    ended.insert(broker.clone());
                    continue;
                }
                ProducerEvent::Connected { broker, .. }
                | ProducerEvent::Unreachable { broker, .. }
                | ProducerEvent::ConnectionLost { broker, .. }
                | ProducerEvent::Stalled { broker, .. }
                | ProducerEvent::Recovered { broker, .. } => broker,
                _ => continue,
            };
            assert!(!ended.contains(broker), "{event} after the end");
        }
        assert!(events.next().await.is_none() && ended.len() == 4, "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_report_their_end_before_the_producer() {
    for _ in 0..100 {
        let cluster = Cluster::new(2, |_| ()).await;
        let mut events = cluster.producer.events();
        cluster.producer.close(SOON).await;
        let mut ended = BTreeSet::new();
        while let Some(event) = timeout(SOON, events.next()).await.expect("the events end") {
            if let ProducerEvent::Closed { broker, .. } = event {
                ended.insert(broker);
            }
        }
        assert_eq!(ended.len(), 2, "{ended:?}");
    }
}
