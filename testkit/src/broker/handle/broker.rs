//! The handle of a broker: what is known of it at any time.

use std::sync::{Arc, atomic::Ordering};

use metaq_protocol::{BrokerAddr, BrokerId};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

#[cfg(any(feature = "zookeeper", feature = "etcd"))]
use crate::broker::registration::Registration;
use crate::{
    broker::{builder::BrokerBuilder, faults::Faults, shared::BrokerShared},
    connector::Io,
};

/// A broker that speaks the whole protocol of MetaQ 1.4 on a TCP port of the loopback interface, or over any stream of
/// bytes. It keeps its messages in memory, or on disk as a Java broker does.
///
/// It answers and refuses as a real broker does, with the same texts, and the Java client takes it for one. Where it
/// differs on purpose, `docs/embedded-broker.md` says so; [`compat`](BrokerBuilder::compat) has it differ less. It does
/// wrong what its [`faults`](Self::faults) say.
///
/// It ends when it is dropped, and its connections with it, as if its process were killed. [`kill`](Self::kill) does the same
/// and waits until its port is free; [`shut_down`](Self::shut_down) is the orderly way.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use metaq_testkit::Broker;
///
/// let broker = Broker::builder().topic("orders", 4).start().await?;
/// println!("listening on {}", broker.addr());
/// assert!(broker.messages("orders").is_empty());
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Broker {
    pub(in crate::broker) shared: Arc<BrokerShared>,
    pub(super) streams: mpsc::UnboundedSender<Box<dyn Io>>,
    pub(super) accepting: JoinHandle<()>,
    pub(super) stop: Option<oneshot::Sender<()>>,
    /// The builder that starts it again on the same port.
    pub(super) builder: BrokerBuilder,
    #[cfg(any(feature = "zookeeper", feature = "etcd"))]
    pub(super) registrations: Vec<Registration>,
}

impl Broker {
    /// A broker with the id 0, any free port and no topic, unless told otherwise.
    #[must_use]
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::new()
    }

    /// The address that the broker listens on.
    #[must_use]
    pub fn addr(&self) -> &BrokerAddr {
        &self.shared.addr
    }

    /// The broker's id.
    #[must_use]
    pub fn id(&self) -> BrokerId {
        self.shared.id
    }

    /// The faults of the broker.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The number of connections that were made to the broker since it started.
    #[must_use]
    pub fn accepted_connections(&self) -> usize {
        self.shared.accepted.load(Ordering::Acquire)
    }

    /// The number of connections that are open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }
}
