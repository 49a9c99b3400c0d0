//! Contents of nodes: those of real brokers, and bad data.

use std::time::Duration;

use metaq_discovery::{Discovery, DiscoveryEvent, Topic, ZooKeeperDiscovery};
use metaq_testkit::{
    conformance::{Observer, text},
    peers::{JavaBroker, Peers, ZooKeeper},
};
use tokio::time::{Instant, timeout};

use crate::registry::{Registry, TIMEOUT, becomes, discovery, topic};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_brokers_are_followed_from_start_to_end() {
    let Some(peers) = Peers::get("real_brokers_are_followed_from_start_to_end") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let zero = JavaBroker::builder(0).topic("t", 2).topic("other", 1).session_timeout(Duration::from_secs(2));
    let mut zero = zero.start(&peers, &zookeeper).await.unwrap();
    let discovery = ZooKeeperDiscovery::new(&zookeeper.connect_string()).unwrap();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    let mut observer = Observer::new(&discovery, &watch);
    let at = |broker: &JavaBroker, partitions| format!("{}@{}:{partitions}", broker.id(), broker.port());
    assert_eq!(text(&watch.current()), at(&zero, 2));
    assert_eq!(watch.current().brokers()[0].addr, zero.addr());
    let topics = discovery.topics().await.unwrap();
    assert!(topics.contains(&topic()) && topics.contains(&Topic::new("other").unwrap()), "{topics:?}");

    let mut one = JavaBroker::builder(1).topic("t", 3).start(&peers, &zookeeper).await.unwrap();
    observer.wait_for_view(&format!("{} {}", at(&zero, 2), at(&one, 3)), Instant::now()).await;
    // The broker closes its session, which removes its nodes.
    one.shut_down().await.unwrap();
    observer.wait_for_view(&at(&zero, 2), Instant::now()).await;
    one.restart_elsewhere(&zookeeper).await.unwrap();
    observer.wait_for_view(&format!("{} {}", at(&zero, 2), at(&one, 3)), Instant::now()).await;
    // Its nodes remain until its session has expired.
    zero.kill().await.unwrap();
    let killed = Instant::now();
    becomes(&mut watch, &at(&one, 3)).await;
    println!("a killed broker was gone {:?} after it was killed", killed.elapsed());
    zero.restart(&zookeeper).await.unwrap();
    observer.wait_for_view(&format!("{} {}", at(&zero, 2), at(&one, 3)), Instant::now()).await;
    let reported = observer.take_events();
    assert!(
        !reported.iter().any(|event| event.starts_with("bad entry")),
        "nothing of theirs is bad: {reported:?}"
    );
}

fn bad_path(event: DiscoveryEvent) -> Option<String> {
    match event {
        DiscoveryEvent::BadEntry(entry) => Some(entry.path),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_data_is_reported_once_and_does_not_affect_others() {
    let Some(peers) = Peers::get("bad_data_is_reported_once_and_does_not_affect_others") else { return };
    let zookeeper = ZooKeeper::start(&peers).await.unwrap();
    let (registry, other) = (Registry::open(&zookeeper).await, Topic::new("other").unwrap());
    let other = Registry::open_for(&zookeeper, other).await;
    registry.register(0, 1000, 1).await;
    let child = |name: &str| format!("/meta/brokers/topics-pub/t/{name}");
    let master = |id: i32| format!("/meta/brokers/ids/{id}/master");
    for id in 1..=13 {
        registry.register(id, 1000, 1).await;
    }
    for (path, data) in [
        (master(1), ""),
        (master(2), "nowhere"),
        (master(3), "meta://:8123"),
        (child("4-m"), ""),
        (child("5-m"), "7"),
        (child("6-m"), r#"{"numParts":0}"#),
        (child("7-m"), r#"{"numParts":-1}"#),
        (child("8-m"), r#"{"numParts":2147483647}"#),
        (child("9-m"), r#"{"broker":"9-m"}"#),
        // Neither of these is bad.
        (master(11), "meta://[::1]:1011"),
        (master(12), "meta://broker-12.example:1012"),
        (child("0-s1"), r#"{"broker":"0-s1","numParts":3}"#),
        // These do not belong to brokers.
        (child("lock"), "mine"),
        (child("x-m"), r#"{"numParts":1}"#),
    ] {
        registry.write(&path, data).await;
    }
    registry.delete(&master(10)).await;
    registry.delete(&child("13-m")).await;
    // The brokers whose address is missing or bad appear a second time.
    for id in [1, 2, 10] {
        other.offer(id, 1).await;
    }
    let discovery = discovery(&zookeeper, Duration::from_secs(6));
    let mut events = discovery.events();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    let second = discovery.watch(&other.topic).await.unwrap();
    assert_eq!(text(&watch.current()), "0@1000:1 11@1011:1 12@1012:1");
    assert_eq!(text(&second.current()), "");
    for partitions in 2..5 {
        registry.offer(0, partitions).await;
        becomes(&mut watch, &format!("0@1000:{partitions} 11@1011:1 12@1012:1")).await;
    }
    registry.write(&child("5-m"), r#"{"numParts":5}"#).await;
    becomes(&mut watch, "0@1000:4 5@1000:5 11@1011:1 12@1012:1").await;
    registry.write(&child("5-m"), "bad again").await;
    becomes(&mut watch, "0@1000:4 11@1011:1 12@1012:1").await;
    // A missing address is a transient fault, and reported only when it lasts.
    let mut reported = Vec::new();
    while reported.last().is_none_or(|path| *path != master(10)) {
        reported.extend(bad_path(timeout(TIMEOUT, events.next()).await.expect("it is reported").unwrap()));
    }
    discovery.close().await;
    drop((watch, second, discovery));
    while let Some(event) = events.next().await {
        reported.extend(bad_path(event));
    }
    reported.sort();
    let mut wanted: Vec<_> = [1, 2, 3, 10].map(master).into();
    wanted.extend(["4-m", "5-m", "5-m", "6-m", "7-m", "8-m", "9-m", "lock", "x-m"].map(child));
    wanted.sort();
    assert_eq!(reported, wanted);
}
