//! The builder of a broker.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use metaq_protocol::{BrokerId, Limits};

use super::{
    settings::Settings,
    store::{Flush, LogSettings},
};
use crate::{EmbeddedRegistry, port::Port};

/// The settings of a [`Broker`](crate::Broker); made by [`Broker::builder`](crate::Broker::builder).
#[derive(Clone, Debug)]
pub struct BrokerBuilder {
    pub(super) id: BrokerId,
    pub(super) host: String,
    pub(super) port: u16,
    /// The interface to listen on.
    pub(super) listen: IpAddr,
    /// Reserves the port within this crate.
    pub(super) claim: Option<Arc<Port>>,
    pub(super) topics: Vec<(String, u32)>,
    pub(super) default_partitions: u32,
    pub(super) folder: Option<PathBuf>,
    pub(super) log: LogSettings,
    pub(super) capacity: Option<u64>,
    pub(super) seed: u64,
    pub(super) settings: Settings,
    pub(super) embedded: Vec<EmbeddedRegistry>,
    /// The own registry of a killed broker, by which its clients find the next one.
    pub(super) own_registry: Option<EmbeddedRegistry>,
    #[cfg(any(feature = "zookeeper", feature = "etcd"))]
    pub(super) registries: Vec<super::registration::Registry>,
}

impl BrokerBuilder {
    pub(super) fn new() -> Self {
        Self {
            id: BrokerId(0),
            host: "127.0.0.1".to_owned(),
            port: 0,
            listen: Ipv4Addr::LOCALHOST.into(),
            claim: None,
            topics: Vec::new(),
            default_partitions: 1,
            folder: None,
            log: LogSettings { flush: Flush::AtOnce, max_segment: 1 << 30 },
            capacity: None,
            seed: 0,
            settings: Settings {
                max_transfer: 1024 * 1024,
                max_transaction: Duration::from_secs(60),
                idle_timeout: Duration::from_secs(300),
                wait_timeout: Duration::from_secs(30),
                limits: Limits::default(),
                compat: false,
            },
            embedded: Vec::new(),
            own_registry: None,
            #[cfg(any(feature = "zookeeper", feature = "etcd"))]
            registries: Vec::new(),
        }
    }

    /// Sets the id of the broker. Default 0.
    #[must_use]
    pub fn id(mut self, id: i32) -> Self {
        self.id = BrokerId(id);
        self
    }

