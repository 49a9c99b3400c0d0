//! For tests of programs that use MetaQ 1.4 (Metamorphosis) brokers: an embedded [`Broker`] that needs nothing
//! installed, a [`Proxy`] that spoils connections, the [`conformance`] suite that every `Discovery` has to pass and, with
//! the feature `peers`, handles that run real ZooKeeper and etcd servers and Java brokers.

mod broker;
pub mod conformance;
#[cfg(feature = "peers")]
pub mod peers;
pub mod proxy;

#[cfg(any(feature = "zookeeper", feature = "etcd"))]
pub use broker::Registry;
pub use broker::{Broker, BrokerBuilder, Fault, Faults, Flush, Heuristic, Plan, Requests, Stored};
pub use proxy::Proxy;
