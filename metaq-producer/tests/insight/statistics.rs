//! Statistics that don't grow with what happened before, and whose figures agree.

use std::time::Duration;

use metaq_producer::{
    BrokerId, Message, Outcome, Producer, SendErrorKind, Topic,
    config::Jitter,
    discovery::{MockDiscovery, TopicView},
    selector::RoundRobinSelector,
    stats::{MessageCounts, ProducerStats},
};
use metaq_testkit::{Broker, EmbeddedRegistry, Fault, Requests};

use crate::common::{
    cluster::{Cluster, broker, builder},
    message, topic, until,
};

/// The figures of a topic at its brokers: acknowledged, rejected, unknown.
fn by_broker(stats: &ProducerStats, topic: usize) -> [u64; 3] {
    let topic = &stats.topics[topic];
    let others = &topic.other_brokers;
    let mut sums = [others.acknowledged, others.rejected, others.unknown];
    for broker in &topic.brokers {
        let of_broker = [broker.acknowledged, broker.rejected, broker.unknown];
        sums.iter_mut().zip(of_broker).for_each(|(sum, count)| *sum += count);
    }
    let MessageCounts { acknowledged, rejected, unknown, .. } = topic.messages;
    assert_eq!(sums, [acknowledged, rejected, unknown], "{stats:?}");
    sums
}

#[tokio::test(start_paused = true)]
async fn topics_that_come_and_go_leave_no_more_than_a_hundred_behind() {
    const TOPICS: u64 = 1000;
    let registry = EmbeddedRegistry::new();
    let broker = broker(&registry, 0);
    let producer = builder(&registry, |_| {}).build().unwrap();
    let stays = Topic::new("t").unwrap();
    producer.publish_topic(&stays).await.unwrap();
    producer.send(message("x")).await.unwrap();
    let names: Vec<_> = (0..TOPICS).map(|n| Topic::new(&format!("topic-{n:04}")).unwrap()).collect();
    for (n, name) in names.iter().enumerate() {
        broker.set_topic(name, 1);
        producer.publish_topic(name).await.unwrap();
        producer.send(Message::new(name.clone(), "y")).await.unwrap();
        producer.unpublish_topic(name);
        producer.send(Message::new(name.clone(), "late")).await.unwrap_err();
        if n % 100 == 99 {
            let stats = producer.stats().await;
            let n = n as u64 + 1;
            // And those that are just being let go.
            assert!(stats.topics.len() <= 105, "{}", stats.topics.len());
            assert_eq!((stats.messages.offered, stats.messages.acknowledged), (2 * n + 1, n + 1));
            assert_eq!((stats.unpublished, stats.messages.not_sent), (n, n));
            let listed: u64 = stats.topics.iter().map(|topic| topic.messages.offered).sum();
            assert_eq!(listed + stats.other_topics.offered, stats.messages.offered);
        }
    }
    let stats = producer.stats().await;
    assert!(stats.topics.iter().any(|topic| topic.topic == stays), "what is published stays");
    let last: Vec<_> = stats.topics.iter().filter(|topic| topic.topic != stays).collect();
    let expected: Vec<_> = names[names.len() - last.len()..].iter().collect();
    assert_eq!(last.iter().map(|topic| &topic.topic).collect::<Vec<_>>(), expected, "the last ones");
    assert!(last.len() >= 99);
    // One of long ago begins anew, and the sums go on.
    producer.publish_topic(&names[0]).await.unwrap();
    producer.send(Message::new(names[0].clone(), "z")).await.unwrap();
    let stats = producer.stats().await;
    let anew = stats.topics.iter().find(|topic| topic.topic == names[0]).unwrap();
    assert_eq!((anew.messages.offered, stats.messages.acknowledged), (1, TOPICS + 2));
}

