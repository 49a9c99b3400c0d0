//! Test support for programs that use MetaQ 1.4 (Metamorphosis) brokers: an embedded [`Broker`] that needs
//! nothing installed and misbehaves on demand, an [`EmbeddedRegistry`] to find it, a fault-injecting
//! [`Proxy`], the [`conformance`] suite that every `Discovery` has to pass and, with the feature `peers`,
//! handles that run real ZooKeeper and etcd servers and Java brokers.
//!
//! # A test of a service
//!
//! [`Broker::discovery`] and [`Broker::transport`] are all that a producer needs. [`Broker::wait_for`] waits
//! for messages of the service; [`Broker::messages`] returns every message that was acknowledged:
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
//! - Without a port nothing depends on the network, so time may be paused:
//!   `#[tokio::test(start_paused = true)]`, with tokio's feature `test-util`, makes every timeout and pause
//!   pass immediately. A service that takes an address instead of a producer gets the address of a broker
//!   with a port: [`BrokerBuilder::start`] and [`Broker::addr`].
//! - [`Broker::kill`] ends the broker as a crash does, and returns a builder that starts it again.
//!   [`Broker::faults`] makes it refuse requests, stay silent, respond late, or break connections.
//! - Transactions need nothing else. [`Broker::messages`] includes the messages of a transaction once it has
//!   committed. [`Requests::transactions`] selects its steps, to record them or to make them fail.
//! - Several brokers that one producer finds have different ids and share one [`EmbeddedRegistry`].
//!
//! # Features
//!
//! - `zookeeper`, `etcd`: registration of the embedded broker there. Building the latter takes `protoc`.
//! - `peers`: real peers; see the module.

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

#[doc = include_str!("../../docs/embedded-broker.md")]
#[cfg(doctest)]
struct EmbeddedBrokerDoctests;
