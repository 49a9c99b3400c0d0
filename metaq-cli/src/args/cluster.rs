//! The text that names a cluster on the command line.

use std::{str::FromStr, time::Duration};

use metaq_producer::{
    BrokerAddr, ProducerBuilder,
    discovery::{DiscoveryError, FileDiscovery, ZooKeeperConfig, ZooKeeperDiscovery},
    error::InvalidBrokerAddr,
};

/// Limit on the time until a registry answers; short, because a person waits for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The source of broker addresses.
#[derive(Clone, Debug)]
pub(crate) enum Cluster {
    ZooKeeper(ZooKeeperDiscovery),
    Direct(BrokerAddr),
    File(FileDiscovery),
    #[cfg(feature = "etcd")]
    Etcd(metaq_producer::discovery::EtcdDiscovery),
}

impl FromStr for Cluster {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("zk://") {
            let mut config = ZooKeeperConfig::default();
            config.connect_timeout = CONNECT_TIMEOUT;
            let discovery = ZooKeeperDiscovery::with_config(text, config);
            discovery.map(Self::ZooKeeper).map_err(|error: DiscoveryError| error.to_string())
        } else if text.starts_with("meta://") {
            text.parse().map(Self::Direct).map_err(|error: InvalidBrokerAddr| error.to_string())
        } else if text.starts_with("etcd://") {
            Self::etcd(text)
        } else if let Some(path) = text.strip_prefix("file:").filter(|path| !path.is_empty()) {
            Ok(Self::File(FileDiscovery::new(path)))
        } else {
            Err("expected zk://HOST:PORT,HOST:PORT/ROOT, etcd://HOST:PORT,HOST:PORT/ROOT, \
                 meta://HOST:PORT or file:PATH"
                .to_owned())
        }
    }
}

impl Cluster {
    #[cfg(feature = "etcd")]
    fn etcd(text: &str) -> Result<Self, String> {
        let mut config = metaq_producer::discovery::EtcdConfig::default();
        config.connect_timeout = CONNECT_TIMEOUT;
        let discovery = metaq_producer::discovery::EtcdDiscovery::with_config(text, config);
        discovery.map(Self::Etcd).map_err(|error| error.to_string())
    }

    #[cfg(not(feature = "etcd"))]
    fn etcd(_: &str) -> Result<Self, String> {
        Err("this metaq was built without etcd; cargo install it with --features etcd".to_owned())
    }

    /// Sets the source of broker addresses on `builder`.
    pub(crate) fn configure(self, builder: ProducerBuilder) -> ProducerBuilder {
        match self {
            Self::ZooKeeper(discovery) => builder.discovery(discovery),
            #[cfg(feature = "etcd")]
            Self::Etcd(discovery) => builder.discovery(discovery),
            Self::File(discovery) => builder.discovery(discovery),
            Self::Direct(broker) => builder.broker(broker),
        }
    }
}
