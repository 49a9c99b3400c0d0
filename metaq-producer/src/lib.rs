//! [`Producer`]: crate::Producer
//! [`send`]: crate::Producer::send
//! [`enqueue`]: crate::Producer::enqueue
//! [`send_all`]: crate::Producer::send_all
//! [`try_send`]: crate::Producer::try_send
//! [`SendHandle`]: crate::SendHandle
//! [`outcome`]: crate::SendError::outcome
//! [`Outcome`]: crate::Outcome
//! [`NotSent`]: crate::Outcome::NotSent
//! [`Rejected`]: crate::Outcome::Rejected
//! [`Unknown`]: crate::Outcome::Unknown
//! [gives it back]: crate::SendError::into_message
//! [`status`]: crate::SendError::status
//! [`send_timeout`]: crate::ProducerConfig::send_timeout
//! [`ordered`]: crate::ProducerConfig::ordered
//! [`PartitionSelector`]: crate::PartitionSelector
//! [`selector`]: crate::selector
//! [`RetryPolicy`]: crate::RetryPolicy
//! [`Transaction`]: crate::transaction::Transaction
//! [`XaProducer`]: crate::xa::XaProducer
//! [`health`]: crate::Producer::health
//! [`ready`]: crate::Producer::ready
//! [`events`]: crate::Producer::events
//! [`stats`]: crate::Producer::stats
//! [`close`]: crate::Producer::close
//! [delivery]: crate::guides::delivery
//! [configuration]: crate::guides::configuration
//! [transactions]: crate::guides::transactions
//! [operations]: crate::guides::operations
//! [migration]: crate::guides::migration
//! [compatibility]: crate::guides::compatibility
//! [embedded broker]: crate::guides::embedded_broker
//! [cli]: crate::guides::cli
//! [performance]: crate::guides::performance
//! [reliability]: crate::guides::reliability
//! [protocol]: crate::guides::protocol
//! [registry]: crate::guides::registry
//! [Java client]: crate::guides::java_client
//!
// The first definition of a link counts: on docs.rs those above replace the addresses of README.
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod body;
mod branch;
pub mod config;
mod deadline;
pub mod discovery;
pub mod error;
pub mod failure;
#[cfg(doc)]
pub mod guides;
pub mod health;
pub mod inspect;
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
