//! Every duration setting of every discovery: no value panics or leaves a discovery unusable.
#![cfg(all(feature = "etcd", feature = "mock", feature = "zookeeper"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use metaq_discovery::{
    Discovery, DiscoveryError, DiscoveryErrorKind, EtcdConfig, EtcdDiscovery, MockDiscovery, Topic,
    ZooKeeperConfig, ZooKeeperDiscovery,
};
use tokio::time::timeout;

const DURATIONS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_secs(1),
    Duration::from_secs(u32::MAX as u64),
    Duration::MAX,
];

/// The name of a setting, and access to it in its configuration.
type Setting<C> = (&'static str, fn(&mut C) -> &mut Duration);

type Made = Result<Arc<dyn Discovery>, DiscoveryError>;

/// Discoveries of each kind, each with one of its settings set to `duration`, and the name of that setting.
fn with_each_setting(duration: Duration, servers: &str) -> Vec<(&'static str, Made)> {
    let zookeeper: [Setting<ZooKeeperConfig>; 5] = [
        ("session_timeout", |config| &mut config.session_timeout),
        ("connect_timeout", |config| &mut config.connect_timeout),
        ("silence_timeout", |config| &mut config.silence_timeout),
        ("call_timeout", |config| &mut config.call_timeout),
        ("reread_interval", |config| &mut config.reread_interval),
    ];
    let zookeeper = zookeeper.into_iter().map(|(name, setting)| {
        let mut config = ZooKeeperConfig::default();
        config.connect_timeout = Duration::from_millis(300);
        *setting(&mut config) = duration;
        let made = ZooKeeperDiscovery::with_config(servers, config);
        (name, made.map(|discovery| Arc::new(discovery) as Arc<dyn Discovery>))
    });
    let etcd: [Setting<EtcdConfig>; 4] = [
        ("connect_timeout", |config| &mut config.connect_timeout),
        ("call_timeout", |config| &mut config.call_timeout),
        ("keep_alive", |config| &mut config.keep_alive),
        ("reread_interval", |config| &mut config.reread_interval),
    ];
    let etcd = etcd.into_iter().map(|(name, setting)| {
        let mut config = EtcdConfig::default();
        config.connect_timeout = Duration::from_millis(300);
        *setting(&mut config) = duration;
        let made = EtcdDiscovery::with_config(servers, config);
        (name, made.map(|discovery| Arc::new(discovery) as Arc<dyn Discovery>))
    });
    zookeeper.chain(etcd).collect()
}

#[tokio::test]
async fn no_duration_panics_and_zero_is_refused_by_name() {
    // Accepts connections and never responds.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let servers = listener.local_addr().unwrap().to_string();
    let topic = Topic::new("t").unwrap();
    for duration in DURATIONS {
        for (name, made) in with_each_setting(duration, &servers) {
            let discovery = match made {
                Ok(discovery) => discovery,
                Err(error) => {
                    assert_eq!((duration, error.kind()), (Duration::ZERO, DiscoveryErrorKind::Config));
                    assert_eq!(error.to_string(), format!("{name} must be greater than zero"));
                    continue;
                }
            };
            assert_ne!(duration, Duration::ZERO, "{name}");
            // No server responds: the call fails at its deadline, or waits forever as configured.
            match timeout(Duration::from_millis(600), discovery.watch(&topic)).await {
                Ok(watch) => assert_eq!(watch.unwrap_err().kind(), DiscoveryErrorKind::Unreachable, "{name}"),
                Err(_) => assert!(name == "connect_timeout" && duration >= Duration::from_secs(1), "{name}"),
            }
            discovery.close().await;
            assert_eq!(
                discovery.watch(&topic).await.unwrap_err().kind(),
                DiscoveryErrorKind::Closed,
                "{name}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_mock_accepts_any_delay() {
    let (mock, topic) = (MockDiscovery::new(), Topic::new("t").unwrap());
    for duration in DURATIONS {
        mock.set_delay(duration);
        let watch = mock.watch(&topic);
        if duration > Duration::from_secs(1) {
            assert!(timeout(Duration::from_secs(60), watch).await.is_err());
        } else {
            timeout(Duration::from_secs(2), watch).await.unwrap().unwrap();
        }
    }
    mock.set_delay(Duration::ZERO);
    mock.watch(&topic).now_or_never().unwrap().unwrap();
}
