//! A real Java broker whose connection is lost without a word, that lets in and is silent, or stands still
//! for a while: it is used again as soon as it can be.

use std::time::Duration;

use metaq_producer::{BrokerAddr, Producer, Topic, stats::ConnectionStats};
use metaq_testkit::{
    peers::{JavaBroker, Peers, ZooKeeper},
    proxy::{OnConnect, Proxy},
};
use tokio::time::Instant;

use crate::{
    common::{alone, topic_named},
    peers::{
        Count, Times,
        account::{account, counted},
        figure, in_form, is_full,
        load::{Load, Pace, Sent, failures},
        producer,
        registry::Registry,
    },
};

fn rounds() -> u32 {
    in_form(3, 20)
}

/// In the short form other work has the machine, too.
fn within(full: Duration) -> Duration {
    in_form(full + Duration::from_secs(1), full)
}

/// Waits until what was held up has gone, and messages are stored as they are sent.
async fn goes_on(load: &Load) {
    let prompt = |sent: &Sent| sent.outcome.is_ok() && sent.ended - sent.started <= Duration::from_millis(50);
    load.first(Instant::now() + Duration::from_millis(200), prompt).await;
}

/// The time after `since` at which a message is acknowledged, be it one that had waited.
async fn used(load: &Load, since: Instant) -> Duration {
    let stored = |sent: &&Sent| sent.ended >= since && sent.outcome.is_ok();
    let first = || load.look(|all| all.iter().filter(stored).map(|sent| sent.ended - since).min());
    let found = async {
        loop {
            match first() {
                Some(took) => return took,
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found).await.expect("it is used again")
}

/// A broker behind a proxy.
struct Scene {
    zookeeper: ZooKeeper,
    broker: JavaBroker,
    proxy: Proxy,
    /// Of the proxy.
    addr: BrokerAddr,
    topic: Topic,
    sent: Vec<Sent>,
}

impl Scene {
    async fn open(peers: &Peers) -> Self {
        // The registry doesn't notice anything.
        let session = Duration::from_secs(600);
        let zookeeper = ZooKeeper::builder()
            .session_timeouts(Duration::from_secs(1), session)
            .start(peers)
            .await
            .unwrap();
        let broker = JavaBroker::builder(0).topic("t", 4).session_timeout(session);
        let broker = broker.start(peers, &zookeeper).await.unwrap();
        let proxy = Proxy::start(format!("127.0.0.1:{}", broker.port())).await.unwrap();
        let addr = BrokerAddr::new("127.0.0.1", proxy.addr().port()).unwrap();
        Registry::open(&zookeeper).await.move_broker(0, &addr).await;
        Self { zookeeper, broker, proxy, addr, topic: topic_named("t"), sent: Vec::new() }
    }

    /// A producer whose messages have `time`, and of which the broker has stored something.
    async fn load(&self, time: Duration, first: u64) -> (Producer, Load) {
        let producer = producer(&self.zookeeper, |config| config.send_timeout = time);
        producer.publish_topic(&self.topic).await.unwrap();
        let load = Load::of(&producer, &self.topic, Pace::PerSecond(1000), first, u64::MAX);
        load.reaches(&self.addr, Instant::now()).await;
        (producer, load)
    }

    async fn connection(&self, producer: &Producer) -> ConnectionStats {
        let connections = producer.stats().await.connections;
        connections.into_iter().find(|(addr, _)| *addr == self.addr).unwrap().1
    }

    /// Ends a load and its producer. Returns how many messages were unknown and not sent.
    async fn close(&mut self, producer: Producer, load: Load) -> (usize, usize) {
        let all = load.end().await;
        counted(&producer, &all).await;
        let [unknown, rejected, not_sent] = failures(&all);
        assert_eq!(rejected, 0);
        producer.close(Duration::from_secs(5)).await;
        self.sent.extend(all);
        (unknown, not_sent)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_is_used_again_within_a_second_of_when_it_can_be() {
    let test = "a_broker_is_used_again_within_a_second_of_when_it_can_be";
    let Some(peers) = Peers::get(test) else { return };
    let _alone = alone().await;
    let mut scene = Scene::open(&peers).await;

    // Half open: new connections work at once.
    let (producer, load) = scene.load(Duration::from_secs(3), 0).await;
    let mut half_open = Times::default();
    for _ in 0..rounds() {
        let begun = Instant::now();
        scene.proxy.strand_all();
        half_open.push(load.reaches(&scene.addr, begun).await);
        goes_on(&load).await;
    }
    let stats = scene.connection(&producer).await;
    assert_eq!(stats.established, u64::from(rounds()) + 1, "each was replaced once");
    let (unknown, not_sent) = scene.close(producer, load).await;
    scene.proxy.reset_all();
    figure(format_args!(
        "a connection that is half open, {} times at 1,000 messages a second: used again after {half_open}; {unknown} unknown",
        rounds()
    ));
    assert_eq!(not_sent, 0);
    let (median, most) = (Duration::from_millis(1500), Duration::from_secs(2));
    assert!(half_open.max() <= within(most), "{half_open}");
    assert!(!is_full() || half_open.median() <= median, "{half_open}");

    // Lets in and is silent; what it let in is never answered.
    let (producer, load) = scene.load(Duration::from_secs(10), 1_000_000).await;
    let mut silent = Times::default();
    for round in 0..rounds() {
        scene.proxy.on_connect(OnConnect::Ignore).await.unwrap();
        scene.proxy.reset_all();
        let time = Duration::from_millis(500 + u64::from(round) * 733 % 3500);
        tokio::time::sleep(time).await;
        scene.proxy.on_connect(OnConnect::Forward).await.unwrap();
        let ended = Instant::now();
        silent.push(used(&load, ended).await);
        goes_on(&load).await;
    }
    let (unknown, not_sent) = scene.close(producer, load).await;
    figure(format_args!(
        "a broker that lets in and is silent, {} times: used after {silent}; {unknown} unknown",
        rounds()
    ));
    assert_eq!(not_sent, 0);
    assert!(silent.max() <= within(Duration::from_secs(1)), "{silent}");

    // Frozen: it proves neither its old connection nor a new one, and keeps the old one.
    let (producer, load) = scene.load(Duration::from_secs(20), 2_000_000).await;
    let mut frozen = Times::default();
    let before = scene.connection(&producer).await.established;
    for _ in 0..rounds() {
        let begun = Instant::now();
        scene.broker.freeze();
        tokio::time::sleep_until(begun + Duration::from_secs(3)).await;
        scene.broker.thaw();
        let ended = Instant::now();
        frozen.push(used(&load, ended).await);
        goes_on(&load).await;
    }
    let after = scene.connection(&producer).await.established;
    let (unknown, not_sent) = scene.close(producer, load).await;
    figure(format_args!(
        "a broker that is frozen for 3 s, {} times: used after {frozen}; {} connections more, {unknown} unknown",
        rounds(),
        after - before
    ));
    assert_eq!((after - before, unknown, not_sent), (0, 0, 0), "the old connection was kept");

    let account = account(&peers, &scene.zookeeper, "t", &scene.sent).await;
    figure(format_args!(
        "brokers that were used again: 0 lost of {}, {} unknown, of which {} are stored",
        Count(account.acknowledged),
        account.unknown,
        account.stored_all_the_same
    ));
}
