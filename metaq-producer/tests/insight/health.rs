//! The health of a producer, its readiness, and its events.

use std::time::Duration;

use metaq_producer::{
    BrokerId, Producer, Topic,
    discovery::{DiscoveryEvent, EventPublisher, MockDiscovery, RegistryState, TopicView},
    health::{ConnectionPhase, ProducerEvent, ProducerEvents, ProducerHealth},
};
use metaq_testkit::Broker;
use tokio::time::{sleep, timeout};

use crate::common::{SOON, cluster::Cluster, message, topic, until};

async fn next(events: &mut ProducerEvents) -> String {
    timeout(SOON, events.next()).await.expect("an event comes").expect("there are more").to_string()
}

/// Waits for an event whose text begins so; others may come before.
async fn hears(events: &mut ProducerEvents, wanted: &str) {
    let mut heard = Vec::new();
    while !heard.last().is_some_and(|event: &String| event.starts_with(wanted)) {
        let event =
            timeout(SOON, events.next()).await.unwrap_or_else(|_| panic!("{wanted} isn't in {heard:?}"));
        heard.push(event.expect("there are more").to_string());
    }
}

fn phases(health: &ProducerHealth) -> Vec<ConnectionPhase> {
    health.brokers.iter().flat_map(|broker| &broker.connections).map(|connection| connection.phase).collect()
}

#[tokio::test(start_paused = true)]
async fn a_broker_is_seen_to_stall_to_recover_to_go_and_to_come_back() {
    let cluster = Cluster::new(2, |_| ()).await;
    let (producer, frozen) = (&cluster.producer, &cluster.brokers[1]);
    let addr = frozen.addr();
    let mut events = producer.events();
    let health = producer.health();
    assert_eq!(phases(&health), [ConnectionPhase::Ready; 2], "{health}");
    assert_eq!(health.topics[0].connected, [BrokerId(0), BrokerId(1)]);
    assert_eq!((health.topics[0].partitions, health.topics[0].missing.len()), (4, 0));
    assert!(health.is_sending() && health.topics[0].view_age.is_some());
    assert_eq!(health.brokers.iter().map(|broker| broker.ids.len()).collect::<Vec<_>>(), [1, 1]);

    frozen.faults().freeze();
    for n in 0..8 {
        drop(producer.enqueue(message(format!("{n}"))).await.unwrap());
    }
    hears(&mut events, &format!("{addr} stalled")).await;
    sleep(Duration::from_millis(700)).await;
    let health = producer.health();
    let stalled = health.brokers.iter().find(|broker| broker.addr == *addr).unwrap();
    let connection = &stalled.connections[0];
    assert_eq!((connection.phase, connection.in_flight), (ConnectionPhase::Stalled, 4), "{health}");
    assert!(connection.since >= Duration::from_millis(700) && connection.since < Duration::from_millis(900));
    assert_eq!((health.topics[0].partitions, &health.topics[0].missing), (2, &vec![BrokerId(1)]));
    frozen.faults().thaw();
    hears(&mut events, &format!("{addr} recovered")).await;

    frozen.faults().close_connections();
    hears(&mut events, &format!("{addr} lost: ")).await;
    hears(&mut events, &format!("{addr} connected")).await;
    until(async || producer.partitions(&topic()).len() == 4).await;
    let health = producer.health();
    let back = health.brokers.iter().find(|broker| broker.addr == *addr).unwrap();
    assert_eq!(
        (back.connections[0].phase, back.connections[0].reconnects),
        (ConnectionPhase::Ready, 1),
        "{health}"
    );
    assert!(back.connections[0].last_error.is_some(), "what it was lost by last");

    producer.close(SOON).await;
    let rest = async {
        let mut closed = 0;
        while let Some(event) = events.next().await {
            closed += usize::from(matches!(event, ProducerEvent::Closed { .. }));
        }
        closed
    };
    assert_eq!(timeout(SOON, rest).await.expect("the events end"), 2);
    assert!(producer.health().topics.is_empty());
}

#[tokio::test(start_paused = true)]
async fn readiness_names_what_is_missing() {
    let cluster = Cluster::unpublished(1, |_| ());
    let (producer, other) = (&cluster.producer, Topic::new("other").unwrap());
    assert_eq!(producer.ready([]), Ok(()));
    let missing = producer.ready([&topic(), &other]).unwrap_err();
    assert_eq!(missing.topics().count(), 2);
    assert_eq!(missing.to_string(), "topic t: it is not published; topic other: it is not published");
    producer.publish_topic(&topic()).await.unwrap();
    assert_eq!(producer.ready([&topic()]), Ok(()));
    cluster.brokers[0].faults().refuse_connections(true);
    cluster.brokers[0].faults().close_connections();
    until(async || producer.ready([&topic()]).is_err()).await;
    let addr = cluster.brokers[0].addr();
    let missing = producer.ready([&topic()]).unwrap_err().to_string();
    let wanted =
        format!("topic t: no broker is connected: {addr} (broker 0): the broker closed the connection");
    assert_eq!(missing, wanted);
    assert!(!producer.health().is_sending());
    producer.close(SOON).await;
    let closed = producer.ready([&topic()]).unwrap_err();
    assert!(closed.is_closed() && closed.to_string() == "the producer is closed");
}

