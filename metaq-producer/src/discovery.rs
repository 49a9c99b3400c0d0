//! The registries in which a producer looks up the brokers of its topics: the public items of
//! `metaq-discovery`.

#[cfg(any(feature = "etcd", feature = "zookeeper"))]
pub use metaq_discovery::Credentials;
#[cfg(feature = "file")]
pub use metaq_discovery::FileDiscovery;
#[cfg(feature = "mock")]
pub use metaq_discovery::MockDiscovery;
#[cfg(any(
    all(feature = "tls", any(feature = "etcd", feature = "zookeeper")),
    all(feature = "tls-ring", feature = "etcd")
))]
pub use metaq_discovery::TlsConfig;
pub use metaq_discovery::{
    BadEntry, BrokerRole, Discovery, DiscoveryError, DiscoveryErrorKind, DiscoveryEvent, DiscoveryEvents,
    EventPublisher, MAX_PARTITIONS, RegisteredBroker, RegisteredBrokers, RegistryState, StaticDiscovery,
    TopicView, TopicWatch, ViewBroker, ViewChange, ViewPublisher,
};
#[cfg(feature = "etcd")]
pub use metaq_discovery::{EtcdConfig, EtcdDiscovery};
#[cfg(feature = "zookeeper")]
pub use metaq_discovery::{ZooKeeperConfig, ZooKeeperDiscovery};
