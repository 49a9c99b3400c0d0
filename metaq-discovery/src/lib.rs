//! Finds the brokers and partitions of MetaQ 1.4 (Metamorphosis) topics.
//!
//! [`Discovery`] is the trait. [`ZooKeeperDiscovery`] reads the registry that brokers keep in ZooKeeper,
//! `EtcdDiscovery` (feature `etcd`) reads the same from etcd, [`StaticDiscovery`] has a fixed list of
//! brokers, `FileDiscovery` (feature `file`) reads them from a TOML or JSON file, and `MockDiscovery`
//! (feature `mock`) is for tests. With a `TlsConfig` (feature `tls`), ZooKeeper and etcd are reached over
//! TLS. Watching a topic returns a [`TopicWatch`], which always holds the latest [`TopicView`] and reports
//! new ones; [`Discovery::events`] reports the state of the registry.
//!
//! This crate reads registries. It contains neither the brokers' protocol nor connections to brokers.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use metaq_discovery::{Discovery, StaticDiscovery, Topic};
//!
//! let discovery = StaticDiscovery::direct("meta://127.0.0.1:8123".parse()?);
//! let watch = discovery.watch(&Topic::new("orders")?).await?;
//! assert_eq!(watch.current().brokers()[0].addr.port(), 8123);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

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
pub use static_discovery::StaticDiscovery;
pub use view::{MAX_PARTITIONS, TopicView, TopicWatch, ViewBroker, ViewChange, ViewPublisher};
#[cfg(feature = "zookeeper")]
pub use zookeeper::{ZooKeeperConfig, ZooKeeperDiscovery};

pub use metaq_protocol::{BrokerAddr, BrokerId, Partition, Topic};
