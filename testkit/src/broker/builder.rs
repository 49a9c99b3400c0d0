//! The settings of a broker.

use std::{
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
    /// Keeps others of this crate from taking the port.
    pub(super) claim: Option<Arc<Port>>,
    pub(super) topics: Vec<(String, u32)>,
    pub(super) default_partitions: u32,
    pub(super) folder: Option<PathBuf>,
    pub(super) log: LogSettings,
    pub(super) capacity: Option<u64>,
    pub(super) seed: u64,
    pub(super) settings: Settings,
    pub(super) embedded: Vec<EmbeddedRegistry>,
    /// The registry of a former broker's own, by which clients know it.
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

    /// The broker's id. Default 0.
    #[must_use]
    pub fn id(mut self, id: i32) -> Self {
        self.id = BrokerId(id);
        self
    }

    /// The TCP port. Default 0, which takes a free one outside of the range from which the kernel serves outgoing
    /// connections, so that a later broker can take it again.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        (self.port, self.claim) = (port, None);
        self
    }

    /// The host in the broker's address, as it stands in its error texts and in a registry. Default `127.0.0.1`. It listens
    /// on the loopback interface in any case.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// Adds a topic with so many partitions. A `*` in its name stands for any text; a topic that only such a name takes
    /// has the [default number](Self::default_partitions) of partitions.
    #[must_use]
    pub fn topic(mut self, name: impl AsRef<str>, partitions: u32) -> Self {
        self.topics.push((name.as_ref().to_owned(), partitions));
        self
    }

    /// The number of partitions of topics that aren't named themselves. Default 1.
    #[must_use]
    pub fn default_partitions(mut self, partitions: u32) -> Self {
        self.default_partitions = partitions.max(1);
        self
    }

    /// Keeps messages and prepared transactions in this folder instead of in memory; what is there already is taken over.
    /// The layout is that of a Java broker's `dataPath`, which can open the folder when this broker doesn't run.
    /// Prepared transactions are in a folder of their own, `embedded.metaq-0`, which a Java broker takes for an empty topic.
    ///
    /// The folder belongs to one broker at a time: a second one, in whichever process, can't be started on it. Of a Java broker
    /// that runs on it nothing is known.
    ///
    /// A message is written before its put is answered, and so outlives the process; the disk has it for certain after
    /// [`Broker::flush`](crate::Broker::flush) and [`Broker::shut_down`](crate::Broker::shut_down).
    #[must_use]
    pub fn data_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.folder = Some(folder.as_ref().to_owned());
        self
    }

    /// The time at which messages become readable. Default [`Flush::AtOnce`].
    #[must_use]
    pub fn flush(mut self, flush: Flush) -> Self {
        self.log.flush = flush;
        self
    }

    /// After how many bytes a partition gets a new segment. Default 1 GiB, as shipped (`maxSegmentSize`).
    #[must_use]
    pub fn max_segment_size(mut self, bytes: u64) -> Self {
        self.log.max_segment = bytes.max(1);
        self
    }

    /// The largest number of bytes that a `get` returns. Default 1 MiB, as shipped (`maxTransferSize`): a message that takes
    /// more can't be read, and hides what is behind it.
    #[must_use]
    pub fn max_transfer_size(mut self, bytes: usize) -> Self {
        self.settings.max_transfer = bytes.max(1);
        self
    }

    /// The longest timeout of a transaction. Default 60 s, as shipped (`maxTxTimeoutInSeconds`); a longer one is cut to it.
    #[must_use]
    pub fn max_transaction_timeout(mut self, timeout: Duration) -> Self {
        self.settings.max_transaction = timeout.min(crate::LONGEST);
        self
    }

    /// After how long without a request a connection is closed. Default 300 s, as a Java broker.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = timeout.min(crate::LONGEST);
        self
    }

    /// The time that [`Broker::wait_for`](crate::Broker::wait_for) and [`Broker::wait_until`](crate::Broker::wait_until) wait at
    /// most, by tokio's clock. Default 30 s.
    #[must_use]
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.settings.wait_timeout = timeout.min(crate::LONGEST);
        self
    }

    /// The largest length of a line and of a body. Default 64 KiB and 64 MiB; beyond that the connection is closed.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// The largest number of bytes of all logs together; a segment that is dropped makes room again. Then puts are refused as
    /// by a Java broker whose disk is full: with status 500 and no detail. Default no limit.
    #[must_use]
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// The seed of everything that is drawn at random: the partitions of puts that leave the choice to the broker, and
    /// [faults](super::Faults) with a chance. Default 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Has the defects of the Java broker, too, instead of behaving well:
    ///
    /// - lines and bodies have no limit,
    /// - every word that begins with `v` is taken for `version`, except `value`, and with `q` for `quit`,
    /// - a line that can't be right is refused only when the body that it announces has come,
    /// - `stats` counts what a transaction brings to a partition as one message.
    #[must_use]
    pub fn compat(mut self, compat: bool) -> Self {
        self.settings.compat = compat;
        self
    }

    /// Registers the broker in a registry of the test's own process. May be repeated. Give each broker of a registry an
    /// [id](Self::id) of its own: one with the id of a live broker can't be started.
    #[must_use]
    pub fn register_with(mut self, registry: &EmbeddedRegistry) -> Self {
        if !self.embedded.iter().any(|other| other.is_same(registry)) {
            self.embedded.push(registry.clone());
        }
        self
    }

    /// Registers the broker as a Java broker does, and keeps it registered until it is shut down. May be repeated. Another
    /// live broker with the same id is an error of [`start`](Self::start); see [`Registry`](crate::Registry).
    #[cfg(any(feature = "zookeeper", feature = "etcd"))]
    #[must_use]
    pub fn register_in(mut self, registry: super::registration::Registry) -> Self {
        self.registries.push(registry);
        self
    }
}
