//! A registry as brokers write it, and the views that are read from it.

use std::time::Duration;

use metaq_discovery::{Topic, TopicView, TopicWatch, ZooKeeperConfig, ZooKeeperDiscovery};
use metaq_testkit::peers::ZooKeeper;
use tokio::time::{Instant, timeout};
use zookeeper_client::{Acls, Client, CreateMode};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// The registry as brokers write it.
pub(crate) struct Registry {
    pub(crate) client: Client,
    pub(crate) topic: Topic,
}

impl Registry {
    pub(crate) async fn open(zookeeper: &ZooKeeper) -> Self {
        Self::open_for(zookeeper, topic()).await
    }

    pub(crate) async fn open_for(zookeeper: &ZooKeeper, topic: Topic) -> Self {
        Self::open_at(&zookeeper.connect_string(), topic).await
    }

    /// The registry of a server that supports only the old requests for writing.
    pub(crate) async fn open_old(zookeeper: &ZooKeeper) -> Self {
        let connector = Client::connector().with_server_version(3, 4, 3);
        let client = timeout(TIMEOUT, connector.connect(&zookeeper.connect_string())).await.unwrap().unwrap();
        Self::of(client, topic()).await
    }

    pub(crate) async fn open_at(servers: &str, topic: Topic) -> Self {
        let client = timeout(TIMEOUT, Client::connect(servers)).await.unwrap().unwrap();
        Self::of(client, topic).await
    }

    async fn of(client: Client, topic: Topic) -> Self {
        let registry = Self { client, topic };
        registry.mkdir(&format!("/meta/brokers/topics-pub/{}", registry.topic)).await;
        registry
    }

    pub(crate) async fn mkdir(&self, path: &str) {
        self.client.mkdir(path, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await.unwrap();
    }

    /// Registers a broker; the address is written first, as by a real one (B-31).
    pub(crate) async fn register(&self, id: i32, port: u16, partitions: u32) {
        self.address(id, &format!("meta://127.0.0.1:{port}")).await;
        self.offer(id, partitions).await;
    }

    pub(crate) async fn address(&self, id: i32, data: &str) {
        self.mkdir(&format!("/meta/brokers/ids/{id}")).await;
        self.write(&format!("/meta/brokers/ids/{id}/master"), data).await;
    }

    pub(crate) async fn offer(&self, id: i32, partitions: u32) {
        let data = format!(r#"{{"broker":"{id}-m","numParts":{partitions}}}"#);
        self.write(&format!("/meta/brokers/topics-pub/{}/{id}-m", self.topic), &data).await;
    }

    /// Removes a broker's nodes in the order in which a real one does.
    pub(crate) async fn unregister(&self, id: i32) {
        self.delete(&format!("/meta/brokers/ids/{id}/master")).await;
        self.delete(&format!("/meta/brokers/topics-pub/{}/{id}-m", self.topic)).await;
    }

    pub(crate) async fn write(&self, path: &str, data: &str) {
        if self.client.set_data(path, data.as_bytes(), None).await.is_err() {
            let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
            self.client.create(path, data.as_bytes(), &options).await.unwrap();
        }
    }

    pub(crate) async fn delete(&self, path: &str) {
        self.client.delete(path, None).await.unwrap();
    }
}

pub(crate) fn topic() -> Topic {
    Topic::new("t").unwrap()
}

pub(crate) fn discovery(zookeeper: &ZooKeeper, session_timeout: Duration) -> ZooKeeperDiscovery {
    let mut config = ZooKeeperConfig::default();
    config.session_timeout = session_timeout;
    ZooKeeperDiscovery::with_config(&zookeeper.connect_string(), config).unwrap()
}

/// A view as `id@port:partitions …`.
pub(crate) fn text(view: &TopicView) -> String {
    let brokers = view.brokers().iter();
    let texts = brokers.map(|b| format!("{}@{}:{}", b.id, b.addr.port(), b.partitions.unwrap()));
    texts.collect::<Vec<_>>().join(" ")
}

/// Waits until the view is as wanted; returns the time that it took.
pub(crate) async fn becomes(watch: &mut TopicWatch, wanted: &str) -> Duration {
    let started = Instant::now();
    let reached = async {
        while text(&watch.current()) != wanted {
            watch.changed().await.unwrap();
        }
    };
    if timeout(TIMEOUT, reached).await.is_err() {
        panic!("the view is {:?}, not {wanted:?}", text(&watch.current()));
    }
    started.elapsed()
}
