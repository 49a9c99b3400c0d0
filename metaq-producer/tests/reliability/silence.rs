//! A real Java broker that falls silent: frozen, behind a line that loses everything, or accepting
//! connections and no more. Every message ends in time, nothing more is sent there, and the other broker
//! takes as much as before.

use std::time::Duration;

use metaq_producer::{BrokerAddr, Producer, Topic};
use metaq_testkit::{
    peers::{JavaBroker, Peers, ZooKeeper},
    proxy::{OnConnect, Plan, Proxy},
};
use tokio::time::Instant;

use crate::{
    common::{alone, topic_named},
    peers::{
        Count,
        account::{account, counted},
        figure, grace, in_form, is_full,
        load::{Load, Pace, Sent, failures, slowest},
        producer,
        registry::Registry,
    },
};

/// The longest time that a message may take.
fn send_timeout() -> Duration {
    in_form(Duration::from_millis(1500), Duration::from_secs(3))
}

/// The number of messages in flight at a time; a broker can have half of the limit.
const WINDOW: usize = 1000;

/// The default time that a broker which owes responses may be silent.
const STALL_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
enum Silence {
    /// Its process stands still. Its connections stay open, and the system takes in what is sent.
    Frozen,
    /// The line loses everything, both ways, without notice.
    HalfOpen,
    /// Its connection is reset; new ones are accepted, and nothing is answered.
    Accepts,
}

/// A broker that stays well, and one that can fall silent, reached through a proxy.
struct Scene {
    zookeeper: ZooKeeper,
    healthy: JavaBroker,
    failing: JavaBroker,
    proxy: Proxy,
    /// Of the proxy.
    addr: BrokerAddr,
    topic: Topic,
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
        let broker =
            |id| JavaBroker::builder(id).topic("t", 4).session_timeout(session).start(peers, &zookeeper);
        let (healthy, failing) = tokio::join!(broker(0), broker(1));
        let (healthy, failing) = (healthy.unwrap(), failing.unwrap());
        let proxy = Proxy::start(format!("127.0.0.1:{}", failing.port())).await.unwrap();
        let addr = BrokerAddr::new("127.0.0.1", proxy.addr().port()).unwrap();
        Registry::open(&zookeeper).await.move_broker(1, &addr).await;
        Self { zookeeper, healthy, failing, proxy, addr, topic: topic_named("t") }
    }

    /// A producer that has published, and of which both brokers have stored something.
    async fn load(&self, max_in_flight: usize, pace: Pace, first: u64) -> (Producer, Load) {
        let producer = producer(&self.zookeeper, |config| {
            config.send_timeout = send_timeout();
            config.max_in_flight = max_in_flight;
        });
        producer.publish_topic(&self.topic).await.unwrap();
        let load = Load::of(&producer, &self.topic, pace, first, u64::MAX);
        load.reaches(&self.addr, Instant::now()).await;
        load.reaches(&self.healthy.addr(), Instant::now()).await;
        (producer, load)
    }

    async fn begin(&self, silence: Silence) {
        match silence {
            Silence::Frozen => self.failing.freeze(),
            Silence::HalfOpen => self.proxy.plan_both(Plan::new().swallow()),
            Silence::Accepts => {
                self.proxy.on_connect(OnConnect::Ignore).await.unwrap();
                self.proxy.reset_all();
            }
        }
    }

    async fn end(&self, silence: Silence) {
        match silence {
            Silence::Frozen => self.failing.thaw(),
            Silence::HalfOpen => {
                self.proxy.reset_all();
                self.proxy.plan_both(Plan::new());
            }
            Silence::Accepts => self.proxy.on_connect(OnConnect::Forward).await.unwrap(),
        }
    }

    /// Ends a load and its producer. Sees that every message has ended in time and is accounted for.
    async fn close(&self, producer: Producer, load: Load, into: &mut Vec<Sent>) {
        let all = load.end().await;
        counted(&producer, &all).await;
        let [_, rejected, not_sent] = failures(&all);
        assert_eq!((rejected, not_sent), (0, 0), "there was always another broker");
        let slowest = slowest(&all);
        assert!(slowest <= send_timeout() + grace(), "a message took {slowest:?}");
        let connections = producer.stats().await.connections;
        let other = connections.iter().find(|(addr, _)| *addr == self.healthy.addr()).unwrap();
        assert_eq!(other.1.established, 1, "nobody touched the other's connection");
        producer.close(Duration::from_secs(5)).await;
        into.extend(all);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_broker_leaves_others_alone_and_accounts_balanced() {
    let test = "silent_broker_leaves_others_alone_and_accounts_balanced";
    let Some(peers) = Peers::get(test) else { return };
    let _alone = alone().await;
    let time = in_form(Duration::from_secs(1), Duration::from_secs(10));
    let scene = Scene::open(&peers).await;
    let healthy = scene.healthy.addr();
    let mut all = Vec::new();
    for (number, silence) in [Silence::Frozen, Silence::HalfOpen, Silence::Accepts].into_iter().enumerate() {
        // As fast as it goes: what the healthy broker takes, beside the other and beside a silent one.
        let first = number as u64 * 1_000_000_000;
        let (producer, load) = scene.load(WINDOW, Pace::UnderWay(WINDOW), first).await;
        let warm = Instant::now();
        load.first(warm + time / 2, |_| true).await;
        let both = Instant::now();
        load.first(both + time, |_| true).await;
        let begun = Instant::now();
        scene.begin(silence).await;
        load.first(begun + time, |_| true).await;
        let (before, during) = (load.rate(&healthy, both, time), load.rate(&healthy, begun, time));
        scene.end(silence).await;
        let used_again = load.reaches(&scene.addr, Instant::now()).await;
        let [unknown, ..] = load.failures();
        scene.close(producer, load, &mut all).await;

        // So slowly that it is its silence by which it is left, not what it may have in flight.
        let pace = Pace::PerSecond(1000);
        let (producer, load) = scene.load(16_384, pace, first + 500_000_000).await;
        let begun = Instant::now();
        scene.begin(silence).await;
        // Until what it was sent is unknown, and longer.
        load.first(begun + in_form(send_timeout() + STALL_AFTER, 4 * send_timeout()), |_| true).await;
        load.first(begun + STALL_AFTER, |sent| sent.is_stored_by(&healthy)).await;
        scene.end(silence).await;
        load.reaches(&scene.addr, Instant::now()).await;
        let left = load.last(begun, |sent| sent.outcome.is_err());
        let slowest = load.look(slowest);
        scene.close(producer, load, &mut all).await;

        figure(format_args!(
            "broker {silence:?} for {time:?}: the healthy one took {during:.0} messages a second, {before:.0} before ({:.0} %), \
             {unknown} unknown; nothing more was sent to it after {} ms; the slowest message took {} ms; used again {} ms \
             after its end",
            100.0 * during / before,
            left.as_millis(),
            slowest.as_millis(),
            used_again.as_millis(),
        ));
        assert!(unknown <= WINDOW, "{unknown}: written when it began, at most what one broker may have");
        assert!(
            left <= STALL_AFTER + in_form(Duration::from_secs(1), Duration::from_millis(200)),
            "{left:?}"
        );
        assert!(!is_full() || during >= 0.95 * before, "the other broker: {during:.0} of {before:.0}");
    }
    let account = account(&peers, &scene.zookeeper, "t", &all).await;
    figure(format_args!(
        "silent brokers: 0 lost of {}, {} unknown, of which {} are stored",
        Count(account.acknowledged),
        account.unknown,
        account.stored_all_the_same
    ));
}
