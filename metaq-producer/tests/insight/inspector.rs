//! Listing topics, partitions and brokers, and reading what brokers have stored.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use metaq_producer::{
    BrokerAddr, BrokerId, Message, Partition, Producer, ProducerConfig, Status, Topic,
    inspect::{InspectErrorKind, Inspector, ListedPartition, ReadItem},
};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, RegistryFault, Requests};
use metaq_transport::{Connection, Transport, TransportError};

use crate::common::{
    cluster::{Cluster, broker_with, builder},
    message, topic, topic_named,
};

/// A broker with one partition of topic `t`, and an inspector that finds it.
fn one_partition(change: impl FnOnce(metaq_testkit::BrokerBuilder) -> Broker) -> (Broker, Inspector) {
    let broker = change(Broker::builder().topic("t", 1));
    let producer = Producer::builder().discovery(broker.discovery()).transport(broker.transport());
    let inspector = producer.build().unwrap().inspector();
    (broker, inspector)
}

async fn place(inspector: &Inspector) -> ListedPartition {
    inspector.partitions(&topic()).await.unwrap().remove(0)
}

/// Reads to the end of what can be read.
async fn read(inspector: &Inspector, place: &ListedPartition, offset: i64) -> Vec<ReadItem> {
    let mut reader = inspector.reader(place, offset);
    let mut items = Vec::new();
    while let Some(item) = reader.next().await.unwrap() {
        items.push(item);
    }
    items
}

/// The payloads of the messages among them.
fn payloads(items: &[ReadItem]) -> Vec<&[u8]> {
    let mut payloads = Vec::new();
    for item in items {
        if let ReadItem::Message(message) = item {
            payloads.push(&*message.payload);
        }
    }
    payloads
}

async fn store(broker: &Broker, messages: impl IntoIterator<Item = Message>) {
    let mut config = ProducerConfig::default();
    config.max_message_size = 8 << 20;
    let builder = Producer::builder().config(config).discovery(broker.discovery());
    let producer = builder.transport(broker.transport()).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    for message in messages {
        producer.send(message).await.unwrap();
    }
}

#[tokio::test]
async fn topics_partitions_and_brokers_are_those_of_the_registry() {
    let registry = EmbeddedRegistry::new();
    let brokers =
        [broker_with(&registry, 0, &[("t", 2), ("orders", 1)]), broker_with(&registry, 7, &[("t", 1)])];
    let inspector = builder(&registry, |_| {}).build().unwrap().inspector();
    assert_eq!(inspector.topics().await.unwrap(), [topic_named("orders"), topic()]);
    let partitions = inspector.partitions(&topic()).await.unwrap();
    let places: Vec<_> = partitions.iter().map(|place| (place.partition, &place.broker)).collect();
    let [first, second] = brokers.each_ref().map(Broker::addr);
    let expected =
        [(Partition::new(0, 0), first), (Partition::new(0, 1), first), (Partition::new(7, 0), second)];
    assert_eq!(places, expected);
    let listed = inspector.brokers().await.unwrap();
    let listed: Vec<_> =
        listed.brokers.iter().map(|broker| (broker.id.0, &broker.addr, &*broker.topics)).collect();
    assert_eq!(listed, [(0, first, &[topic_named("orders"), topic()][..]), (7, second, &[topic()])]);
    let error = inspector.topic(&topic_named("missing")).await.unwrap_err();
    assert_eq!(error.kind(), InspectErrorKind::NoSuchTopic);
    assert!(error.to_string().contains("no broker offers topic missing"), "{error}");
}

