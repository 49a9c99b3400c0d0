//! The producer for MetaQ 1.4 (Metamorphosis) message brokers. Not for RocketMQ, which is another system.
//!
//! ```no_run
//! use metaq_producer::{Message, Producer, Topic, ZooKeeperDiscovery};
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
//! A message's way: [`Message`] → [`PartitionSelector`] over the connected partitions of its topic → the broker's
//! connection → [`SendReceipt`], or a [`SendError`] that says whether the message may be stored.

#[doc = include_str!("../../README.md")]
#[cfg(doctest)]
struct ReadmeDoctests;

mod builder;
mod config;
mod deadline;
mod error;
mod health;
mod interceptor;
#[cfg(feature = "json")]
mod json;
mod message;
mod panics;
mod producer;
mod route;
mod selector;
mod send;
mod stats;
mod transaction;
mod xa;

pub use builder::ProducerBuilder;
#[cfg(feature = "config")]
pub use config::ConfigError;
pub use config::ProducerConfig;
pub use error::{
    build::BuildError,
    publish::{PublishError, PublishErrorKind},
    send::{FailedAttempt, Outcome, SendError, SendErrorKind},
};
pub use health::{
    BrokerHealth, ConnectionHealth, ConnectionPhase, NotReady, ProducerEvent, ProducerEvents, ProducerHealth,
    RegistryHealth, TopicHealth,
};
pub use interceptor::{CompletedSend, Interceptor};
#[cfg(feature = "json")]
pub use json::{JsonError, SendJsonError};
pub use message::{Message, SendReceipt};
pub use producer::Producer;
pub use selector::{
    KeyHashSelector, LatencySelector, PartitionSelector, RandomSelector, RendezvousSelector,
    RoundRobinSelector, SelectFn, StickySelector, key_hash, select_fn,
};
pub use send::retry::{Jitter, RetryPolicy};
pub use send::{close::CloseReport, handle::SendHandle};
pub use stats::remote::BrokerFigures;
pub use stats::{
    BrokerStats, LatencyStats, MessageCounts, OtherBrokerStats, ProducerStats, TopicStats, TransactionCounts,
};
pub use transaction::{
    CommitReceipt, Transaction, TransactionError, TransactionErrorKind, TransactionOptions,
    TransactionOutcome, TransactionReceipt,
};
pub use xa::{
    InvalidQualifier, PreparedTransaction, RecoveredTransaction, Recovery, UniqueQualifier, XaEnd, XaError,
    XaErrorCode, XaProducer, XaResource, XaStart, XaVote,
};

pub use metaq_discovery::*;
pub use metaq_protocol::{
    BrokerAddr, BrokerId, InvalidBrokerAddr, InvalidTopic, Partition, Status, Topic, TransactionId,
    XaTransactionId,
};
pub use metaq_transport::{ConnectionConfig, ConnectionStats, TcpTransport, Transport, TransportError};
#[cfg(feature = "tls")]
pub use metaq_transport::{TlsTransport, rustls};
