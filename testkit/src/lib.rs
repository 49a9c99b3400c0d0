//! For tests of programs that use MetaQ 1.4 (Metamorphosis) brokers: an embedded [`Broker`] that needs nothing
//! installed and does wrong what it is told to, an [`EmbeddedRegistry`] to find it, a [`Proxy`] that spoils connections,
//! the [`conformance`] suite that every `Discovery` has to pass and, with the feature `peers`, handles that run real
//! ZooKeeper and etcd servers and Java brokers.
//!
//! # Features
//!
//! - `zookeeper`, `etcd`: the embedded broker registers there. The latter is built with `protoc`.
//! - `peers`: real peers; see the module.

mod broker;
pub mod conformance;
#[cfg(feature = "peers")]
pub mod peers;
mod port;
pub mod proxy;
mod registry;

/// Longer durations are cut to this one, about 30 years, so that no addition overflows.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(60 * 60 * 24 * 365 * 30);

#[cfg(any(feature = "zookeeper", feature = "etcd"))]
pub use broker::Registry;
pub use broker::{
    Broker, BrokerBuilder, BrokerConnector, Fault, Faults, Flush, Heuristic, Plan, PutMonitor, Record,
    Requests, SeenRequest, Stored,
};
#[doc(no_inline)]
pub use metaq_discovery::{MockDiscovery, TopicView};
#[doc(no_inline)]
pub use metaq_protocol::{
    BrokerAddr, BrokerId, Command, Limits, Opaque, Partition, Status, Topic, TransactionAction,
    TransactionId, XaTransactionId,
};
#[doc(no_inline)]
pub use metaq_transport::{ConnectionConfig, StreamTransport};
pub use port::unused_addr;
pub use proxy::Proxy;
pub use registry::{EmbeddedRegistry, RegistryFault};
