//! Rules of the Java client that other tests don't show: the default topic, every status, brokers'
//! statistics.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use metaq_producer::{
    Message, Outcome, Producer, ProducerConfig, SendErrorKind, Status,
    discovery::{MockDiscovery, TopicView},
    selector::select_fn,
};
use metaq_testkit::{Broker, Fault, Requests};
use tokio::time::Instant;

use crate::common::{topic, topic_named};

fn message_to(topic_name: &str) -> Message {
    Message::new(topic_named(topic_name), "x")
}

async fn broker(id: i32) -> Broker {
    Broker::builder().id(id).topic("t", 2).topic("other", 1).start().await.unwrap()
}

fn mock(name: &str, brokers: &[&Broker]) -> MockDiscovery {
    let mock = MockDiscovery::new();
    mock.set(brokers.iter().fold(TopicView::new(topic_named(name)), |view, broker| {
        view.with_broker(broker.id(), broker.addr().clone(), 2)
    }));
    mock
}

fn one_attempt() -> ProducerConfig {
    let mut config = ProducerConfig::default();
    config.retry.max_attempts = 1;
    config
}

#[tokio::test]
async fn default_topic_lends_its_brokers_to_unpublished_topics() {
    let broker = broker(0).await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let selector = select_fn({
        let asked = Arc::clone(&asked);
        move |topic, partitions, _| {
            asked.lock().unwrap().push(topic.to_string());
            partitions.first().copied()
        }
    });
    let mut config = ProducerConfig::default();
    config.default_topic = Some(topic());
    let builder = Producer::builder().discovery(mock("t", &[&broker])).selector(selector).config(config);
    let producer = builder.build().unwrap();
    let error = producer.send(message_to("other")).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::NotPublished, "P-9: it has to be published like any other");

    producer.publish_topic(&topic()).await.unwrap();
    let receipt = producer.send(message_to("other")).await.unwrap();
    assert_eq!(broker.messages("other").len(), 1, "P-10: it is stored under its own name");
    assert_eq!((receipt.partition.to_string().as_str(), broker.messages("t").len()), ("0-0", 0));
    assert_eq!(*asked.lock().unwrap(), ["t"], "P-10: the selector chooses for the default topic");

    assert!(producer.unpublish_topic(&topic()));
    assert_eq!(
        producer.send(message_to("other")).await.unwrap_err().kind(),
        SendErrorKind::NotPublished,
        "P-11"
    );
}

#[tokio::test]
async fn any_other_status_rejects_with_the_brokers_words() {
    let broker = broker(0).await;
    let producer =
        Producer::builder().discovery(mock("t", &[&broker])).config(one_attempt()).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    for status in [301, 400, 401, 403, 404, 500, 503, 504, 999, -1] {
        let plan = broker.faults().plan(Requests::puts(), Fault::refuse(status, "because"));
        let error = producer.send(message_to("t")).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (SendErrorKind::Rejected, Outcome::Rejected),
            "M-22, M-23, M-24"
        );
        assert_eq!(error.status(), Some(Status(status)), "K-40");
        assert!(error.to_string().contains("because"), "{error}");
        assert_eq!(plan.met(), 1, "M-4");
        broker.faults().heal();
    }
    broker.faults().plan(Requests::puts(), Fault::refuse(500, ""));
    let error = producer.send(message_to("t")).await.unwrap_err().to_string();
    assert!(error.contains("no reason given"), "{error}");
    assert_eq!(broker.messages("t").len(), 0);
}

#[tokio::test]
async fn an_empty_message_is_one_and_no_time_is_too_little() {
    let broker = broker(0).await;
    let producer = Producer::builder().discovery(mock("t", &[&broker])).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    producer.send(Message::new(topic(), "")).await.unwrap();
    producer.send(Message::new(topic(), "").with_attribute("")).await.unwrap();
    let stored = broker.messages("t");
    assert!(stored.iter().all(|stored| stored.payload.is_empty()), "M-2");
    let mut attributes: Vec<_> = stored.iter().map(|stored| stored.attribute.as_deref()).collect();
    attributes.sort_unstable();
    assert_eq!(attributes, [None, Some("")], "M-6: an empty attribute isn't none");
    broker.faults().plan(Requests::puts(), Fault::Swallow);
    let started = Instant::now();
    let error = producer.send_with_timeout(message_to("t"), Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::TimedOut, "M-13, K-32");
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
}

#[tokio::test]
async fn each_broker_tells_its_statistics_or_why_not() {
    let (one, two) = (broker(0).await, broker(1).await);
    let producer = Producer::builder().discovery(mock("t", &[&one, &two])).build().unwrap();
    assert_eq!(producer.broker_stats(None, Duration::from_secs(3)).await, [], "Q-1: nobody is connected");
    producer.publish_topic(&topic()).await.unwrap();
    two.faults().plan(Requests::stats(), Fault::Ignore);
    let figures = producer.broker_stats(Some("t"), Duration::from_millis(200)).await;
    let mut expected = [one.addr(), two.addr()];
    expected.sort_unstable();
    assert_eq!(figures.iter().map(|(addr, _)| addr).collect::<Vec<_>>(), expected, "Q-4");
    for (addr, figures) in figures {
        match figures {
            Ok(figures) => {
                assert_eq!(addr, *one.addr());
                assert!(figures.iter().any(|figure| figure == ("STATS", None)), "Q-2: {figures:?}");
                assert_eq!(figures.get("resultCode"), Some("2"), "the topic is empty: {figures:?}");
            }
            Err(reason) => assert_eq!(addr, *two.addr(), "Q-3, K-39: {reason}"),
        }
    }
}
