//! A real registry that is away, or forgets the producer: messages go on to the brokers of the last view, new
//! topics fail, and what has changed is followed within two seconds after its return. What the views are
//! meanwhile is tested in metaq-discovery.

use std::time::Duration;

use metaq_producer::{
    Message, Outcome, Producer, SendErrorKind, Topic,
    discovery::{DiscoveryEvent, DiscoveryEvents, ZooKeeperConfig, ZooKeeperDiscovery},
    error::PublishErrorKind,
};
use metaq_testkit::{
    peers::{JavaBroker, Peers, ZooKeeper},
    proxy::{OnConnect, Proxy},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    common::{alone, topic_named},
    peers::{
        Count, Times,
        account::account,
        figure, in_form,
        load::{Load, Pace, Sent, failures},
        producer, producer_with,
        registry::Registry,
    },
};

/// The time after the registry is back within which changes are followed. In the short form other work has
/// the machine, too.
fn followed_within() -> Duration {
    in_form(Duration::from_secs(5), Duration::from_secs(2))
}

const PUBLISH: Duration = Duration::from_secs(2);

const PACE: Pace = Pace::PerSecond(1000);

/// Waits until a topic has this number of partitions. Returns the time since `since`.
async fn partitions(producer: &Producer, topic: &Topic, count: usize, since: Instant) -> Duration {
    let reached = async {
        while producer.partitions(topic).len() != count {
            sleep(Duration::from_millis(1)).await;
        }
        since.elapsed()
    };
    timeout(Duration::from_secs(30), reached).await.expect("the partitions become as many")
}

async fn hears(events: &mut DiscoveryEvents, wanted: &DiscoveryEvent) {
    let heard = async { while events.next().await.expect("the events go on") != *wanted {} };
    timeout(Duration::from_secs(30), heard).await.expect("the event is told");
}

/// Waits until the registry is known to be away. What was just read may be published before.
async fn is_lost(events: &mut DiscoveryEvents) {
    hears(events, &DiscoveryEvent::Lost).await;
}