#[tokio::test]
async fn at_most_sixteen_former_addresses_keep_figures() {
    const ADDRESSES: u64 = 40;
    let topic = Topic::new("t").unwrap();
    let mock = MockDiscovery::new();
    let producer = Producer::builder().discovery(mock.clone()).build().unwrap();
    // Those before are still there, so that nothing is lost by the change.
    let mut before = Vec::new();
    for n in 1..=ADDRESSES {
        let broker = Broker::builder().id(0).topic("t", 1).start().await.unwrap();
        mock.set(TopicView::new(topic.clone()).with_broker(BrokerId(0), broker.addr().clone(), 1));
        producer.publish_topic(&topic).await.unwrap();
        let receipt = loop {
            let receipt = producer.send(message("x")).await.unwrap();
            if receipt.broker == *broker.addr() {
                break receipt;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        broker.faults().plan(Requests::puts().first(1), Fault::refuse(500, "no"));
        assert_eq!(producer.send(message("y")).await.unwrap_err().outcome(), Outcome::Rejected);
        let stats = producer.stats().await;
        let [acknowledged, rejected, unknown] = by_broker(&stats, 0);
        assert!(acknowledged >= n);
        assert_eq!((rejected, unknown, stats.messages.acknowledged), (n, 0, acknowledged));
        // The one in use, one that may still be let go, and those before.
        assert!(stats.topics[0].brokers.len() <= 18, "{}", stats.topics[0].brokers.len());
        assert!(stats.topics[0].brokers.iter().any(|known| known.broker == receipt.broker));
        let latencies: u64 = stats.topics[0].brokers.iter().map(|broker| broker.latencies.count()).sum();
        assert_eq!(latencies + stats.topics[0].other_brokers.latencies.count(), acknowledged);
        before.push(broker);
    }
    assert!(producer.stats().await.topics[0].other_brokers.acknowledged > 20);
}

#[tokio::test(start_paused = true)]
async fn a_message_counts_for_the_broker_that_may_have_stored_it() {
    let registry = EmbeddedRegistry::new();
    let brokers = [broker(&registry, 0), broker(&registry, 1)];
    let producer = builder(&registry, |config| {
        config.retry.at_least_once = true;
        config.retry.max_attempts = 2;
        config.retry.jitter = Jitter::seeded(1);
    });
    let producer = producer.selector(RoundRobinSelector::new().starting_at(0)).build().unwrap();
    producer.publish_topic(&topic()).await.unwrap();
    // The first attempt goes to broker 0 and has no answer, the second one is refused by broker 1.
    brokers[0].faults().plan(Requests::puts(), Fault::Swallow);
    brokers[1].faults().plan(Requests::puts(), Fault::refuse(500, "no"));
    let error = producer.send(message("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::Rejected, Outcome::Unknown));
    let stats = producer.stats().await;
    assert_eq!(by_broker(&stats, 0), [0, 0, 1]);
    let of_brokers: Vec<_> =
        stats.topics[0].brokers.iter().map(|b| (b.rejected, b.unknown, b.retried)).collect();
    assert_eq!(of_brokers, [(0, 1, 1), (0, 0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn message_that_ends_between_attempts_counts_for_a_broker() {
    let mut cluster = Cluster::new(1, |config| {
        config.retry.at_least_once = true;
        config.send_timeout = Duration::from_secs(2);
        config.retry.jitter = Jitter::seeded(1);
    })
    .await;
    let producer = cluster.producer.clone();
    let swallowed = cluster.brokers[0].faults().plan(Requests::puts(), Fault::Swallow);
    let sending = tokio::spawn({
        let producer = producer.clone();
        async move { producer.send(message("x")).await }
    });
    until(async || swallowed.met() == 1).await;
    // The second attempt has no taker.
    drop(cluster.brokers.pop());
    let error = sending.await.unwrap().unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    let stats = producer.stats().await;
    assert_eq!(by_broker(&stats, 0), [0, 0, 1]);
    assert_eq!(stats.topics[0].brokers[0].unknown, 1, "{stats:?}");
}
