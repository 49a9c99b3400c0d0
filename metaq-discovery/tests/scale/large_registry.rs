//! Large registries, written as brokers write them.

use std::time::Duration;

use futures_util::{StreamExt as _, future::try_join_all, stream};
use metaq_discovery::{Discovery, Topic, TopicWatch, ZooKeeperConfig, ZooKeeperDiscovery};
use metaq_testkit::{
    conformance::on_own_runtime,
    peers::{Peers, ZooKeeper, ZooKeeperBuilder},
    proxy::{Direction, Proxy},
};
use tokio::time::{Instant, timeout};
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions};

/// The limit for every wait, also on a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

/// A server with a number of topics on a number of brokers each, and a proxy that can inject faults.
pub(crate) struct LargeRegistry {
    pub(crate) zookeeper: ZooKeeper,
    pub(crate) proxy: Proxy,
    pub(crate) client: Client,
    pub(crate) topics: Vec<Topic>,
    pub(crate) brokers: i32,
}

fn persistent() -> CreateOptions<'static> {
    CreateMode::Persistent.with_acls(Acls::anyone_all())
}

fn path(topic: &Topic) -> String {
    format!("/meta/brokers/topics-pub/{topic}")
}

fn master(broker: i32) -> String {
    format!("/meta/brokers/ids/{broker}/master")
}

impl LargeRegistry {
    pub(crate) async fn start(peers: &Peers, server: ZooKeeperBuilder, topics: usize, brokers: i32) -> Self {
        let zookeeper = server.start(peers).await.unwrap();
        let client = Self::connect(&zookeeper).await;
        for root in ["/meta/brokers/topics-pub", "/meta/brokers/ids"] {
            client.mkdir(root, &persistent()).await.unwrap();
        }
        let topics: Vec<_> = (0..topics).map(|n| Topic::new(&format!("topic-{n:05}")).unwrap()).collect();
        for broker in 0..brokers {
            client.mkdir(&format!("/meta/brokers/ids/{broker}"), &persistent()).await.unwrap();
            client.create(&master(broker), &address(1000), &persistent()).await.unwrap();
        }
        let created = stream::iter(&topics).map(async |topic| {
            client.create(&path(topic), b"", &persistent()).await.unwrap();
            let children = (0..brokers).map(async |broker| {
                client.create(&child(topic, broker), &partitions(broker, 2), &persistent()).await
            });
            try_join_all(children).await.unwrap();
        });
        created.buffer_unordered(64).collect::<()>().await;
        let proxy = on_own_runtime(Proxy::start(zookeeper.connect_string())).await.unwrap();
        Self { zookeeper, proxy, client, topics, brokers }
    }

    /// A client that writes to the server, old or new.
    async fn connect(zookeeper: &ZooKeeper) -> Client {
        let connector = Client::connector().with_server_version(3, 4, 3);
        let connector = connector.with_session_timeout(Duration::from_secs(30));
        timeout(TIMEOUT, connector.connect(&zookeeper.connect_string())).await.unwrap().unwrap()
    }

    /// Uses a new connection for writing from now on.
    pub(crate) async fn reconnect(&mut self) {
        self.client = Self::connect(&self.zookeeper).await;
    }

    pub(crate) fn discovery(&self, reread_interval: Duration) -> ZooKeeperDiscovery {
        let mut config = ZooKeeperConfig::default();
        // A server with a million watches on a busy machine may pause for long.
        (config.silence_timeout, config.call_timeout) = (TIMEOUT / 4, TIMEOUT / 4);
        config.session_timeout = TIMEOUT / 2;
        config.connect_timeout = TIMEOUT * 8;
        config.reread_interval = reread_interval;
        ZooKeeperDiscovery::with_config(&self.proxy.addr().to_string(), config).unwrap()
    }

    pub(crate) async fn open(&self, discovery: &ZooKeeperDiscovery) -> Vec<TopicWatch> {
        let watches = try_join_all(self.topics.iter().map(|topic| discovery.watch(topic))).await.unwrap();
        let brokers = self.brokers as usize;
        assert!(watches.iter().all(|watch| watch.current().brokers().len() == brokers));
        watches
    }

    /// The number of nodes that a discovery reads, each counted once.
    pub(crate) fn nodes(&self) -> u64 {
        (self.topics.len() * (1 + self.brokers as usize)) as u64 + self.brokers as u64
    }

    /// The bytes transferred in both directions.
    pub(crate) fn bytes(&self) -> u64 {
        self.proxy.forwarded(Direction::ToServer) + self.proxy.forwarded(Direction::ToClient)
    }

    pub(crate) async fn offer(&self, topic: usize, broker: i32, count: u32) {
        let path = child(&self.topics[topic], broker);
        self.client.set_data(&path, &partitions(broker, count), None).await.unwrap();
    }

    /// Removes the addresses of brokers at once.
    pub(crate) async fn remove_addresses(&self, brokers: std::ops::Range<i32>) {
        try_join_all(brokers.map(async |broker| self.client.delete(&master(broker), None).await))
            .await
            .unwrap();
    }

    /// Removes all nodes of a broker, in the order in which a real one does.
    pub(crate) async fn remove_broker(&self, broker: i32) {
        self.client.delete(&master(broker), None).await.unwrap();
        let children = stream::iter(&self.topics);
        let removed =
            children.map(async |topic| self.client.delete(&child(topic, broker), None).await.unwrap());
        removed.buffer_unordered(64).collect::<()>().await;
    }
}

fn child(topic: &Topic, broker: i32) -> String {
    format!("{}/{broker}-m", path(topic))
}

fn partitions(broker: i32, count: u32) -> Vec<u8> {
    format!(r#"{{"broker":"{broker}-m","numParts":{count}}}"#).into_bytes()
}

fn address(port: u16) -> Vec<u8> {
    format!("meta://127.0.0.1:{port}").into_bytes()
}

/// Waits until all views are as wanted; returns the time that it took.
pub(crate) async fn all_become(
    watches: &mut [TopicWatch],
    wanted: impl Fn(&metaq_discovery::TopicView) -> bool,
) -> Duration {
    let started = Instant::now();
    let reached = async {
        for watch in watches {
            while !wanted(&watch.current()) {
                watch.changed().await.unwrap();
            }
        }
    };
    timeout(TIMEOUT, reached).await.expect("all views are right in the end");
    started.elapsed()
}
