//! The handle of a broker: its address, id, faults and counts of connections.

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
    connector::ByteStream,
};

/// A broker that speaks the whole protocol of MetaQ 1.4 on a TCP port of the loopback interface, or over any
/// stream of bytes. It keeps its messages in memory, or on disk as a Java broker does.
///
/// It answers and refuses as a Java broker does, with the same texts, and the Java client takes it for one.
/// The guide [embedded broker] lists the intended differences, of which [`compat`](BrokerBuilder::compat)
/// removes some. [`faults`](Self::faults) make it misbehave.
///
/// [embedded broker]: https://docs.rs/metaq-producer/latest/metaq_producer/guides/embedded_broker/index.html
///
/// Dropping it ends it and its connections, as if its process were killed. [`kill`](Self::kill) does the same
/// and waits until its port is free; [`shut_down`](Self::shut_down) ends it in order.
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
    pub(super) streams: mpsc::UnboundedSender<Box<dyn ByteStream>>,
    pub(super) accepting: JoinHandle<()>,
    pub(super) stop: Option<oneshot::Sender<()>>,
    /// The builder that starts it again on the same port.
    pub(super) builder: BrokerBuilder,
    #[cfg(any(feature = "zookeeper", feature = "etcd"))]
    pub(super) registrations: Vec<Registration>,
}

impl Broker {
    /// Returns a builder of a broker with the id 0, any free port and no topic.
    #[must_use]
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::new()
    }

    /// Returns the address on which the broker listens.
    #[must_use]
    pub fn addr(&self) -> &BrokerAddr {
        &self.shared.addr
    }

    /// Returns the id of the broker.
    #[must_use]
    pub fn id(&self) -> BrokerId {
        self.shared.id
    }

    /// Returns the faults of the broker.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Returns the number of connections that were made to the broker since it started.
    #[must_use]
    pub fn accepted_connections(&self) -> usize {
        self.shared.accepted.load(Ordering::Acquire)
    }

    /// Returns the number of connections that are open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }
}
