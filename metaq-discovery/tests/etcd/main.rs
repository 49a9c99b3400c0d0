//! [`EtcdDiscovery`] against a real etcd server.
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod auth;
mod contents;
mod faults;
mod large;
mod log;
mod panics;
mod registry;
mod runtimes;
#[cfg(feature = "_tls")]
mod tls;

use std::time::Duration;

use metaq_discovery::{BrokerId, Discovery, DiscoveryErrorKind, EtcdConfig, EtcdDiscovery};
use metaq_testkit::{
    conformance::{RegistryUnderTest as _, check_discovery, topic},
    peers::EtcdProgram,
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use registry::{Registry, TIMEOUT, addr, nobody};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let Some(program) = EtcdProgram::get("keeps_the_contract") else { return };
    let registry = Registry::start(&program).await;
    println!("the slowest change was seen after {:?}", check_discovery(&registry).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_server_is_skipped() {
    let Some(program) = EtcdProgram::get("an_unreachable_server_is_skipped") else { return };
    let registry = Registry::start(&program).await;
    registry.register(BrokerId(0), addr(1000), 1).await;
    let connect = format!("etcd://{},{}/meta", nobody(), registry.endpoint);
    let discovery = EtcdDiscovery::new(&connect).unwrap();
    let started = Instant::now();
    assert_eq!(discovery.watch(&topic()).await.unwrap().current().brokers().len(), 1);
    println!("the good server was found after {:?}", started.elapsed());
    assert_eq!(discovery.topics().await.unwrap(), [topic()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_every_watch_stops_following() {
    let Some(program) = EtcdProgram::get("dropping_every_watch_stops_following") else { return };
    let registry = Registry::start(&program).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let discovery = EtcdDiscovery::new(&registry.endpoint).unwrap();
    for _ in 0..2 {
        let watch = discovery.watch(&topic()).await.unwrap();
        assert!(tasks() > before);
        drop(watch);
        let ended = async {
            while tasks() > before {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(TIMEOUT, ended).await.expect("no task is left");
    }
}

#[tokio::test]
async fn unreachable_servers_fail_within_the_deadline() {
    let (host, mut config) = (nobody(), EtcdConfig::default());
    config.connect_timeout = Duration::from_secs(1);
    let discovery = EtcdDiscovery::with_config(&host, config).unwrap();
    let started = Instant::now();
    let error = discovery.watch(&topic()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    assert_eq!(error.kind(), DiscoveryErrorKind::Unreachable);
    assert_eq!(error.to_string(), format!("no etcd answered at {host} within 1s"));
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, format!("etcd at {host} failed to read the registry"));
}