    /// Sets the TCP port. Default 0, which takes a free one outside the range that the kernel uses for
    /// outgoing connections, so that a later broker can take it again.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        (self.port, self.claim) = (port, None);
        self
    }

    /// Sets the address of the interface that the broker listens on. Default the loopback interface. Who can
    /// reach it can do everything: brokers have no passwords.
    #[must_use]
    pub fn listen(mut self, interface: IpAddr) -> Self {
        self.listen = interface;
        self
    }

    /// Sets the host in the broker's address, which appears in its error texts and in registries. Default
    /// `127.0.0.1`, whatever it [listens](Self::listen) on.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// Adds a topic with this number of partitions. A `*` in its name matches any text; a topic that only a
    /// pattern matches has the [default number](Self::default_partitions) of partitions.
    #[must_use]
    pub fn topic(mut self, name: impl AsRef<str>, partitions: u32) -> Self {
        self.topics.push((name.as_ref().to_owned(), partitions));
        self
    }

    /// Sets the number of partitions of topics that only a pattern matches. Default 1.
    #[must_use]
    pub fn default_partitions(mut self, partitions: u32) -> Self {
        self.default_partitions = partitions.max(1);
        self
    }

    /// Keeps messages and prepared transactions in this folder instead of in memory, and loads what the
    /// folder holds already. The layout is that of a Java broker's `dataPath`: a Java broker can open the
    /// folder when this broker doesn't run. Prepared transactions are in a separate folder,
    /// `embedded.metaq-0`, which a Java broker takes for an empty topic.
    ///
    /// The folder belongs to one broker at a time: a second embedded broker fails to start on it, in any
    /// process. A Java broker that uses the folder is not detected.
    ///
    /// A message is written before its put is acknowledged, so it survives the process; it is certainly on
    /// the disk after [`Broker::flush`](crate::Broker::flush) and
    /// [`Broker::shut_down`](crate::Broker::shut_down).
    #[must_use]
    pub fn data_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.folder = Some(folder.as_ref().to_owned());
        self
    }

    /// Sets when messages become readable. Default [`Flush::AtOnce`].
    #[must_use]
    pub fn flush(mut self, flush: Flush) -> Self {
        self.log.flush = flush;
        self
    }

    /// Sets the size in bytes at which a partition begins a new segment. Default 1 GiB, as shipped
    /// (`maxSegmentSize`).
    #[must_use]
    pub fn max_segment_size(mut self, bytes: u64) -> Self {
        self.log.max_segment = bytes.max(1);
        self
    }

    /// Sets the largest number of bytes that a `get` returns. Default 1 MiB, as shipped (`maxTransferSize`):
    /// a larger message can't be read, and blocks reading the messages behind it.
    #[must_use]
    pub fn max_transfer_size(mut self, bytes: usize) -> Self {
        self.settings.max_transfer = bytes.max(1);
        self
    }

    /// Sets the longest timeout of a transaction. Default 60 s, as shipped (`maxTxTimeoutInSeconds`); longer
    /// ones are shortened to it.
    #[must_use]
    pub fn max_transaction_timeout(mut self, timeout: Duration) -> Self {
        self.settings.max_transaction = timeout.min(crate::MAX_DURATION);
        self
    }

    /// Sets the time without a request after which a connection is closed. Default 300 s, as in a Java
    /// broker.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = timeout.min(crate::MAX_DURATION);
        self
    }

    /// Sets the time limit of [`Broker::wait_for`](crate::Broker::wait_for) and
    /// [`Broker::wait_until`](crate::Broker::wait_until), by tokio's clock. Default 30 s.
    #[must_use]
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.settings.wait_timeout = timeout.min(crate::MAX_DURATION);
        self
    }

    /// Sets the largest length of a line and of a body; longer ones close the connection. Default 64 KiB and
    /// 64 MiB.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Sets the largest number of bytes of all logs together; dropping a segment frees its bytes. At the
    /// limit puts are refused as by a Java broker whose disk is full: with status 500 and no detail. Default
    /// no limit.
    #[must_use]
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// Sets the seed of all random choices: the partitions of puts that leave the choice to the broker, and
    /// [faults](super::Faults) with a chance. Default 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Adds the defects of the Java broker:
    ///
    /// - lines and bodies have no limit,
    /// - every word that begins with `v`, except `value`, means `version`, and every word that begins with
    ///   `q` means `quit`,
    /// - a malformed line is refused only once the body that it announces has arrived,
    /// - `stats` counts all messages that a transaction adds to a partition as one.
    #[must_use]
    pub fn compat(mut self, compat: bool) -> Self {
        self.settings.compat = compat;
        self
    }

    /// Registers the broker in a registry in the process of the test. May be repeated. Brokers of one
    /// registry need different [ids](Self::id): a broker with the id of a live one fails to start.
    #[must_use]
    pub fn register_with(mut self, registry: &EmbeddedRegistry) -> Self {
        if !self.embedded.iter().any(|other| other.is_same(registry)) {
            self.embedded.push(registry.clone());
        }
        self
    }

    /// Registers the broker as a Java broker does, and keeps it registered until it is shut down. May be
    /// repeated. [`start`](Self::start) fails if another live broker has the same id; see
    /// [`Registry`](crate::Registry).
    #[cfg(any(feature = "zookeeper", feature = "etcd"))]
    #[must_use]
    pub fn register_in(mut self, registry: super::registration::Registry) -> Self {
        self.registries.push(registry);
        self
    }
}