#[tokio::test(start_paused = true)]
async fn the_registry_is_a_part_of_it() {
    #[derive(Debug)]
    struct Told(EventPublisher);

    #[async_trait::async_trait]
    impl metaq_producer::discovery::Discovery for Told {
        async fn watch(
            &self,
            _topic: &Topic,
        ) -> Result<metaq_producer::discovery::TopicWatch, metaq_producer::discovery::DiscoveryError>
        {
            std::future::pending().await
        }

        async fn topics(&self) -> Result<Vec<Topic>, metaq_producer::discovery::DiscoveryError> {
            Ok(Vec::new())
        }

        fn events(&self) -> metaq_producer::discovery::DiscoveryEvents {
            self.0.subscribe()
        }

        async fn close(&self) {}
    }

    let registry = EventPublisher::default();
    let producer = Producer::builder().discovery(Told(registry.clone())).build().unwrap();
    let mut events = producer.events();
    assert_eq!(producer.health().registry.state, RegistryState::Unknown);
    registry.send(DiscoveryEvent::Connected);
    registry.send(DiscoveryEvent::Lost);
    assert_eq!(
        (next(&mut events).await, next(&mut events).await),
        ("registry connected".into(), "registry lost".into())
    );
    sleep(Duration::from_secs(3)).await;
    let health = producer.health();
    assert_eq!(
        (health.registry.state, health.registry.since),
        (RegistryState::Lost, Some(Duration::from_secs(3)))
    );
    assert_eq!(health.to_string(), "registry lost for 3.0 s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_reads_a_change_of_the_route_finds_that_route() {
    let broker = Broker::builder().topic("t", 8).start().await.unwrap();
    let view = |count| TopicView::new(topic()).with_broker(broker.id(), broker.addr().clone(), count);
    let mock = MockDiscovery::new();
    mock.set(view(8));
    let producer = Producer::builder().discovery(mock.clone()).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let mut events = producer.events();
    for wanted in (1..=8).cycle().take(400) {
        mock.set(view(wanted));
        let change = async {
            loop {
                // The one of the publishing may come late.
                match events.next().await {
                    Some(ProducerEvent::RouteChanged { partitions, .. }) if partitions == wanted as usize => {
                        return;
                    }
                    event => assert!(event.is_some()),
                }
            }
        };
        timeout(SOON, change).await.expect("the route changes");
        assert_eq!(producer.partitions(&topic()).len(), wanted as usize);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_age_of_a_view_is_known_however_many_publish_at_once() {
    for _ in 0..30 {
        let cluster = Cluster::unpublished(1, |_| ());
        let publishing = (0..8).map(|_| {
            let producer = cluster.producer.clone();
            tokio::spawn(async move { producer.publish_topic(&topic()).await })
        });
        for published in publishing.collect::<Vec<_>>() {
            published.await.unwrap().unwrap();
        }
        until(async || cluster.producer.health().topics[0].view_age.is_some()).await;
        cluster.producer.close(SOON).await;
        assert!(cluster.producer.health().topics.is_empty());
    }
}

/// Readers that never read, snapshots and faults all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn looking_at_it_from_many_threads_delays_and_breaks_nothing() {
    let cluster = Cluster::new(3, |_| ()).await;
    let idle: Vec<_> = (0..4).map(|_| cluster.producer.events()).collect();
    let looking = (0..4).map(|_| {
        let producer = cluster.producer.clone();
        tokio::spawn(async move {
            let mut looked = 0;
            while producer.ready([&topic()]).map_or_else(|error| !error.is_closed(), |()| true) {
                let health = producer.health();
                assert!(health.to_string().lines().count() >= health.topics.len());
                looked += 1;
                tokio::task::yield_now().await;
            }
            looked
        })
    });
    let looking: Vec<_> = looking.collect();
    let mut stored = 0;
    for round in 0..30 {
        cluster.brokers[round % 3].faults().close_connections();
        let messages = (0..50).map(|n| message(format!("{n}")));
        // Some are lost with their connection.
        stored += cluster.producer.send_all(messages).await.iter().filter(|sent| sent.is_ok()).count();
    }
    assert!(stored > 0);
    let counts = cluster.counts().await;
    assert_eq!((counts.offered, counts.acknowledged), (1500, stored as u64));
    cluster.producer.close(SOON).await;
    for looked in looking {
        assert!(looked.await.unwrap() > 0);
    }
    for mut events in idle {
        let drained = async { while events.next().await.is_some() {} };
        timeout(SOON, drained).await.expect("the events end");
    }
}
