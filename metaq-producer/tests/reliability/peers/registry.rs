//! Changing what real brokers have registered.

use std::time::Duration;

use metaq_producer::{BrokerAddr, Topic};
use metaq_testkit::peers::ZooKeeper;
use tokio::time::timeout;
use zookeeper_client::{Acls, Client, CreateMode};

pub(crate) struct Registry {
    client: Client,
}

impl Registry {
    pub(crate) async fn open(zookeeper: &ZooKeeper) -> Self {
        let server = zookeeper.connect_string();
        let connecting = timeout(Duration::from_secs(10), Client::connect(&server));
        Self { client: Box::pin(connecting).await.unwrap().unwrap() }
    }

    /// Changes the data of the node that says where a broker is.
    pub(crate) async fn move_broker(&self, id: i32, addr: &BrokerAddr) {
        let path = format!("/meta/brokers/ids/{id}/master");
        self.client.set_data(&path, addr.to_string().as_bytes(), None).await.unwrap();
    }

    /// Changes the data of the node that says how many partitions a broker has.
    pub(crate) async fn set_partitions(&self, topic: &Topic, id: i32, partitions: u32) {
        let (path, data) = offer(topic, id, partitions);
        self.client.set_data(&path, data.as_bytes(), None).await.unwrap();
    }

    /// Has a broker no longer offer a topic, as when its configuration says so.
    pub(crate) async fn withdraw(&self, topic: &Topic, id: i32) {
        self.client.delete(&offer(topic, id, 0).0, None).await.unwrap();
    }

    /// Has a broker offer a topic.
    pub(crate) async fn offer(&self, topic: &Topic, id: i32, partitions: u32) {
        let (path, data) = offer(topic, id, partitions);
        let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
        self.client.create(&path, data.as_bytes(), &options).await.unwrap();
    }
}

fn offer(topic: &Topic, id: i32, partitions: u32) -> (String, String) {
    let path = format!("/meta/brokers/topics-pub/{topic}/{id}-m");
    (path, format!(r#"{{"broker":"{id}-m","numParts":{partitions}}}"#))
}
