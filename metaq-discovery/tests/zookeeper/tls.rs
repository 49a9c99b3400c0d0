//! ZooKeeper over TLS.

use std::{error::Error as _, fs, time::Duration};

use futures_util::future::join_all;
use metaq_discovery::{Discovery, DiscoveryErrorKind, TlsConfig, Topic, ZooKeeperConfig, ZooKeeperDiscovery};
use metaq_testkit::{
    conformance::on_own_runtime,
    peers::{PeerTls, Peers, TestCa, ZooKeeper},
    proxy::Proxy,
};
use tokio::time::{Instant, sleep};

use crate::registry::{Registry, becomes, text, topic};

fn by_tls(connect: &str, tls: &TlsConfig) -> ZooKeeperDiscovery {
    let mut config = ZooKeeperConfig::default();
    config.connect_timeout = Duration::from_secs(4);
    config.tls = Some(tls.clone());
    ZooKeeperDiscovery::with_config(connect, config).unwrap()
}

/// The error of a discovery whose handshake fails, and its cause. It is found before the deadline.
async fn refused(connect: &str, tls: &TlsConfig) -> (String, String) {
    let started = Instant::now();
    let error = by_tls(connect, tls).watch(&topic()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(3), "{error} after {:?}", started.elapsed());
    assert_eq!(error.kind(), DiscoveryErrorKind::Failed);
    (error.to_string(), error.source().unwrap().to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_and_clients_authenticate() {
    let Some(peers) = Peers::get("servers_and_clients_authenticate") else { return };
    let (ca, other_ca) = (TestCa::new(), TestCa::new());
    let setup = PeerTls::new(&ca, "127.0.0.1").demanding_certificates();
    let mut zookeeper = ZooKeeper::builder().tls(setup).start(&peers).await.unwrap();
    let registry = Registry::open(&zookeeper).await;
    registry.register(0, 1000, 1).await;
    let (plain, secure) = (zookeeper.connect_string(), zookeeper.secure_connect_string());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let ca_file = file("ca.pem", ca.certificate());
    let identity = |ca: &TestCa, name: &str| {
        let (certificate, key) = ca.issue(name);
        (file(&format!("{name}.pem"), &certificate), file(&format!("{name}.key"), &key))
    };
    let (certificate, key) = identity(&ca, "client");
    let (stranger, stranger_key) = identity(&other_ca, "stranger");
    let trusting = || TlsConfig::from_ca_file(&ca_file).unwrap();
    let known = trusting().with_identity_files(certificate, key).unwrap();

    let (error, cause) = refused(&secure, &TlsConfig::from_ca_pem(other_ca.certificate()).unwrap()).await;
    let untrusted = "its certificate can't be verified by the CA certificates";
    assert_eq!(error, format!("TLS with ZooKeeper at {secure} failed: {untrusted}"));
    assert!(cause.contains("UnknownIssuer"), "{cause}");
    let by_name = secure.replace("127.0.0.1", "localhost");
    let (error, cause) = refused(&by_name, &known).await;
    assert_eq!(
        error,
        format!("TLS with ZooKeeper at {by_name} failed: {untrusted} in {}", ca_file.display())
    );
    assert!(cause.contains("not valid for name \"localhost\""), "{cause}");
    let (error, _) = refused(&secure, &trusting()).await;
    let demanded = "it demands a client certificate, and none is configured";
    assert_eq!(error, format!("TLS with ZooKeeper at {secure} failed: {demanded}"));
    let strange = trusting().with_identity_files(&stranger, stranger_key).unwrap();
    let (error, cause) = refused(&secure, &strange).await;
    let refusal = format!("it rejects the client certificate in {}", stranger.display());
    assert_eq!(error, format!("TLS with ZooKeeper at {secure} failed: {refusal}"), "{cause}");
    // TLS to a plain port, and a plain connection to a TLS port.
    let mut config = ZooKeeperConfig::default();
    config.connect_timeout = Duration::from_secs(4);
    config.silence_timeout = Duration::from_secs(1);
    let without = ZooKeeperDiscovery::with_config(&secure, config.clone()).unwrap();
    config.tls = Some(known.clone());
    let with = ZooKeeperDiscovery::with_config(&plain, config).unwrap();
    let (topic, other) = (topic(), topic());
    let (with, without) = tokio::join!(with.watch(&topic), without.watch(&other));
    let (with, without) = (with.unwrap_err(), without.unwrap_err());
    assert_eq!(without.kind(), DiscoveryErrorKind::Unreachable, "{without:?}");
    assert_eq!(with.kind(), DiscoveryErrorKind::Unreachable, "{with:?}");
    let unanswered = "it does not answer the handshake; this port may not use TLS";
    assert_eq!(
        with.source().unwrap().to_string(),
        format!("TLS with ZooKeeper at {plain} failed: {unanswered}")
    );

    // An unusable server does not affect the other one.
    let discovery = by_tls(&format!("{plain},{secure}"), &known);
    let mut watch = discovery.watch(&topic).await.unwrap();
    assert_eq!(text(&watch.current()), "0@1000:1");
    registry.register(1, 1001, 2).await;
    let seen = becomes(&mut watch, "0@1000:1 1@1001:2").await;
    zookeeper.kill().await.unwrap();
    zookeeper.restart().await.unwrap();
    drop(registry);
    let registry = Registry::open(&zookeeper).await;
    registry.register(1, 2001, 2).await;
    let again = becomes(&mut watch, "0@1000:1 1@2001:2").await;
    println!("by TLS a change was seen after {seen:?}, and {again:?} after a restart");
    assert!(seen < Duration::from_secs(2) && again < Duration::from_secs(2), "{seen:?} {again:?}");
    discovery.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn refusing_servers_are_asked_with_a_shared_backoff() {
    let Some(peers) = Peers::get("refusing_servers_are_asked_with_a_shared_backoff") else {
        return;
    };
    let (ca, other_ca) = (TestCa::new(), TestCa::new());
    let zookeeper = ZooKeeper::builder().tls(PeerTls::new(&ca, "127.0.0.1")).start(&peers).await.unwrap();
    let proxy = on_own_runtime(Proxy::start(zookeeper.secure_connect_string())).await.unwrap();
    let mut config = ZooKeeperConfig::default();
    config.tls = Some(TlsConfig::from_ca_pem(other_ca.certificate()).unwrap());
    let discovery = ZooKeeperDiscovery::with_config(&proxy.addr().to_string(), config).unwrap();
    let topics: Vec<_> = (0..30).map(|n| Topic::new(&format!("topic-{n}")).unwrap()).collect();
    let (started, mut calls) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_secs(3) {
        for refused in join_all(topics.iter().map(|topic| discovery.watch(topic))).await {
            assert_eq!(refused.unwrap_err().kind(), DiscoveryErrorKind::Failed);
            calls += 1;
        }
        // Publishers retry after a while.
        sleep(Duration::from_millis(20)).await;
    }
    // Immediately, and 0.2, 0.6, 1.4 and 3 s later; each time one connection for the session, and one to find
    // the reason.
    let (attempts, most) = (proxy.accepted(), 12);
    println!("{calls} calls were refused by {attempts} connections");
    assert!(attempts <= most, "{attempts} connections for {calls} calls");
    assert!(calls >= 30 * 5, "calls in between fail at once: {calls}");
    discovery.close().await;
}

#[test]
fn a_host_without_a_possible_certificate_is_refused() {
    let mut config = ZooKeeperConfig::default();
    config.tls = Some(TlsConfig::from_ca_pem(TestCa::new().certificate()).unwrap());
    let error = ZooKeeperDiscovery::with_config("zk-1:2281,z$k:2281", config).unwrap_err();
    assert_eq!(error.kind(), DiscoveryErrorKind::Config);
    assert_eq!(error.to_string(), "no certificate can name \"z$k\", a host of ZooKeeper");
}
