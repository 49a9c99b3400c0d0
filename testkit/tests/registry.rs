//! The registry of the test's own process: what brokers tell, and what it does wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod wire;

use std::time::Duration;

use metaq_discovery::{Discovery, DiscoveryErrorKind, TopicView, TopicWatch};
use metaq_protocol::{BrokerAddr, BrokerId, Topic};
use metaq_testkit::{Broker, BrokerBuilder, EmbeddedRegistry, RegistryFault};
use tokio::time::Instant;
use wire::Client;

fn topic() -> Topic {
    "t".parse().unwrap()
}

fn builder(registry: &EmbeddedRegistry, id: i32) -> BrokerBuilder {
    Broker::builder().id(id).topic("t", 2).register_with(registry)
}

/// Each broker with its address and its number of partitions.
fn brokers(view: &TopicView) -> Vec<(i32, BrokerAddr, usize)> {
    let partitions = |id| view.partitions().iter().filter(|partition| partition.broker == id).count();
    view.brokers().iter().map(|broker| (broker.id.0, broker.addr.clone(), partitions(broker.id))).collect()
}

fn seen(watch: &TopicWatch) -> Vec<(i32, BrokerAddr, usize)> {
    brokers(&watch.current())
}

#[tokio::test(start_paused = true)]
async fn brokers_register_change_and_leave() {
    let registry = EmbeddedRegistry::new();
    let zero = builder(&registry, 0).start_without_port().unwrap();
    let discovery = registry.discovery();
    let watch = discovery.watch(&topic()).await.unwrap();
    assert_eq!(seen(&watch), [(0, zero.addr().clone(), 2)]);
    let three = builder(&registry, 3).topic("any*", 1).start().await.unwrap();
    assert_eq!(seen(&watch), [(0, zero.addr().clone(), 2), (3, three.addr().clone(), 2)]);
    zero.set_topic(topic(), 5);
    assert_eq!(seen(&watch)[0].2, 5);
    three.set_accepts(topic(), false, true);
    assert_eq!(seen(&watch).len(), 1);

    // Both can be reached here, one of them has a port as well. A topic of a pattern comes with its first message.
    let any: Topic = "anything".parse().unwrap();
    let other = discovery.watch(&any).await.unwrap();
    assert!(seen(&other).is_empty());
    let mut client = Client::new(registry.connect(three.addr()).unwrap());
    assert!(client.ask("put anything 0 5 0 -1 1\r\nhello").await.starts_with("200 "));
    assert_eq!(seen(&other), [(3, three.addr().clone(), 1)]);
    assert_eq!(discovery.topics().await.unwrap(), ["any*", "anything", "t"]);

    // Shut down: at once. Dropped: after the session, in which it can't be reached.
    three.shut_down().await.unwrap();
    assert!(seen(&other).is_empty());
    let addr = zero.addr().clone();
    drop(zero);
    tokio::time::sleep(Duration::from_millis(5_999)).await;
    assert_eq!(seen(&watch).len(), 1);
    assert_eq!(registry.connect(&addr).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(seen(&watch).is_empty());

    // Killed and back in time: its entry stays.
    let first = builder(&registry, 0).start_without_port().unwrap();
    drop(first);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let second = builder(&registry, 0).start_without_port().unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(seen(&watch), [(0, second.addr().clone(), 2)]);
}

#[tokio::test(start_paused = true)]
async fn each_fault_does_what_it_says() {
    let registry = EmbeddedRegistry::new();
    let zero = builder(&registry, 0).start_without_port().unwrap();
    let one = builder(&registry, 1).start_without_port().unwrap();
    let discovery = registry.discovery();
    let watch = discovery.watch(&topic()).await.unwrap();
    let right = [(0, zero.addr().clone(), 2), (1, one.addr().clone(), 2)];
    assert_eq!(seen(&watch), right);

    for (fault, expected) in [
        (RegistryFault::Empty, vec![]),
        (RegistryFault::Missing(BrokerId(1)), right[..1].to_vec()),
        (RegistryFault::WrongPartitions(BrokerId(1), 9), vec![right[0].clone(), (1, right[1].1.clone(), 9)]),
        (
            RegistryFault::WrongAddress(BrokerId(1)),
            vec![right[0].clone(), (1, "meta://127.0.0.1:1".parse().unwrap(), 2)],
        ),
    ] {
        registry.add_fault(fault.clone());
        assert_eq!(seen(&watch), expected, "{fault:?}");
        // Whoever comes later sees the same.
        let late = registry.discovery().watch(&topic()).await.unwrap();
        assert_eq!(seen(&late), expected, "{fault:?}");
        registry.heal();
        assert_eq!(seen(&watch), right);
    }
    assert_eq!(
        registry.connect(&"meta://127.0.0.1:1".parse().unwrap()).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );

    // Gone: the last view holds, calls fail, and what changed is seen afterwards.
    registry.add_fault(RegistryFault::Gone);
    one.set_topic(topic(), 7);
    assert_eq!(seen(&watch), right);
    let error = discovery.watch(&topic()).await.unwrap_err();
    assert_eq!(error.kind(), DiscoveryErrorKind::Unreachable);
    let error = registry.discovery().watch(&topic()).await.unwrap_err();
    assert_eq!(error.kind(), DiscoveryErrorKind::Unreachable);
    registry.heal();
    assert_eq!(seen(&watch)[1].2, 7);

    // Slow: calls, and what is told.
    registry.add_fault(RegistryFault::Slow(Duration::from_secs(2)));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let started = Instant::now();
    discovery.watch(&topic()).await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 2);
    one.set_topic(topic(), 8);
    assert_eq!(seen(&watch)[1].2, 7);
    tokio::time::sleep(Duration::from_millis(2_001)).await;
    assert_eq!(seen(&watch)[1].2, 8);

    // One producer's discovery is its own.
    registry.heal();
    discovery.close().await;
    assert!(registry.discovery().watch(&topic()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_default_registry_keeps_a_dropped_broker_for_the_session_timeout_as_well() {
    for registry in [EmbeddedRegistry::new(), EmbeddedRegistry::default()] {
        let broker = builder(&registry, 0).start_without_port().unwrap();
        let watch = registry.discovery().watch(&topic()).await.unwrap();
        drop(broker);
        tokio::time::sleep(Duration::from_millis(5_900)).await;
        assert_eq!(seen(&watch).len(), 1);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(seen(&watch).is_empty());
    }
}
