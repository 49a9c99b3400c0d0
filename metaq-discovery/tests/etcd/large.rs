//! Registries, changes and values beyond the 4 MiB that the client library decodes in one message.

use etcd_client::{Txn, TxnOp};
use futures_util::{StreamExt as _, stream};
use metaq_discovery::{BrokerId, Discovery, DiscoveryEvent, DiscoveryEvents, EtcdDiscovery, Topic};
use metaq_testkit::{
    conformance::{Observer, RegistryUnderTest as _, text, topic},
    peers::{Etcd, EtcdProgram},
};
use tokio::time::{Instant, timeout};

use crate::{
    faults::AboutToWatch,
    registry::{Registry, TIMEOUT, addr, ports},
};

const MIB: usize = 1 << 20;

/// A number of partitions in a value of `length` bytes.
fn partitions(count: u32, length: usize) -> String {
    let mut text = format!(r#"{{"numParts":{count}}}"#);
    text.extend(std::iter::repeat_n(' ', length.saturating_sub(text.len())));
    text
}

fn child(topic: &Topic, id: i32) -> String {
    format!("/meta/brokers/topics-pub/{topic}/{id}-m")
}

/// A server that accepts values of 5 MiB.
async fn lenient(program: &EtcdProgram) -> Registry {
    let etcd = Etcd::start_with_max_request_bytes(program, 10 << 20).await.unwrap();
    Registry::of(etcd, None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_registry_beyond_the_message_limit_is_read_in_portions() {
    const TOPICS: usize = 1_200;
    let Some(program) = EtcdProgram::get("a_registry_beyond_the_message_limit_is_read_in_portions") else {
        return;
    };
    let registry = Registry::start(&program).await;
    registry.register(BrokerId(0), addr(1000), 1).await;
    // Long values between short ones, and one of nearly the largest size that etcd accepts.
    let topics: Vec<_> = (0..TOPICS).map(|n| Topic::new(&format!("topic-{n:04}")).unwrap()).collect();
    let written = stream::iter(topics.iter().enumerate()).for_each_concurrent(50, async |(n, topic)| {
        let length = match n {
            700 => MIB,
            _ if n % 2 == 0 => 20_000,
            _ => 0,
        };
        registry.apply(child(topic, 0), Some(partitions(n as u32 % 5 + 1, length))).await;
    });
    written.await;
    let discovery = EtcdDiscovery::new(&registry.endpoint).unwrap();
    let started = Instant::now();
    assert_eq!(text(&discovery.watch(&topic()).await.unwrap().current()), "0@1000:1");
    println!("a registry of 13 MiB was read in {:?}", started.elapsed());
    assert_eq!(discovery.topics().await.unwrap().len(), TOPICS + 1);
    for n in [0, 1, 699, 700, 701, TOPICS - 1] {
        let watch = discovery.watch(&topics[n]).await.unwrap();
        assert_eq!(text(&watch.current()), format!("0@1000:{}", n % 5 + 1), "{n}");
    }
    // Changes are followed.
    let mut watch = discovery.watch(&topics[9]).await.unwrap();
    registry.apply(child(&topics[9], 0), Some(partitions(9, 0))).await;
    timeout(TIMEOUT, watch.changed()).await.unwrap().unwrap();
    assert_eq!(text(&watch.current()), "0@1000:9");
}

async fn bad_entry(events: &mut DiscoveryEvents) -> String {
    loop {
        let event = timeout(TIMEOUT, events.next()).await.expect("a bad entry is reported").unwrap();
        if let DiscoveryEvent::BadEntry(entry) = event {
            return entry.to_string();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_value_beyond_the_message_limit_is_a_bad_entry() {
    let Some(program) = EtcdProgram::get("a_value_beyond_the_message_limit_is_a_bad_entry") else {
        return;
    };
    let registry = lenient(&program).await;
    for id in [0, 1, 2, 3] {
        registry.register(BrokerId(id), addr(1000 + id as u16), 1).await;
    }
    registry.apply(child(&topic(), 1), Some(partitions(1, 5 * MIB))).await;
    registry.apply("/meta/brokers/ids/2/master".to_owned(), Some("x".repeat(5 * MIB))).await;
    let discovery = EtcdDiscovery::new(&registry.endpoint).unwrap();
    let mut events = discovery.events();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    assert_eq!(text(&watch.current()), "0@1000:1 3@1003:1");
    let mut reported = [bad_entry(&mut events).await, bad_entry(&mut events).await];
    reported.sort();
    let reason = "its value is longer than the 4 MiB that can be read";
    assert_eq!(
        reported,
        [
            format!("/meta/brokers/ids/2/master: {reason}"),
            format!("/meta/brokers/topics-pub/{}/1-m: {reason}", topic())
        ]
    );

    let mut observer = Observer::new(&discovery, &watch);
    registry.apply(child(&topic(), 3), Some(partitions(1, 5 * MIB))).await;
    observer.wait_for_view("0@1000:1", Instant::now()).await;
    assert_eq!(bad_entry(&mut events).await, format!("/meta/brokers/topics-pub/{}/3-m: {reason}", topic()));
    registry.register(BrokerId(1), addr(1001), 2).await;
    registry.register(BrokerId(2), addr(1002), 1).await;
    registry.register(BrokerId(3), addr(1003), 3).await;
    ports(&mut watch, &[1000, 1001, 1002, 1003]).await;
    observer.wait_for_view("0@1000:1 1@1001:2 2@1002:1 3@1003:3", Instant::now()).await;
    assert!(observer.take_events().iter().all(|event| event != "lost"), "etcd was there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_transaction_beyond_the_message_limit_is_reread() {
    let Some(program) = EtcdProgram::get("a_transaction_beyond_the_message_limit_is_reread") else {
        return;
    };
    let registry = lenient(&program).await;
    registry.register(BrokerId(0), addr(1000), 1).await;
    let discovery = EtcdDiscovery::new(&registry.endpoint).unwrap();
    let watch = discovery.watch(&topic()).await.unwrap();
    let mut observer = Observer::new(&discovery, &watch);
    for round in 2..5 {
        // Each value is short, but all of them are one change.
        let puts = (0..100).map(|id| {
            let value = if id == 0 { partitions(round, 0) } else { partitions(1, 60_000) };
            TxnOp::put(child(&topic(), id), value, None)
        });
        registry.client.clone().txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
        observer.wait_for_view(&format!("0@1000:{round}"), Instant::now()).await;
    }
    assert!(observer.take_events().iter().all(|event| event != "lost"), "etcd was there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn simultaneous_changes_of_any_length_are_followed() {
    let Some(program) = EtcdProgram::get("simultaneous_changes_of_any_length_are_followed") else {
        return;
    };
    let registry = Registry::start(&program).await;
    let about_to_watch = AboutToWatch::open(&registry).await;
    for round in 0..100 {
        registry.apply(child(&topic(), 0), Some(partitions(1 + round, 100_000))).await;
    }
    about_to_watch.goes_on(&registry, "0@1000:100").await;
}