#[tokio::test]
async fn messages_come_with_offset_id_and_attribute() {
    let (broker, inspector) = one_partition(|builder| builder.start_without_port().unwrap());
    let tagged = message("second").with_attribute("ключ");
    store(&broker, [message("first"), tagged, message("").with_attribute("")]).await;
    let place = place(&inspector).await;
    let stored = broker.messages("t");
    let items = read(&inspector, &place, 0).await;
    assert_eq!(items.len(), 3);
    for (item, stored) in items.iter().zip(&stored) {
        let ReadItem::Message(message) = item else { panic!("{item:?}") };
        assert_eq!(
            (message.offset, message.id, &message.attribute, &message.payload, message.partition),
            (stored.offset, stored.id, &stored.attribute, &stored.payload, stored.partition)
        );
    }
    let offsets = inspector.offsets(&place).await.unwrap();
    assert_eq!((offsets.first, offsets.end), (0, items[2].next_offset()));
    assert_eq!(payloads(&read(&inspector, &place, stored[1].offset).await), [&b"second"[..], b""]);
}

#[tokio::test]
async fn reader_at_the_end_returns_what_is_stored_later() {
    let (broker, inspector) = one_partition(|builder| builder.start_without_port().unwrap());
    let place = place(&inspector).await;
    let mut reader = inspector.reader(&place, 0);
    assert_eq!(inspector.offsets(&place).await.unwrap(), Default::default(), "nothing was ever stored");
    assert_eq!(reader.next().await.unwrap(), None);
    for payload in ["one", "two"] {
        store(&broker, [message(payload)]).await;
        let Some(ReadItem::Message(read)) = reader.next().await.unwrap() else {
            panic!("a message is there")
        };
        assert_eq!(read.payload, payload);
        assert_eq!(reader.next().await.unwrap(), None);
        assert_eq!(reader.offset(), inspector.offsets(&place).await.unwrap().end);
    }
}

#[tokio::test]
async fn deleted_messages_are_reported_as_skipped() {
    let (broker, inspector) =
        one_partition(|builder| builder.max_segment_size(100).start_without_port().unwrap());
    store(&broker, (0..20).map(|n| message(format!("message {n:02}")))).await;
    assert!(broker.drop_oldest_segment("t", 0).unwrap());
    let place = place(&inspector).await;
    let first = inspector.offsets(&place).await.unwrap().first;
    assert!(first > 0);
    let items = read(&inspector, &place, 0).await;
    assert!(matches!(items[0], ReadItem::Skipped { offset: 0, next_offset, .. } if next_offset == first));
    assert_eq!(payloads(&items).len(), broker.messages("t").len());
    assert_eq!(payloads(&items).last(), Some(&&b"message 19"[..]));
}

#[tokio::test]
async fn message_longer_than_a_transfer_is_passed_over() {
    let (broker, inspector) =
        one_partition(|builder| builder.max_transfer_size(200).start_without_port().unwrap());
    store(&broker, [message("before"), message("x".repeat(500)), message("after")]).await;
    let items = read(&inspector, &place(&inspector).await, 0).await;
    let stored = broker.messages("t");
    assert!(
        matches!(items[1], ReadItem::TooLarge { offset, next_offset, .. }
            if (offset, next_offset) == (stored[1].offset, stored[2].offset)),
        "{items:?}"
    );
    assert_eq!(payloads(&items), [&b"before"[..], b"after"]);
}

#[tokio::test]
async fn message_longer_than_a_megabyte_is_read_if_the_broker_allows() {
    let (broker, inspector) =
        one_partition(|builder| builder.max_transfer_size(8 << 20).start_without_port().unwrap());
    store(&broker, [message("x".repeat(3 << 20)), message("after")]).await;
    let items = read(&inspector, &place(&inspector).await, 0).await;
    assert_eq!(payloads(&items).iter().map(|payload| payload.len()).collect::<Vec<_>>(), [3 << 20, 5]);
}

