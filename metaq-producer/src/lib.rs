//! A producer for MetaQ 1.4 (Metamorphosis) message brokers. Not for RocketMQ, which is another system.
//!
//! A [`Producer`] finds the brokers of a topic in a registry, keeps connections to them, and sends
//! [`Message`]s to their partitions. It reports of every message whether it was stored.
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
//! # One message and many
//!
//! | call | returns when | use it for |
//! |---|---|---|
//! | [`send`](Producer::send) | the message has its outcome | one message at a time |
//! | [`enqueue`](Producer::enqueue) | the message is accepted; the [`SendHandle`] has the outcome | thousands in flight from one task |
//! | [`send_all`](Producer::send_all) | all messages have their outcome | a batch |
//! | [`try_send`](Producer::try_send) | immediately, accepted or refused | callers that must not wait |
//!
//! ```
//! # use metaq_producer::{Message, Producer, Topic};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = metaq_testkit::Broker::builder().topic("orders", 4).start_without_port()?;
//! # let producer = Producer::builder().discovery(broker.discovery()).transport(broker.transport()).build()?;
//! # let topic: Topic = "orders".parse()?;
//! # producer.publish_topic(&topic).await?;
//! let mut handles = Vec::new();
//! for n in 0..1000 {
//!     handles.push(producer.enqueue(Message::new(topic.clone(), format!("order {n}"))).await?);
//! }
//! for handle in handles {
//!     handle.await?;
//! }
//! # assert_eq!(broker.wait_for("orders", 1000).await?.len(), 1000);
//! # Ok(())
//! # }
//! ```
//!
//! # Outcomes
//!
//! `Ok` means that the broker stored the message. An error's [`outcome`](SendError::outcome) says what is
//! known of a message that was not acknowledged:
//!
//! | [`Outcome`] | the message | what to do |
//! |---|---|---|
//! | [`NotSent`](Outcome::NotSent) | is not stored; the error [gives it back](SendError::into_message) | send it again, or report it |
//! | [`Rejected`](Outcome::Rejected) | is not stored; the error gives it back | look at the [status](SendError::status) |
//! | [`Unknown`](Outcome::Unknown) | may be stored | send it again only if duplicates do no harm |
//!
//! Each message has exactly one outcome by its deadline, [`send_timeout`](ProducerConfig::send_timeout), 3 s
//! by default. By default a message is sent again only when it is certainly not stored; [`RetryPolicy`]
//! changes that.
//!
//! # Order
//!
//! Messages that are awaited one after another are stored in that order in each partition. Messages in flight
//! at the same time are not, because brokers reorder them, unless [`ordered`](ProducerConfig::ordered) is
//! set.
//!
//! # Back-pressure
//!
//! At most 16,384 messages and 64 MiB are without an outcome, by default; `send` and `enqueue` wait for
//! capacity in the order of the calls. A slow broker gets half of it at most, so the others go on.
//!
//! # Partitions
//!
//! A [`PartitionSelector`] chooses the partition of each message: in turn, at random, by key or by latency
//! ([`selector`]), by a closure, or by a type of your own.
//!
//! # Transactions
//!
//! A local [transaction](transaction::Transaction) has one broker store several messages together, or not at
//! all; an [XA transaction](xa::XaProducer) makes them a part of a distributed one.
//!
//! # Closing
//!
//! [`close`](Producer::close) waits for outcomes until its timeout, and returns an account with the messages
//! that were not sent. A program that ends without it may lose what is in flight.
//!
//! # In tests
//!
//! The crate `metaq-testkit` has a broker that runs within a test, with faults on demand; the feature `mock`
//! has a registry under the test's control.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `zookeeper` (default) | `discovery::ZooKeeperDiscovery` |
//! | `etcd` | `discovery::EtcdDiscovery`; building it takes `protoc` |
//! | `file` | `discovery::FileDiscovery`, brokers in a TOML or JSON file |
//! | `mock` | `discovery::MockDiscovery`, a registry for tests |
//! | `tls` | connections to brokers and registries over TLS |
//! | `serde` | settings as a part of a program's own |
//! | `config` | settings from TOML, from the environment, and by name |
//! | `json` | values as JSON messages |
//! | `metrics` | figures for the `metrics` facade |

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
