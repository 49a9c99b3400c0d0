//! Many topics on one session.

use std::time::Duration;

use futures_util::future::try_join_all;
use metaq_discovery::{Discovery, Topic};
use metaq_testkit::peers::{Peers, ZooKeeper};
use tokio::time::{Instant, timeout};
use zookeeper_client::{Acls, CreateMode};

use crate::registry::{Registry, TIMEOUT, becomes, discovery, text};

/// The resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_topics_share_one_session() {
    const TOPICS: usize = 2_000;
    let Some(peers) = Peers::get("thousands_of_topics_share_one_session") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    registry.address(0, "meta://127.0.0.1:1000").await;
    let topics: Vec<_> = (0..TOPICS).map(|n| Topic::new(&format!("topic-{n}")).unwrap()).collect();
    try_join_all(topics.iter().map(async |topic| {
        let path = format!("/meta/brokers/topics-pub/{topic}");
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        registry.client.create(&path, b"", &options).await?;
        registry.client.create(&format!("{path}/0-m"), br#"{"numParts":2}"#, &options).await
    }))
    .await
    .unwrap();
    let discovery = discovery(&zookeeper, Duration::from_secs(20));
    let (memory, calls, started) = (resident(), zookeeper.packets_received().await, Instant::now());
    let mut watches = try_join_all(topics.iter().map(|topic| discovery.watch(topic))).await.unwrap();
    let opened = started.elapsed();
    println!(
        "{TOPICS} topics opened in {opened:?} by {} calls, {} KiB for each",
        zookeeper.packets_received().await - calls,
        (resident() - memory) as f64 / TOPICS as f64
    );
    assert!(opened < Duration::from_secs(3), "{opened:?}");
    assert!(watches.iter().all(|watch| text(&watch.current()) == "0@1000:2"));
    assert_eq!(zookeeper.connections().await, 2, "one of the discovery, one of the test");

    let (calls, started) = (zookeeper.packets_received().await, Instant::now());
    registry.write("/meta/brokers/topics-pub/topic-7/0-m", r#"{"numParts":3}"#).await;
    becomes(&mut watches[7], "0@1000:3").await;
    let calls = zookeeper.packets_received().await - calls;
    println!("one topic's change was seen after {:?} by {calls} calls", started.elapsed());
    assert!(calls < 20, "a change is read where it was made, not everywhere: {calls} calls");

    let (calls, started) = (zookeeper.packets_received().await, Instant::now());
    registry.address(0, "meta://127.0.0.1:2000").await;
    for (n, watch) in watches.iter_mut().enumerate() {
        becomes(watch, if n == 7 { "0@2000:3" } else { "0@2000:2" }).await;
    }
    let calls = zookeeper.packets_received().await - calls;
    println!("a broker's move was seen by all after {:?} by {calls} calls", started.elapsed());
    discovery.close().await;
    let ended = async {
        for watch in &mut watches {
            while watch.changed().await.is_ok() {}
        }
    };
    timeout(TIMEOUT, ended).await.expect("watches end with the discovery");
}