/// Sees that a topic can't be published while the registry is away, and that the error comes in time and says
/// why. Nothing can be sent to it either.
async fn fails_clearly(producer: &Producer, topic: &Topic) {
    let asked = Instant::now();
    let error = producer.publish_topic(topic).await.unwrap_err();
    let took = asked.elapsed();
    assert!(took <= PUBLISH + crate::peers::grace(), "publishing failed after {took:?}");
    assert_eq!(error.kind(), PublishErrorKind::Discovery);
    let said = format!("topic {topic} can't be published: its brokers could not be looked up");
    assert!(error.to_string().starts_with(&said), "{error}");
    let error = producer.send(Message::new(topic.clone(), "x")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (SendErrorKind::NotPublished, Outcome::NotSent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sending_continues_without_zookeeper_and_follows_its_return() {
    let test = "sending_continues_without_zookeeper_and_follows_its_return";
    let Some(peers) = Peers::get(test) else { return };
    let _alone = alone().await;
    let (times, outage, for_good) = in_form(
        (2, Duration::from_secs(2), Duration::from_secs(2)),
        (5, Duration::from_secs(10), Duration::from_secs(60)),
    );
    let mut zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let broker = |id| JavaBroker::builder(id).topic("t", 4).topic("new", 1).start(&peers, &zookeeper);
    let (first, second) = tokio::join!(broker(0), broker(1));
    let (first, second) = (first.unwrap(), second.unwrap());
    let (topic, new) = (topic_named("t"), topic_named("new"));

    // It is away when the program starts.
    zookeeper.kill().await.unwrap();
    let producer = producer(&zookeeper, |config| config.publish_timeout = PUBLISH);
    fails_clearly(&producer, &topic).await;
    zookeeper.restart().await.unwrap();
    let back = Instant::now();
    producer.publish_topic(&topic).await.unwrap();
    let published = back.elapsed();
    partitions(&producer, &topic, 8, back).await;
    figure(format_args!(
        "ZooKeeper down at start: publishing fails in {PUBLISH:?} as asked, and is done {} ms after its return",
        published.as_millis()
    ));
    assert!(published <= followed_within(), "{published:?}");
    let connections = (first.client_ports(), second.client_ports());
    let load = Load::start(&producer, &topic, PACE);

    let mut followed = Times::default();
    for _ in 0..times {
        let mut events = producer.discovery_events();
        zookeeper.kill().await.unwrap();
        let killed = Instant::now();
        is_lost(&mut events).await;
        fails_clearly(&producer, &new).await;
        load.first(killed + outage, |_| true).await;
        zookeeper.restart().await.unwrap();
        let back = Instant::now();
        let registry = Registry::open(&zookeeper).await;
        registry.set_partitions(&topic, 1, 2).await;
        followed.push(partitions(&producer, &topic, 4 + 2, back).await);
        producer.publish_topic(&new).await.unwrap();
        producer.unpublish_topic(&new);
        registry.set_partitions(&topic, 1, 4).await;
        partitions(&producer, &topic, 8, Instant::now()).await;
    }
    assert_eq!(load.failures(), [0; 3]);
    figure(format_args!(
        "ZooKeeper down for {outage:?} ×{times}: no message failed; a change followed {followed} after its return"
    ));

    let mut events = producer.discovery_events();
    zookeeper.kill().await.unwrap();
    let killed = Instant::now();
    is_lost(&mut events).await;
    fails_clearly(&producer, &new).await;
    load.first(killed + for_good, |_| true).await;
    for broker in [&first, &second] {
        load.reaches(&broker.addr(), killed + for_good).await;
    }
    assert_eq!((first.client_ports(), second.client_ports()), connections, "nobody touched a connection");
    let mut all = load.end().await;
    let sent_since = all.iter().filter(|sent| sent.started >= killed).count();
    assert_eq!(producer.stats().await.messages.acknowledged, all.len() as u64);
    let closing = Instant::now();
    let report = producer.close(Duration::from_secs(5)).await;
    let closed = closing.elapsed();
    assert_eq!((report.unknown, report.unsent.len()), (0, 0));
    assert!(closed < Duration::from_secs(1), "it took {closed:?} to close without a registry");
    // Back for those who read.
    zookeeper.restart().await.unwrap();
    let expired = forgotten(&zookeeper, &topic, times, &mut all).await;
    let account = account(&peers, &zookeeper, "t", &all).await;
    figure(format_args!(
        "ZooKeeper down for good: {} messages in {for_good:?}, none failed; closed in {} ms; 0 lost of {} in all",
        Count(sent_since),
        closed.as_millis(),
        Count(account.acknowledged)
    ));
    assert!(
        followed.max() <= followed_within() && expired.max() <= followed_within(),
        "{followed}, {expired}"
    );
    assert_eq!((account.unknown, account.rejected, account.not_sent), (0, 0, 0));
}

/// The way to the registry is cut until the session must have expired, over and over. Returns how soon what
/// had changed meanwhile was followed.
async fn forgotten(zookeeper: &ZooKeeper, topic: &Topic, times: usize, into: &mut Vec<Sent>) -> Times {
    let proxy = Proxy::start(zookeeper.connect_string()).await.unwrap();
    let mut config = ZooKeeperConfig::default();
    config.session_timeout = Duration::from_secs(2);
    let discovery = ZooKeeperDiscovery::with_config(&proxy.addr().to_string(), config).unwrap();
    let producer = producer_with(discovery, |_| {});
    let registry = Registry::open(zookeeper).await;
    producer.publish_topic(topic).await.unwrap();
    partitions(&producer, topic, 8, Instant::now()).await;
    let load = Load::of(&producer, topic, PACE, 1_000_000_000, u64::MAX);
    let mut followed = Times::default();
    for _ in 0..times {
        let mut events = producer.discovery_events();
        proxy.on_connect(OnConnect::Refuse).await.unwrap();
        proxy.reset_all();
        registry.set_partitions(topic, 1, 2).await;
        hears(&mut events, &DiscoveryEvent::Expired).await;
        assert_eq!(producer.partitions(topic).len(), 8, "the last view holds");
        proxy.on_connect(OnConnect::Forward).await.unwrap();
        followed.push(partitions(&producer, topic, 4 + 2, Instant::now()).await);
        registry.set_partitions(topic, 1, 4).await;
        partitions(&producer, topic, 8, Instant::now()).await;
    }
    let all = load.end().await;
    assert_eq!(failures(&all), [0; 3]);
    figure(format_args!(
        "ZooKeeper session expired ×{times}: {} messages, none failed; what had changed was followed {followed} after its return",
        Count(all.len())
    ));
    into.extend(all);
    followed
}

#[cfg(feature = "etcd")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_go_on_while_etcd_is_away_and_its_return_is_followed() {
    use std::collections::BTreeSet;

    use metaq_producer::discovery::EtcdDiscovery;
    use metaq_testkit::{
        Broker, Registry,
        peers::{Etcd, EtcdProgram},
    };

    let Some(program) = EtcdProgram::get("sends_go_on_while_etcd_is_away_and_its_return_is_followed") else {
        return;
    };
    let _alone = alone().await;
    let (times, outage, for_good) = in_form(
        (2, Duration::from_secs(2), Duration::from_secs(2)),
        (5, Duration::from_secs(10), Duration::from_secs(60)),
    );
    let mut etcd = Etcd::start(&program).await.unwrap();
    let endpoint = etcd.endpoint();
    // Java brokers know no etcd.
    let broker = async |id| {
        let registry = Registry::etcd(&endpoint).session_timeout(Duration::from_secs(60));
        let broker = Broker::builder().id(id).topic("t", 2).topic("new", 1).register_in(registry);
        broker.start().await.unwrap()
    };
    let mut brokers = vec![broker(0).await, broker(1).await];
    let (topic, new) = (topic_named("t"), topic_named("new"));
    etcd.kill().await.unwrap();
    let discovery = EtcdDiscovery::new(&endpoint).unwrap();
    let producer = producer_with(discovery, |config| config.publish_timeout = PUBLISH);
    fails_clearly(&producer, &topic).await;
    etcd.restart().await.unwrap();
    let back = Instant::now();
    producer.publish_topic(&topic).await.unwrap();
    let published = back.elapsed();
    partitions(&producer, &topic, 4, back).await;
    figure(format_args!(
        "etcd down at start: publishing fails in {PUBLISH:?} as asked, and is done {} ms after its return",
        published.as_millis()
    ));
    assert!(published <= followed_within(), "{published:?}");
    let load = Load::start(&producer, &topic, PACE);

    let mut events = producer.discovery_events();
    let mut followed = Times::default();
    for round in 0..times {
        etcd.kill().await.unwrap();
        let killed = Instant::now();
        is_lost(&mut events).await;
        fails_clearly(&producer, &new).await;
        load.first(killed + outage, |_| true).await;
        etcd.restart().await.unwrap();
        let back = Instant::now();
        let comes = broker(2 + round).await;
        followed.push(load.reaches(comes.addr(), back).await);
        brokers.push(comes);
        producer.publish_topic(&new).await.unwrap();
        producer.unpublish_topic(&new);
    }
    assert_eq!(load.failures(), [0; 3]);
    figure(format_args!(
        "etcd down for {outage:?} ×{times}: no message failed; a new broker used {followed} after its return"
    ));

    etcd.kill().await.unwrap();
    let killed = Instant::now();
    is_lost(&mut events).await;
    fails_clearly(&producer, &new).await;
    load.first(killed + for_good, |_| true).await;
    for broker in &brokers {
        load.reaches(broker.addr(), killed + for_good).await;
        assert_eq!(broker.accepted_connections(), 1, "nobody touched its connection");
    }
    let all = load.end().await;
    assert_eq!(producer.stats().await.messages.acknowledged, all.len() as u64);
    let closing = Instant::now();
    let report = producer.close(Duration::from_secs(5)).await;
    let closed = closing.elapsed();
    assert_eq!((report.unknown, report.unsent.len()), (0, 0));
    assert!(closed < Duration::from_secs(1), "it took {closed:?} to close without a registry");
    let stored = brokers.iter().flat_map(|broker| broker.messages("t")).map(|stored| stored.payload);
    let stored: Vec<_> = stored.collect();
    let different: BTreeSet<_> = stored.iter().collect();
    assert_eq!((stored.len(), different.len()), (all.len(), all.len()), "each is stored once");
    figure(format_args!(
        "etcd down for good: {} messages in {for_good:?}, none failed; closed in {} ms; 0 lost of {} in all",
        Count(all.iter().filter(|sent| sent.started >= killed).count()),
        closed.as_millis(),
        Count(all.len())
    ));
    assert!(followed.max() <= followed_within(), "{followed}");
}
