//! The source of broker addresses.

use std::{error::Error, path::Path, time::Duration};

use metaq_producer::{
    BrokerAddr, ProducerBuilder, Topic,
    discovery::{Discovery as _, DiscoveryError, FileDiscovery, ZooKeeperConfig, ZooKeeperDiscovery},
    error::InvalidBrokerAddr,
};

use super::{Settings, access::Access, broker_tls::BrokerTls};
use crate::{
    exit_status::EXIT_USAGE,
    shutdown::{StopSignals, on_thread},
    stderr::{describe, print_error, print_message},
};

/// The source of broker addresses.
#[derive(Clone, Debug)]
pub(crate) enum Cluster {
    ZooKeeper(ZooKeeperDiscovery),
    Direct(BrokerAddr),
    File(FileDiscovery),
    #[cfg(feature = "etcd")]
    Etcd(metaq_producer::discovery::EtcdDiscovery),
}

impl Settings {
    /// Returns the cluster, and what its brokers are connected to with. A file that has credentials may be a
    /// named pipe, whose other end is waited for until a signal. A failure is printed; the error is the exit
    /// status.
    pub(crate) async fn open_cluster(
        &self,
        limit: Duration,
        signals: &mut StopSignals,
    ) -> Result<(Cluster, BrokerTls), u8> {
        let settings = self.clone();
        let reading = on_thread(move || {
            let opened = settings.cluster(limit);
            Ok(opened.and_then(|cluster| Ok((cluster, settings.broker_tls()?))))
        });
        match signals.unless_stopped(reading).await? {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(text)) => {
                print_message(&text);
                Err(EXIT_USAGE)
            }
            Err(error) => Err(print_error("the settings can't be read", &error)),
        }
    }

    /// Returns the cluster that the settings name. `limit` is the time after which the caller gives up: a
    /// registry has a little less, so that its reason is known by then. Nothing is connected to yet.
    ///
    /// # Errors
    /// A text about the setting that can't be used.
    fn cluster(&self, limit: Duration) -> Result<Cluster, String> {
        let Some(text) = self.get("cluster") else {
            return Err(
                "no cluster is named: use --cluster, METAQ_CLUSTER, or cluster in a file of settings"
                    .to_owned(),
            );
        };
        let limit = limit - (limit / 10).min(Duration::from_millis(100));
        self.open(text, limit)
    }

    fn open(&self, text: &str, limit: Duration) -> Result<Cluster, String> {
        let unusable = self.unusable("cluster");
        if text.starts_with("zk://") {
            let access = Access::read(self, "zk_auth")?;
            let mut config = ZooKeeperConfig::default();
            config.connect_timeout = limit;
            config.credentials = access.credentials;
            #[cfg(feature = "tls")]
            {
                config.tls = access.tls;
            }
            self.ensure_tls_is_built()?;
            let discovery = ZooKeeperDiscovery::with_config(text, config);
            let described = discovery.map_err(|error: DiscoveryError| describe(&error));
            described.map(Cluster::ZooKeeper).map_err(unusable)
        } else if text.starts_with("meta://") {
            Access::refuse(self, "one broker without a registry")?;
            let parsed = text.parse().map_err(|error: InvalidBrokerAddr| error.to_string());
            parsed.map(Cluster::Direct).map_err(unusable)
        } else if text.starts_with("etcd://") {
            self.etcd(text, limit)
        } else if let Some(path) = text.strip_prefix("file:").filter(|path| !path.is_empty()) {
            Access::refuse(self, "a file of brokers")?;
            if Path::new(path).is_dir() {
                return Err(unusable(format!("{path} is a directory, not a file of brokers")));
            }
            Ok(Cluster::File(FileDiscovery::new(path)))
        } else {
            // The text may have a secret in front of an @.
            let reason = "it is no cluster; expected zk://HOST:PORT,HOST:PORT/ROOT, \
                          etcd://HOST:PORT,HOST:PORT/ROOT, meta://HOST:PORT or file:PATH";
            Err(unusable(reason.to_owned()))
        }
    }

    #[cfg(feature = "etcd")]
    fn etcd(&self, text: &str, limit: Duration) -> Result<Cluster, String> {
        let access = Access::read(self, "etcd_auth")?;
        let mut config = metaq_producer::discovery::EtcdConfig::default();
        config.connect_timeout = limit;
        config.credentials = access.credentials;
        #[cfg(feature = "tls")]
        {
            config.tls = access.tls;
        }
        self.ensure_tls_is_built()?;
        let discovery = metaq_producer::discovery::EtcdDiscovery::with_config(text, config);
        let described = discovery.map_err(|error| describe(&error));
        described.map(Cluster::Etcd).map_err(self.unusable("cluster"))
    }

    #[cfg(not(feature = "etcd"))]
    fn etcd(&self, _: &str, _: Duration) -> Result<Cluster, String> {
        let reason = "this metaq was built without etcd; cargo install it with --features etcd";
        Err(self.unusable("cluster")(reason.to_owned()))
    }

    /// Fails when the settings ask for TLS, and the command was built without it.
    fn ensure_tls_is_built(&self) -> Result<(), String> {
        if !cfg!(feature = "tls") && self.get("tls.ca").is_some() {
            let reason = "this metaq was built without TLS; cargo install it with --features tls";
            return Err(self.unusable("tls.ca")(reason.to_owned()));
        }
        Ok(())
    }
}

impl Cluster {
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

    /// Returns the status for a registry that can't be used, where it is not that of other registries: a file
    /// that the command line names, and that is missing or malformed. `cause` is the error of the registry.
    pub(crate) fn status_of_cause(&self, cause: Option<&(dyn Error + 'static)>) -> Option<u8> {
        let cause = cause.filter(|cause| cause.is::<DiscoveryError>());
        cause.filter(|_| matches!(self, Self::File(_))).map(|_| EXIT_USAGE)
    }

    /// Returns whether the topics of the cluster are listed somewhere.
    pub(crate) fn has_registry(&self) -> bool {
        !matches!(self, Self::Direct(_))
    }

    /// Returns the topics of the registry; `None` where there is none, or it can't be read.
    pub(crate) async fn topics(&self) -> Option<Vec<Topic>> {
        match self {
            Self::ZooKeeper(discovery) => discovery.topics().await.ok(),
            #[cfg(feature = "etcd")]
            Self::Etcd(discovery) => discovery.topics().await.ok(),
            Self::File(discovery) => discovery.topics().await.ok(),
            Self::Direct(_) => None,
        }
    }
}
