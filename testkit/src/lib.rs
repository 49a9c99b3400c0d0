//! [`Broker`]: crate::Broker
//! [`Faults`]: crate::Faults
//! [`EmbeddedRegistry`]: crate::EmbeddedRegistry
//! [`Proxy`]: crate::Proxy
//! [`conformance`]: crate::conformance
//! [`Broker::discovery`]: crate::Broker::discovery
//! [`Broker::transport`]: crate::Broker::transport
//! [`Broker::wait_for`]: crate::Broker::wait_for
//! [`Broker::messages`]: crate::Broker::messages
//! [`Broker::addr`]: crate::Broker::addr
//! [`Broker::kill`]: crate::Broker::kill
//! [`BrokerBuilder::start`]: crate::BrokerBuilder::start
//! [`Requests::transactions`]: crate::Requests::transactions
#![cfg_attr(feature = "peers", doc = "[`peers`]: crate::peers")]
//!
// The first definition of a link counts: on docs.rs those above replace the addresses of README.
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod broker;
pub mod conformance;
mod connector;
#[cfg(feature = "peers")]
pub mod peers;
mod port;
pub mod proxy;
mod registry;

/// The longest duration, about 30 years: longer ones are shortened to it so that no addition overflows.
const MAX_DURATION: std::time::Duration = std::time::Duration::from_secs(60 * 60 * 24 * 365 * 30);

#[cfg(any(feature = "zookeeper", feature = "etcd"))]
pub use broker::Registry;
pub use broker::{
    Broker, BrokerBuilder, Fault, Faults, Flush, Heuristic, PlannedFault, PutMonitor, Record, Requests,
    SeenRequest, Stored,
};
pub use connector::BrokerConnector;
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
