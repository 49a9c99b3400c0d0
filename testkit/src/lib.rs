//! For tests of programs that use MetaQ 1.4 (Metamorphosis) brokers: an embedded [`Broker`] that needs nothing
//! installed and, with the feature `peers`, handles that run real ZooKeeper servers and Java brokers.

mod broker;
#[cfg(feature = "peers")]
pub mod peers;

pub use broker::{Broker, BrokerBuilder, Stored};