#[tokio::test(start_paused = true)]
async fn long_message_is_asked_for_again_after_a_passing_refusal() {
    let (broker, inspector) =
        one_partition(|builder| builder.max_transfer_size(8 << 20).start_without_port().unwrap());
    store(&broker, [message("x".repeat(3 << 20))]).await;
    let place = place(&inspector).await;
    let refused = broker.faults().plan(Requests::gets().only(2), Fault::refuse(503, "busy"));
    let items = read(&inspector, &place, 0).await;
    assert_eq!(payloads(&items).iter().map(|payload| payload.len()).collect::<Vec<_>>(), [3 << 20]);
    assert_eq!(refused.met(), 1);
    broker.faults().heal();
    broker.faults().plan(Requests::gets().only(2), Fault::refuse(500, "no disk"));
    let error = inspector.reader(&place, 0).next().await.unwrap_err();
    assert_eq!(error.status(), Some(Status(500)));
}

#[tokio::test]
async fn offset_within_a_message_is_an_error_and_not_an_end() {
    let (broker, inspector) = one_partition(|builder| builder.start_without_port().unwrap());
    store(&broker, (0..4).map(|n| message(format!("{n}{}", "\u{7f}".repeat(100))))).await;
    // The payload is read as a header: 0x7f7f7f7f is the length.
    let mut reader = inspector.reader(&place(&inspector).await, 40);
    let error = reader.next().await.unwrap_err();
    assert_eq!(error.kind(), InspectErrorKind::Corrupt, "{error}");
    assert_eq!(reader.offset(), 40);
}

#[tokio::test(start_paused = true)]
async fn passing_refusals_are_repeated_and_others_reported() {
    let (broker, inspector) = one_partition(|builder| builder.start_without_port().unwrap());
    store(&broker, [message("stored")]).await;
    let place = place(&inspector).await;
    for status in [403, 503] {
        let refused = broker.faults().plan(Requests::any().first(3), Fault::refuse(status, "not now"));
        assert_eq!(read(&inspector, &place, 0).await.len(), 1);
        assert_eq!(refused.met(), 3);
    }
    broker.faults().plan(Requests::any(), Fault::refuse(500, "no disk"));
    let error = inspector.reader(&place, 0).next().await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (InspectErrorKind::Refused, Some(Status(500))));
    assert!(error.to_string().contains("reading t 0-0 at offset 0"), "{error}");
    broker.faults().heal();
    broker.close_partition("t", 0);
    let error = inspector.reader(&place, 0).next().await.unwrap_err();
    assert_eq!(error.status(), Some(Status::FORBIDDEN));
    assert!(error.is_transient());
}

#[tokio::test(start_paused = true)]
async fn silent_broker_is_given_up_at_the_timeout() {
    let (broker, inspector) = one_partition(|builder| builder.start_without_port().unwrap());
    store(&broker, [message("stored")]).await;
    let place = place(&inspector).await;
    broker.faults().plan(Requests::any(), Fault::Ignore);
    let inspector = inspector.with_timeout(Duration::from_secs(2));
    let started = tokio::time::Instant::now();
    let error = inspector.reader(&place, 0).next().await.unwrap_err();
    assert_eq!(error.kind(), InspectErrorKind::TimedOut, "{error:?}");
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_secs(1) && elapsed < Duration::from_millis(2100), "{elapsed:?}");
}

/// Connects to nothing, and takes for ever.
#[derive(Debug)]
struct NeverConnects;

