//! A registry with access control: passwords and rights that are wrong from the beginning, or become wrong.

use std::{error::Error as _, sync::Arc, time::Duration};

use etcd_client::{Client, ConnectOptions, Permission, PermissionType};
use metaq_discovery::{
    BrokerId, Credentials, Discovery, DiscoveryError, DiscoveryErrorKind, EtcdConfig, EtcdDiscovery,
};
use metaq_testkit::{
    conformance::{Observer, RegistryUnderTest as _, on_own_runtime, text, topic},
    peers::{Etcd, EtcdProgram},
    proxy::{Plan, Proxy},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    log::Log,
    registry::{Registry, TIMEOUT, addr},
};

/// The permission that the user `metaq` needs.
fn right() -> Permission {
    Permission::new(PermissionType::Read, "/meta/brokers/").with_prefix()
}

/// A server with the broker 0 that only `root` and `metaq` may use, the latter only for reading.
async fn guarded(program: &EtcdProgram) -> Registry {
    let etcd = Etcd::start(program).await.unwrap();
    let mut client = Box::pin(Client::connect([etcd.endpoint()], None)).await.unwrap();
    client.role_add("root").await.unwrap();
    client.role_add("reader").await.unwrap();
    client.role_grant_permission("reader", right()).await.unwrap();
    client.role_add("other").await.unwrap();
    let other = Permission::new(PermissionType::Read, "/other/").with_prefix();
    client.role_grant_permission("other", other).await.unwrap();
    for (user, role) in [("root", "root"), ("metaq", "reader"), ("stranger", "other")] {
        client.user_add(user, "secret", None).await.unwrap();
        client.user_grant_role(user, role).await.unwrap();
    }
    client.auth_enable().await.unwrap();
    let registry = Registry::of(etcd, Some(ConnectOptions::new().with_user("root", "secret"))).await;
    registry.register(BrokerId(0), addr(1000), 1).await;
    registry
}

fn config(user: &str, password: &str) -> EtcdConfig {
    let mut config = EtcdConfig::default();
    config.credentials = Some(Credentials::new(user, password));
    config
}

