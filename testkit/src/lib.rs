//! For tests of programs that use MetaQ 1.4 (Metamorphosis) brokers: an embedded [`Broker`] that needs nothing
//! installed.

mod broker;

pub use broker::{Broker, BrokerBuilder, Stored};
