//! The producer for MetaQ 1.4 (Metamorphosis) message brokers. Not for RocketMQ, which is another system.
//!
//! ```no_run
//! use metaq_producer::{Message, Producer, Topic, discovery::ZooKeeperDiscovery};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let producer = Producer::builder()
//!     .discovery(ZooKeeperDiscovery::new("127.0.0.1:2181/meta")?)
//!     .build()?;
//! let topic: Topic = "orders".parse()?;
//! producer.publish_topic(&topic).await?;
//!
//! let receipt = producer.send(Message::new(topic, "one coffee")).await?;
//! println!("stored in partition {} at {}", receipt.partition, receipt.offset);
//! # Ok(())
//! # }
//! ```
//!
//! A message's way: [`Message`] → [`PartitionSelector`] over the connected partitions of its topic → the
//! broker's connection → [`SendReceipt`], or a [`SendError`] that says whether the message may be stored.

#[doc = include_str!("../../README.md")]
#[cfg(doctest)]
struct ReadmeDoctests;

#[doc = include_str!("../../docs/migration.md")]
#[cfg(doctest)]
struct MigrationDoctests;

#[doc = include_str!("../../docs/delivery.md")]
#[cfg(doctest)]
struct DeliveryDoctests;

mod branch;
pub mod config;
mod deadline;
pub mod discovery;
pub mod error;
pub mod health;
pub mod interceptor;
#[cfg(feature = "json")]
pub mod json;
mod message;
#[cfg(feature = "metrics")]
mod metrics;
mod panics;
mod producer;
mod route;
pub mod selector;
mod send;
pub mod stats;
mod token;
pub mod transaction;
pub mod transport;
pub mod xa;

pub use config::{ProducerConfig, RetryPolicy};
pub use error::{BuildError, Outcome, PublishError, SendError, SendErrorKind};
pub use message::{Message, SendReceipt};
pub use metaq_protocol::{BrokerAddr, BrokerId, Partition, Status, Topic};
pub use producer::{Producer, ProducerBuilder};
pub use selector::PartitionSelector;
pub use send::{close::CloseReport, handle::SendHandle};