#[async_trait::async_trait]
impl Transport for NeverConnects {
    async fn connect(&self, _: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn connecting_is_a_part_of_the_time_of_a_call() {
    let (broker, _) = one_partition(|builder| builder.start_without_port().unwrap());
    let producer =
        Producer::builder().discovery(broker.discovery()).transport(NeverConnects).build().unwrap();
    let inspector = producer.inspector().with_timeout(Duration::from_secs(2));
    let started = tokio::time::Instant::now();
    let asked = tokio::time::timeout(Duration::from_secs(60), inspector.version(broker.addr())).await;
    let error = asked.expect("it ends by its timeout").unwrap_err();
    assert_eq!(
        (error.kind(), started.elapsed()),
        (InspectErrorKind::TimedOut, Duration::from_secs(2)),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_of_several_steps_has_one_timeout() {
    let registry = EmbeddedRegistry::new();
    let _broker = broker_with(&registry, 0, &[("t", 1)]);
    registry.add_fault(RegistryFault::Slow(Duration::from_secs(2)));
    let inspector = builder(&registry, |_| {}).build().unwrap().inspector();
    let inspector = inspector.with_timeout(Duration::from_secs(3));
    assert_eq!(inspector.topics().await.unwrap(), [topic()], "one step has the time");
    let started = tokio::time::Instant::now();
    for error in [
        inspector.topic(&topic()).await.unwrap_err(),
        inspector.partitions(&topic()).await.unwrap_err(),
        inspector.all_topics().await.unwrap_err(),
        inspector.brokers().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), InspectErrorKind::Discovery, "{error}");
        assert!(error.to_string().contains("did not answer within 3s"), "{error}");
    }
    assert_eq!(started.elapsed(), Duration::from_secs(4 * 3));
}

#[tokio::test]
async fn unreachable_broker_is_reported_at_once() {
    let addr = metaq_testkit::unused_addr().unwrap();
    let broker = format!("meta://{addr}").parse().unwrap();
    let inspector = Producer::builder().broker("meta://127.0.0.1:1".parse().unwrap()).build().unwrap();
    let inspector = inspector.inspector().with_timeout(Duration::from_secs(30));
    let started = Instant::now();
    let error = inspector.version(&broker).await.unwrap_err();
    assert_eq!(error.kind(), InspectErrorKind::Unreachable);
    assert!(error.is_transient() && error.to_string().contains(&broker.to_string()), "{error}");
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn version_and_statistics_come_from_the_broker_itself() {
    let cluster = Cluster::new(2, |_| {}).await;
    let inspector = cluster.producer.inspector();
    for broker in &cluster.brokers {
        let version = inspector.version(broker.addr()).await.unwrap();
        assert_eq!(version.version, "0.1");
        let stats = inspector.stats(broker.addr(), None).await.unwrap();
        assert_eq!(stats.get("broker_id"), Some(&*broker.id().to_string()));
        let error = inspector.stats(broker.addr(), Some("a b")).await.unwrap_err();
        assert!(error.to_string().contains("a b"), "{error}");
    }
}

#[tokio::test]
async fn single_broker_names_the_partitions_of_a_wildcard_topic() {
    let broker = Broker::builder().id(4).topic("any*", 1).default_partitions(3).start().await.unwrap();
    let producer = Producer::builder().broker(broker.addr().clone()).build().unwrap();
    let any: Topic = "anything".parse().unwrap();
    producer.publish_topic(&any).await.unwrap();
    for _ in 0..20 {
        producer.send(Message::new(any.clone(), "x")).await.unwrap();
    }
    let inspector = producer.inspector();
    assert!(inspector.topics().await.unwrap().contains(&any));
    let mut read = 0;
    for place in inspector.partitions(&any).await.unwrap() {
        assert_eq!(place.partition.broker, BrokerId(4));
        let mut reader = inspector.reader(&place, 0);
        while reader.next().await.unwrap().is_some() {
            read += 1;
        }
    }
    assert_eq!(read, 20);
}

#[tokio::test]
async fn messages_travel_over_other_connections_than_what_is_read() {
    let broker = Broker::builder().topic("t", 1).start().await.unwrap();
    let producer = Producer::builder().broker(broker.addr().clone()).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    let before = broker.accepted_connections();
    let inspector = producer.inspector();
    inspector.version(broker.addr()).await.unwrap();
    assert_eq!(broker.accepted_connections(), before + 1);
    // Whatever becomes of the inspector's connection, the producer's goes on.
    broker.faults().plan(Requests::any().on_connection(before + 1), Fault::Ignore);
    producer.send(message("sent")).await.unwrap();
}
