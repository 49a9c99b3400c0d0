//! For tests of programs that use MetaQ 1.4 (Metamorphosis) brokers: an embedded [`Broker`] that needs nothing
//! installed and does wrong what it is told to, an [`EmbeddedRegistry`] to find it, a [`Proxy`] that spoils connections,
//! the [`conformance`] suite that every `Discovery` has to pass and, with the feature `peers`, handles that run real
//! ZooKeeper and etcd servers and Java brokers.
//!
//! # A test of a service
//!
//! [`Broker::discovery`] and [`Broker::transport`] are all that a producer needs. [`Broker::wait_for`] waits for what the
//! service sends; once it was acknowledged, [`Broker::messages`] has it:
//!
//! ```
//! use metaq_producer::{Message, Producer, Topic};
//! use metaq_testkit::Broker;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // In a function with #[tokio::test]:
//! let broker = Broker::builder().topic("orders", 4).start_without_port()?;
//! let producer = Producer::builder().discovery(broker.discovery()).transport(broker.transport()).build()?;
//!
//! // What the service does:
//! let orders: Topic = "orders".parse()?;
//! producer.publish_topic(&orders).await?;
//! producer.send(Message::new(orders, "one coffee").with_attribute("table 7")).await?;
//!
//! let stored = broker.wait_for("orders", 1).await?;
//! assert_eq!(stored[0].payload, "one coffee");
//! assert_eq!(stored[0].attribute.as_deref(), Some("table 7"));
//! # Ok(())
//! # }
//! ```
//!
//! - Without a port nothing depends on the network, so that time may be paused: `#[tokio::test(start_paused = true)]`, with
//!   tokio's feature `test-util`, makes every timeout and pause pass at once. A service that takes an address instead of a
//!   producer is given that of a broker with a port: [`BrokerBuilder::start`] and [`Broker::addr`].
//! - [`Broker::kill`] ends the broker as a crash does, and returns what starts it again. [`Broker::faults`] has it refuse, be
//!   silent or slow, or break connections.
//! - Transactions need nothing else. What a transaction holds is not among [`Broker::messages`] before it was committed. The
//!   steps can be recorded, or made to fail, by [`Requests::transactions`].
//! - Several brokers that a producer finds together have ids of their own and one [`EmbeddedRegistry`].
//!
//! # Features
//!
//! - `zookeeper`, `etcd`: the embedded broker registers there. The latter is built with `protoc`.
//! - `peers`: real peers; see the module.

mod broker;
pub mod conformance;
mod connector;
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

#[doc = include_str!("../../docs/embedded-broker.md")]
#[cfg(doctest)]
struct EmbeddedBrokerDoctests;
