//! Contents of keys: bad data, leases, thousands of topics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use etcd_client::{PutOptions, Txn, TxnOp};
use futures_util::{StreamExt as _, future::try_join_all, stream};
use metaq_discovery::{BrokerId, Discovery, DiscoveryEvent, EtcdDiscovery, Topic};
use metaq_testkit::{
    conformance::{RegistryUnderTest as _, on_own_runtime, text, topic},
    peers::EtcdProgram,
};
use nix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, timeout};

use crate::registry::{Registry, TIMEOUT, addr, ports};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_leaves_when_its_lease_expires() {
    let Some(program) = EtcdProgram::get("a_broker_leaves_when_its_lease_expires") else { return };
    let registry = Registry::start(&program).await;
    registry.register(BrokerId(0), addr(1000), 1).await;
    registry.register(BrokerId(1), addr(1001), 1).await;
    let mut client = registry.client.clone();
    let lease = client.lease_grant(1, None).await.unwrap().id();
    let key = format!("/meta/brokers/topics-pub/{}/1-m", topic());
    let options = PutOptions::new().with_lease(lease);
    client.put(key, r#"{"numParts":3}"#, Some(options)).await.unwrap();
    let discovery = EtcdDiscovery::new(&registry.endpoint).unwrap();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    assert_eq!(text(&watch.current()), "0@1000:1 1@1001:3");
    let gone = ports(&mut watch, &[1000]).await;
    println!("a broker whose lease of 1 s ended was gone after {gone:?}");
}

fn bad_path(event: DiscoveryEvent) -> Option<String> {
    match event {
        DiscoveryEvent::BadEntry(entry) => Some(entry.path),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_data_is_reported_once_and_does_not_affect_others() {
    let Some(program) = EtcdProgram::get("bad_data_is_reported_once_and_does_not_affect_others") else {
        return;
    };
    let registry = Registry::start(&program).await;
    registry.register(BrokerId(0), addr(1000), 1).await;
    let other = Topic::new("other").unwrap();
    for name in [topic(), other.clone()] {
        for id in 1..4 {
            let key = format!("/meta/brokers/topics-pub/{name}/{id}-m");
            registry.apply(key, Some(r#"{"numParts":1}"#.to_owned())).await;
        }
    }
    // 1 has no address, the address of 2 is invalid, 3 is usable.
    registry.apply("/meta/brokers/ids/2/master".to_owned(), Some("nowhere".to_owned())).await;
    registry.apply("/meta/brokers/ids/3/master".to_owned(), Some("meta://[::1]:1003".to_owned())).await;
    let discovery = EtcdDiscovery::new(&registry.endpoint).unwrap();
    let mut events = discovery.events();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    let second = discovery.watch(&other).await.unwrap();
    assert_eq!(
        (text(&watch.current()), text(&second.current())),
        ("0@1000:1 3@1003:1".into(), "3@1003:1".into())
    );
    for round in 2..5 {
        registry.register(BrokerId(0), addr(1000), round).await;
        while text(&watch.current()) != format!("0@1000:{round} 3@1003:1") {
            timeout(TIMEOUT, watch.changed()).await.unwrap().unwrap();
        }
    }
    // A missing address is a transient fault, and reported only when it lasts.
    let mut reported = Vec::new();
    while reported.last().is_none_or(|path| path != "/meta/brokers/ids/1/master") {
        reported.extend(bad_path(timeout(TIMEOUT, events.next()).await.expect("it is reported").unwrap()));
    }
    registry
        .apply("/meta/brokers/ids/1/master".to_owned(), Some("meta://host.example:1001".to_owned()))
        .await;
    ports(&mut watch, &[1000, 1001, 1003]).await;
    discovery.close().await;
    drop(discovery);
    while let Some(event) = events.next().await {
        reported.extend(bad_path(event));
    }
    reported.sort();
    assert_eq!(reported, ["/meta/brokers/ids/1/master", "/meta/brokers/ids/2/master"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_topics_share_one_watch() {
    const TOPICS: usize = 2_000;
    let Some(program) = EtcdProgram::get("thousands_of_topics_share_one_watch") else { return };
    let registry = Registry::start(&program).await;
    let topics: Vec<_> = (0..TOPICS).map(|n| Topic::new(&format!("topic-{n}")).unwrap()).collect();
    let child = |topic: &Topic, id: i32| format!("/meta/brokers/topics-pub/{topic}/{id}-m");
    let parts = |count: u32| Some(format!(r#"{{"numParts":{count}}}"#));
    registry.apply("/meta/brokers/ids/0/master".to_owned(), Some("meta://127.0.0.1:1000".to_owned())).await;
    let written = stream::iter(&topics).for_each_concurrent(50, async |topic| {
        registry.apply(child(topic, 0), parts(2)).await;
    });
    written.await;
    // A broker without an address is reported once, however many topics it offers.
    registry.apply(child(&topics[0], 1), parts(1)).await;
    registry.apply(child(&topics[1], 1), parts(1)).await;
    let discovery = EtcdDiscovery::new(&registry.endpoint).unwrap();
    let started = Instant::now();
    let mut watches = try_join_all(topics.iter().map(|topic| discovery.watch(topic))).await.unwrap();
    let opened = started.elapsed();
    println!("{TOPICS} topics opened in {opened:?}");
    assert!(opened < Duration::from_secs(3), "{opened:?}");
    assert!(watches.iter().all(|watch| text(&watch.current()) == "0@1000:2"));

    let started = Instant::now();
    registry.apply(child(&topics[7], 0), parts(3)).await;
    timeout(TIMEOUT, watches[7].changed()).await.unwrap().unwrap();
    println!("one topic's change was seen after {:?}", started.elapsed());
    assert_eq!(text(&watches[7].current()), "0@1000:3");

    let started = Instant::now();
    registry.apply("/meta/brokers/ids/0/master".to_owned(), Some("meta://127.0.0.1:2000".to_owned())).await;
    for (n, watch) in watches.iter_mut().enumerate() {
        timeout(TIMEOUT, watch.changed()).await.unwrap().unwrap();
        assert_eq!(text(&watch.current()), if n == 7 { "0@2000:3" } else { "0@2000:2" });
    }
    let moved = started.elapsed();
    println!("a broker's move was seen by all after {moved:?}");
    assert!(moved < Duration::from_secs(2), "{moved:?}");
}

/// The CPU time of this thread, which excludes the time that other threads and processes use.
fn ran() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// All brokers lose their addresses at once. Measures the longest time that another task of the thread waits.
#[tokio::test]
async fn vanishing_addresses_block_no_task() {
    const TOPICS: usize = 500;
    const BROKERS: usize = 10;
    let Some(program) = EtcdProgram::get("vanishing_addresses_block_no_task") else { return };
    let registry = on_own_runtime(async move { Registry::start(&program).await }).await;
    let topics: Vec<_> = (0..TOPICS).map(|n| Topic::new(&format!("topic-{n}")).unwrap()).collect();
    let mut client = registry.client.clone();
    let masters: Vec<_> = (0..BROKERS).map(|id| format!("/meta/brokers/ids/{id}/master")).collect();
    let put = |key: &String| TxnOp::put(key.as_str(), "meta://127.0.0.1:1000", None);
    client.txn(Txn::new().and_then(masters.iter().map(put).collect::<Vec<_>>())).await.unwrap();
    for topics in topics.chunks(10) {
        let children = topics
            .iter()
            .flat_map(|topic| (0..BROKERS).map(move |id| format!("/meta/brokers/topics-pub/{topic}/{id}-m")));
        let puts = children.map(|key| TxnOp::put(key, r#"{"numParts":2}"#, None)).collect::<Vec<_>>();
        client.txn(Txn::new().and_then(puts)).await.unwrap();
    }
    let discovery = EtcdDiscovery::new(&registry.endpoint).unwrap();
    let mut watches = try_join_all(topics.iter().map(|topic| discovery.watch(topic))).await.unwrap();
    assert!(watches.iter().all(|watch| watch.current().brokers().len() == BROKERS));
    let longest = Arc::new(AtomicU64::new(0));
    let shown = Arc::downgrade(&longest);
    tokio::spawn(async move {
        let mut last = ran();
        while let Some(longest) = shown.upgrade() {
            tokio::task::yield_now().await;
            let now = ran();
            longest.fetch_max((now - last).as_micros() as u64, Ordering::Relaxed);
            last = now;
        }
    });
    let deletions = masters.iter().map(|key| TxnOp::delete(key.as_str(), None)).collect::<Vec<_>>();
    client.txn(Txn::new().and_then(deletions)).await.unwrap();
    for watch in &mut watches {
        while !watch.current().is_empty() {
            timeout(TIMEOUT, watch.changed()).await.unwrap().unwrap();
        }
    }
    let longest = longest.load(Ordering::Relaxed);
    println!("{TOPICS} topics whose {BROKERS} brokers lose their addresses held up a task for {longest} us");
    assert!(longest < 40_000, "{longest} us");
    discovery.close().await;
}
