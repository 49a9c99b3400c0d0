//! A producer in a `static`, as several tests or programs' parts share one, used from one runtime after
//! another, with a real ZooKeeper server and a real Java broker on a runtime of their own.

use std::sync::OnceLock;

use metaq_producer::{Message, Producer, Topic, discovery::ZooKeeperDiscovery};
use metaq_testkit::peers::{JavaBroker, Peers, ZooKeeper};
use tokio::runtime::{Builder, Runtime};

use crate::common::alone;

static PRODUCER: OnceLock<Producer> = OnceLock::new();

fn several_threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap()
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn static_producer_outlives_runtimes_with_real_registry() {
    let Some(peers) = Peers::get("static_producer_outlives_runtimes_with_real_registry") else {
        return;
    };
    let of_peers = several_threads();
    let _alone = of_peers.block_on(alone());
    let (zookeeper, mut broker) = of_peers.block_on(async {
        let zookeeper = ZooKeeper::start(&peers).await.unwrap();
        let broker = JavaBroker::builder(0).topic("runtimes", 2).start(&peers, &zookeeper).await.unwrap();
        (zookeeper, broker)
    });
    let topic = Topic::new("runtimes").unwrap();
    let producer = PRODUCER.get_or_init(|| {
        let discovery = ZooKeeperDiscovery::new(&zookeeper.connect_string()).unwrap();
        Producer::builder().discovery(discovery).build().unwrap()
    });
    for (n, new) in [several_threads, one_thread, several_threads, one_thread].into_iter().enumerate() {
        new().block_on(async {
            // The third one relies on what was published before.
            if n != 2 {
                producer.publish_topic(&topic).await.unwrap();
            }
            for k in 0..10 {
                let message = Message::new(topic.clone(), format!("{n} {k}"));
                producer.send(message).await.unwrap_or_else(|error| panic!("runtime {n}: {error:?}"));
            }
        });
    }
    // A broker that is started again is found on yet another runtime.
    of_peers.block_on(async {
        broker.shut_down().await.unwrap();
        broker.restart(&zookeeper).await.unwrap();
    });
    one_thread().block_on(async {
        producer.publish_topic(&topic).await.unwrap();
        producer.send(Message::new(topic.clone(), "afterwards")).await.unwrap();
    });
    let report = one_thread().block_on(producer.close(std::time::Duration::from_secs(1)));
    assert_eq!((report.unknown, report.unsent.len()), (0, 0));
}
