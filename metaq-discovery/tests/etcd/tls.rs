//! etcd over TLS.

use std::{error::Error as _, time::Duration};

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use metaq_discovery::{BrokerId, Discovery, DiscoveryErrorKind, EtcdConfig, EtcdDiscovery, TlsConfig};
use metaq_testkit::{
    conformance::{RegistryUnderTest as _, topic},
    peers::{Etcd, EtcdProgram, PeerTls, TestCa},
};
use tokio::time::Instant;

use crate::registry::{Registry, addr, nobody, ports};

/// The name in the server's certificate.
const NAME: &str = "etcd.example";

fn by_tls(connect: &str, name: Option<&str>, tls: &TlsConfig) -> EtcdDiscovery {
    let mut config = EtcdConfig::default();
    config.connect_timeout = Duration::from_secs(5);
    config.server_name = name.map(str::to_owned);
    config.tls = Some(tls.clone());
    EtcdDiscovery::with_config(connect, config).unwrap()
}

/// The error of a discovery whose handshake fails, and its cause. It is found before the deadline.
async fn refused(connect: &str, name: Option<&str>, tls: &TlsConfig) -> (String, String) {
    let started = Instant::now();
    let error = by_tls(connect, name, tls).watch(&topic()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(4), "{error} after {:?}", started.elapsed());
    assert_eq!(error.kind(), DiscoveryErrorKind::Failed);
    (error.to_string(), error.source().unwrap().to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_and_clients_authenticate() {
    let Some(program) = EtcdProgram::get("servers_and_clients_authenticate") else { return };
    let (ca, other_ca) = (TestCa::new(), TestCa::new());
    let setup = PeerTls::new(&ca, NAME).demanding_certificates();
    let etcd = Etcd::start_with_tls(&program, setup).await.unwrap();
    let (certificate, key) = ca.issue("client");
    let options = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(ca.certificate()))
        .domain_name(NAME)
        .identity(Identity::from_pem(&certificate, &key));
    let registry = Registry::of(etcd, Some(ConnectOptions::new().with_tls(options))).await;
    registry.register(BrokerId(0), addr(1000), 1).await;
    let host = &registry.endpoint;
    let trusting = || TlsConfig::from_ca_pem(ca.certificate()).unwrap();
    let known = trusting().with_identity_pem(certificate, key).unwrap();

    let trusting_another = TlsConfig::from_ca_pem(other_ca.certificate()).unwrap();
    let (error, cause) = refused(host, Some(NAME), &trusting_another).await;
    let untrusted = "its certificate can't be verified by the CA certificates";
    assert_eq!(error, format!("TLS with etcd at {host} failed: {untrusted}"));
    assert!(cause.contains("UnknownIssuer"), "{cause}");
    let (error, cause) = refused(host, None, &known).await;
    assert_eq!(error, format!("TLS with etcd at {host} failed: {untrusted}"));
    assert!(cause.contains("not valid for name \"127.0.0.1\""), "{cause}");
    let (error, _) = refused(host, Some(NAME), &trusting()).await;
    let demanded = "it demands a client certificate, and none is configured";
    assert_eq!(error, format!("TLS with etcd at {host} failed: {demanded}"));
    let (strange, strange_key) = other_ca.issue("stranger");
    let stranger = trusting().with_identity_pem(strange, strange_key).unwrap();
    let (error, cause) = refused(host, Some(NAME), &stranger).await;
    let refusal = "it rejects the client certificate";
    assert_eq!(error, format!("TLS with etcd at {host} failed: {refusal}"), "{cause}");

    // A server that is away does not affect the other one.
    let discovery = by_tls(&format!("{},{host}", nobody()), Some(NAME), &known);
    let mut watch = discovery.watch(&topic()).await.unwrap();
    ports(&mut watch, &[1000]).await;
    registry.register(BrokerId(1), addr(1001), 1).await;
    let seen = ports(&mut watch, &[1000, 1001]).await;
    registry.etcd.lock().await.kill().await.unwrap();
    registry.etcd.lock().await.restart().await.unwrap();
    registry.register(BrokerId(1), addr(2001), 1).await;
    let again = ports(&mut watch, &[1000, 2001]).await;
    println!("by TLS a change was seen after {seen:?}, and {again:?} after a restart");
    assert!(seen < Duration::from_secs(2) && again < Duration::from_secs(2), "{seen:?} {again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_fails_within_the_deadline() {
    let Some(program) = EtcdProgram::get("a_server_without_tls_fails_within_the_deadline") else {
        return;
    };
    let registry = Registry::start(&program).await;
    let mut config = EtcdConfig::default();
    config.connect_timeout = Duration::from_secs(3);
    config.tls = Some(TlsConfig::from_ca_pem(TestCa::new().certificate()).unwrap());
    let discovery = EtcdDiscovery::with_config(&registry.endpoint, config).unwrap();
    let started = Instant::now();
    let error = discovery.watch(&topic()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(3500), "{:?}", started.elapsed());
    assert_eq!(error.kind(), DiscoveryErrorKind::Unreachable);
    let cause = error.source().unwrap().to_string();
    let unanswered = "it does not answer the handshake; this port may not use TLS";
    assert_eq!(cause, format!("TLS with etcd at {} failed: {unanswered}", registry.endpoint));
}
