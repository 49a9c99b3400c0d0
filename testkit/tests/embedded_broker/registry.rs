//! The registry in the process of the test: the entries of brokers, and its faults.

use std::{sync::Arc, time::Duration};

use metaq_discovery::{Discovery, DiscoveryErrorKind, TopicView, TopicWatch};
use metaq_protocol::{BrokerAddr, BrokerId, Topic};
use metaq_testkit::{Broker, BrokerBuilder, EmbeddedRegistry, RegistryFault};
use tokio::time::Instant;

use crate::wire::Client;

fn topic() -> Topic {
    "t".parse().unwrap()
}

fn builder(registry: &EmbeddedRegistry, id: i32) -> BrokerBuilder {
    Broker::builder().id(id).topic("t", 2).register_with(registry)
}

/// Returns each broker with its address and its number of partitions.
fn brokers(view: &TopicView) -> Vec<(i32, BrokerAddr, usize)> {
    let partitions = |id| view.partitions().iter().filter(|partition| partition.broker == id).count();
    view.brokers().iter().map(|broker| (broker.id.0, broker.addr.clone(), partitions(broker.id))).collect()
}

fn seen(watch: &TopicWatch) -> Vec<(i32, BrokerAddr, usize)> {
    brokers(&watch.current())
}

#[tokio::test(start_paused = true)]
async fn brokers_register_change_and_unregister() {
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

    // Both can be reached here, one of them has a port as well. A topic of a pattern is registered with its
    // first message.
    let any: Topic = "anything".parse().unwrap();
    let other = discovery.watch(&any).await.unwrap();
    assert!(seen(&other).is_empty());
    let mut client = Client::new(registry.connect(three.addr()).unwrap());
    assert!(client.ask("put anything 0 5 0 -1 1\r\nhello").await.starts_with("200 "));
    assert_eq!(seen(&other), [(3, three.addr().clone(), 1)]);
    assert_eq!(discovery.topics().await.unwrap(), ["any*", "anything", "t"]);

    // Shut down: immediately. Dropped: after the session, during which it can't be reached.
    three.shut_down().await.unwrap();
    assert!(seen(&other).is_empty());
    let addr = zero.addr().clone();
    drop(zero);
    tokio::time::sleep(Duration::from_millis(5_999)).await;
    assert_eq!(seen(&watch).len(), 1);
    assert_eq!(registry.connect(&addr).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(seen(&watch).is_empty());

    // Killed and restarted in time: its entry stays.
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
        // A later watch sees the same.
        let late = registry.discovery().watch(&topic()).await.unwrap();
        assert_eq!(seen(&late), expected, "{fault:?}");
        registry.heal();
        assert_eq!(seen(&watch), right);
    }
    assert_eq!(
        registry.connect(&"meta://127.0.0.1:1".parse().unwrap()).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );

    // Unreachable: the last view stays, calls fail, and changes are seen afterwards.
    registry.add_fault(RegistryFault::Unreachable);
    one.set_topic(topic(), 7);
    assert_eq!(seen(&watch), right);
    let error = discovery.watch(&topic()).await.unwrap_err();
    assert_eq!(error.kind(), DiscoveryErrorKind::Unreachable);
    let error = registry.discovery().watch(&topic()).await.unwrap_err();
    assert_eq!(error.kind(), DiscoveryErrorKind::Unreachable);
    registry.heal();
    assert_eq!(seen(&watch)[1].2, 7);

    // Slow: calls, and notifications of changes.
    registry.add_fault(RegistryFault::Slow(Duration::from_secs(2)));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let started = Instant::now();
    discovery.watch(&topic()).await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 2);
    one.set_topic(topic(), 8);
    assert_eq!(seen(&watch)[1].2, 7);
    tokio::time::sleep(Duration::from_millis(2_001)).await;
    assert_eq!(seen(&watch)[1].2, 8);

    // Each producer has its own discovery.
    registry.heal();
    discovery.close().await;
    assert!(registry.discovery().watch(&topic()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_broker_stays_for_the_default_session_timeout() {
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

#[tokio::test(start_paused = true)]
async fn a_live_address_is_refused_without_any_change() {
    let (registry, other) = (EmbeddedRegistry::new(), EmbeddedRegistry::new());
    let first = builder(&registry, 1).start_without_port().unwrap();
    let second = || builder(&other, 0).register_with(&registry).port(first.addr().port());
    let error = second().start_without_port().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
    for part in ["broker 0 ", "broker 1 ", &first.addr().to_string(), "BrokerBuilder::port"] {
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
    let watch = registry.discovery().watch(&topic()).await.unwrap();
    assert_eq!(seen(&watch), [(1, first.addr().clone(), 2)]);
    let mut stream = registry.connect(first.addr()).unwrap();
    first.wait_until(|broker| broker.open_connections() == 1).await.unwrap();
    drop(stream);
    // The address of a broker that has ended is free, even while its session lasts.
    let addr = first.addr().clone();
    drop(first);
    let second = builder(&registry, 0).port(addr.port()).start_without_port().unwrap();
    stream = registry.connect(&addr).unwrap();
    second.wait_until(|broker| broker.open_connections() == 1).await.unwrap();
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn a_live_id_is_refused_without_any_change() {
    let (registry, other) = (EmbeddedRegistry::new(), EmbeddedRegistry::new());
    let first = builder(&registry, 0).start_without_port().unwrap();
    let watch = registry.discovery().watch(&topic()).await.unwrap();
    let known = [(0, first.addr().clone(), 2)];
    let second = || Broker::builder().topic("t", 3).register_with(&other).register_with(&registry);
    for error in [second().start_without_port().unwrap_err(), second().start().await.unwrap_err()] {
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{error}");
        let error = error.to_string();
        for part in ["broker 0 ", &first.addr().to_string(), "BrokerBuilder::id"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(seen(&watch), known);
    assert!(registry.connect(first.addr()).is_ok());
    let free = builder(&other, 0).start_without_port();
    assert!(free.is_ok(), "where it was refused it holds no other id: {free:?}");
    drop(free);

    // Dropped or shut down: the id is free immediately.
    drop(first);
    let next = second().start_without_port().unwrap();
    assert_eq!(seen(&watch), [(0, next.addr().clone(), 3)]);
    next.shut_down().await.unwrap();
    assert!(second().id(0).start_without_port().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exactly_one_of_four_simultaneous_starts_registers_an_id() {
    let registry = EmbeddedRegistry::new();
    let together = Arc::new(tokio::sync::Barrier::new(4));
    let starts: Vec<_> = (1..=4)
        .map(|partitions| {
            let (registry, together) = (registry.clone(), Arc::clone(&together));
            tokio::spawn(async move {
                together.wait().await;
                Broker::builder().topic("t", partitions).register_with(&registry).start_without_port()
            })
        })
        .collect();
    let mut started = Vec::new();
    for (partitions, start) in (1..).zip(starts) {
        if let Ok(broker) = start.await.unwrap() {
            started.push((partitions, broker));
        }
    }
    assert_eq!(started.len(), 1);
    let watch = registry.discovery().watch(&topic()).await.unwrap();
    assert_eq!(seen(&watch), [(0, started[0].1.addr().clone(), started[0].0)]);
}

#[tokio::test(start_paused = true)]
async fn clients_of_a_killed_broker_find_it_after_a_restart() {
    for has_port in [false, true] {
        let builder = Broker::builder().topic("t", 2);
        let first =
            if has_port { builder.start().await.unwrap() } else { builder.start_without_port().unwrap() };
        let (registry, known) = (first.registry().clone(), [(0, first.addr().clone(), 2)]);
        let watch = first.discovery().watch(&topic()).await.unwrap();
        let killed = first.kill().await;
        assert!(registry.connect(&known[0].1).is_err());
        let second = if has_port { killed.start().await } else { killed.start_without_port() }.unwrap();
        // Longer than its session.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(seen(&watch), known);
        let mut client = Client::new(registry.connect(second.addr()).unwrap());
        assert!(client.ask("put t 0 5 0 -1 1\r\nhello").await.starts_with("200 "));
        assert_eq!(second.messages("t").len(), 1);
        second.set_topic("t", 5);
        assert_eq!(seen(&watch)[0].2, 5);
        assert_eq!(seen(&second.discovery().watch(&topic()).await.unwrap())[0].2, 5);
    }
}