/// The error of watching a topic, which must be returned immediately.
async fn refused(discovery: &EtcdDiscovery) -> DiscoveryError {
    let started = Instant::now();
    let error = discovery.watch(&topic()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{error} after {:?}", started.elapsed());
    assert_eq!(error.kind(), DiscoveryErrorKind::Failed, "{error}: {:?}", error.source());
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn missing_rights_fail_immediately() {
    let Some(program) = EtcdProgram::get("missing_rights_fail_immediately") else { return };
    let registry = Box::pin(guarded(&program)).await;
    let failed = "etcdserver: authentication failed, invalid user ID or password";
    let rights =
        "etcdserver: permission denied; the right to read all keys that begin with /meta/brokers/ is needed";
    let cases = [
        (config("metaq", "wrong"), format!("as \"metaq\": {failed}")),
        (config("nobody", "secret"), format!("as \"nobody\": {failed}")),
        (config("stranger", "secret"), format!("as \"stranger\": {rights}")),
        (EtcdConfig::default(), "without credentials: etcdserver: user name is empty".to_owned()),
    ];
    for (mut config, reason) in cases {
        config.connect_timeout = Duration::from_secs(60);
        let discovery = EtcdDiscovery::with_config(&registry.endpoint, config).unwrap();
        let error = refused(&discovery).await;
        assert_eq!(
            error.to_string(),
            format!("etcd at {} refuses access {reason}", registry.endpoint),
            "{:?}",
            error.source()
        );
        let again = discovery.topics().await.unwrap_err();
        assert!(again.to_string().starts_with(&error.to_string()), "{again}");
    }
    let discovery = EtcdDiscovery::with_config(&registry.endpoint, config("metaq", "secret")).unwrap();
    assert_eq!(text(&discovery.watch(&topic()).await.unwrap().current()), "0@1000:1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn credentials_for_an_etcd_without_auth_are_refused() {
    let Some(program) = EtcdProgram::get("credentials_for_an_etcd_without_auth_are_refused") else {
        return;
    };
    let registry = Registry::start(&program).await;
    let discovery = EtcdDiscovery::with_config(&registry.endpoint, config("metaq", "secret")).unwrap();
    let error = refused(&discovery).await.to_string();
    assert!(error.ends_with("as \"metaq\": etcdserver: authentication is not enabled"), "{error}");
}

/// Checks that a registry which becomes unreadable is reported once with the reason, keeps its view, is asked
/// rarely, and is followed again once it is readable. Single-threaded, so that the log of this thread is
/// complete.
async fn loses_and_regains(
    program: &EtcdProgram,
    lose: impl AsyncFn(&mut Client),
    reason: &str,
    regain: impl AsyncFn(&mut Client),
) {
    let log = Log::default();
    let _logging = log.listen();
    let program = program.clone();
    let registry = on_own_runtime(async move { Box::pin(guarded(&program)).await }).await;
    let proxy = on_own_runtime(Proxy::start(registry.endpoint.clone())).await.unwrap();
    let mut config = config("metaq", "secret");
    config.reread_interval = Duration::from_millis(200);
    let discovery = EtcdDiscovery::with_config(&proxy.addr().to_string(), config).unwrap();
    let mut watch = discovery.watch(&topic()).await.unwrap();
    let mut observer = Observer::new(&discovery, &watch);
    let mut root = registry.client.clone();
    lose(&mut root).await;
    observer.wait_for_event("lost").await;
    let lost = Instant::now();
    let connections = proxy.accepted();
    registry.register(BrokerId(1), addr(1001), 1).await;
    // Other callers do not increase the number of requests.
    while lost.elapsed() < Duration::from_secs(4) {
        let error = discovery.topics().await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        sleep(Duration::from_millis(10)).await;
    }
    let attempts = proxy.accepted() - connections;
    assert!((1..=4).contains(&attempts), "{attempts} attempts in 4 s, after 0.5, 1.5 and 3.5 s");
    assert_eq!(text(&watch.current()), "0@1000:1", "the view holds");
    assert_eq!(
        observer.take_events().iter().filter(|event| *event == "lost").count(),
        1,
        "it is reported once"
    );
    assert_eq!(log.count("etcd refuses to be read; the last views hold"), 1, "{}", log.text());
    assert_eq!(log.count(reason), 1, "{}", log.text());
    regain(&mut root).await;
    let regained = Instant::now();
    while text(&watch.current()) != "0@1000:1 1@1001:1" {
        timeout(TIMEOUT, watch.changed()).await.expect("it is followed again").unwrap();
    }
    assert!(regained.elapsed() < Duration::from_secs(8), "the pauses were 0.5, 1, 2 and 4 s");
    assert!(observer.take_events().contains(&"connected".to_owned()));
    assert_eq!(discovery.topics().await.unwrap(), [topic()]);
    assert_eq!(log.count("etcd is read again"), 1, "{}", log.text());
    discovery.close().await;
}

#[tokio::test]
async fn a_revoked_right_is_reported_once_and_recovers() {
    let Some(program) = EtcdProgram::get("a_revoked_right_is_reported_once_and_recovers") else { return };
    let revoke = async |root: &mut Client| {
        root.user_revoke_role("metaq", "reader").await.unwrap();
    };
    let grant = async |root: &mut Client| {
        root.user_grant_role("metaq", "reader").await.unwrap();
    };
    Box::pin(loses_and_regains(&program, revoke, "permission denied", grant)).await;
}

#[tokio::test]
async fn a_changed_password_is_reported_once_and_recovers() {
    let Some(program) = EtcdProgram::get("a_changed_password_is_reported_once_and_recovers") else {
        return;
    };
    let change = async |root: &mut Client| {
        root.user_change_password("metaq", "changed").await.unwrap();
    };
    let change_back = async |root: &mut Client| {
        root.user_change_password("metaq", "secret").await.unwrap();
    };
    Box::pin(loses_and_regains(&program, change, "authentication failed", change_back)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_login_serves_all_reads() {
    let Some(program) = EtcdProgram::get("one_login_serves_all_reads") else { return };
    let registry = Box::pin(guarded(&program)).await;
    let proxy = Proxy::start(registry.endpoint.clone()).await.unwrap();
    let mut config = config("metaq", "secret");
    config.reread_interval = Duration::from_millis(200);
    let discovery = EtcdDiscovery::with_config(&proxy.addr().to_string(), config).unwrap();
    let watch = discovery.watch(&topic()).await.unwrap();
    let started = Instant::now();
    for round in 0..5 {
        let read = watch.current();
        while Arc::ptr_eq(&watch.current(), &read) {
            assert!(started.elapsed() < TIMEOUT, "it was read anew {round} times");
            sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(proxy.accepted(), 1, "each connection logs in once");
    discovery.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_slow_logins_is_asked_rarely() {
    let Some(program) = EtcdProgram::get("a_server_with_slow_logins_is_asked_rarely") else {
        return;
    };
    let registry = Box::pin(guarded(&program)).await;
    let proxy = Proxy::start(registry.endpoint.clone()).await.unwrap();
    proxy.plan_both(Plan::new().freeze());
    let mut config = config("metaq", "secret");
    config.call_timeout = Duration::from_secs(1);
    config.connect_timeout = TIMEOUT * 3;
    let discovery = EtcdDiscovery::with_config(&proxy.addr().to_string(), config).unwrap();
    let watched = topic();
    let mut watching = discovery.watch(&watched);
    assert!(timeout(Duration::from_secs(10), watching.as_mut()).await.is_err());
    let attempts = proxy.accepted();
    assert!(attempts <= 4, "{attempts} attempts in 10 s, after 1.5, 3.5 and 6.5 s");
    proxy.plan_both(Plan::new());
    let watch = timeout(TIMEOUT, watching).await.expect("it is let in").unwrap();
    assert_eq!(text(&watch.current()), "0@1000:1");
    discovery.close().await;
}
