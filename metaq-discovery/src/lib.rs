//! [`Discovery`]: crate::Discovery
//! [`StaticDiscovery`]: crate::StaticDiscovery
//! [`TopicWatch`]: crate::TopicWatch
//! [`TopicView`]: crate::TopicView
//! [`events`]: crate::Discovery::events
//! [`TopicWatch::channel`]: crate::TopicWatch::channel
#![cfg_attr(feature = "etcd", doc = "[`EtcdDiscovery`]: crate::EtcdDiscovery")]
#![cfg_attr(feature = "file", doc = "[`FileDiscovery`]: crate::FileDiscovery")]
#![cfg_attr(feature = "zookeeper", doc = "[`ZooKeeperDiscovery`]: crate::ZooKeeperDiscovery")]
#![cfg_attr(feature = "mock", doc = "[`MockDiscovery`]: crate::MockDiscovery")]
//!
// The first definition of a link counts: on docs.rs those above replace the addresses of README.
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod discovery;
mod error;
#[cfg(feature = "etcd")]
mod etcd;
mod events;
#[cfg(feature = "file")]
mod file;
#[cfg(feature = "mock")]
mod mock;
mod panics;
mod registered;
mod static_discovery;
mod view;
#[cfg(feature = "zookeeper")]
mod zookeeper;

#[cfg(any(feature = "etcd", feature = "zookeeper"))]
pub use backend::credentials::Credentials;
#[cfg(any(all(feature = "_tls", feature = "etcd"), all(feature = "tls", feature = "zookeeper")))]
pub use backend::tls::TlsConfig;
pub use discovery::Discovery;
pub use error::{DiscoveryError, DiscoveryErrorKind};
#[cfg(feature = "etcd")]
pub use etcd::{EtcdConfig, EtcdDiscovery};
pub use events::{BadEntry, DiscoveryEvent, DiscoveryEvents, EventPublisher, RegistryState};
#[cfg(feature = "file")]
pub use file::FileDiscovery;
#[cfg(feature = "mock")]
pub use mock::MockDiscovery;
pub use registered::{BrokerRole, RegisteredBroker, RegisteredBrokers};
pub use static_discovery::StaticDiscovery;
pub use view::{MAX_PARTITIONS, TopicView, TopicWatch, ViewBroker, ViewChange, ViewPublisher};
#[cfg(feature = "zookeeper")]
pub use zookeeper::{ZooKeeperConfig, ZooKeeperDiscovery};

pub use metaq_protocol::{BrokerAddr, BrokerId, Partition, Topic};
