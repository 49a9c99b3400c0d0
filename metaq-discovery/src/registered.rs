//! The brokers that a registry lists, whatever topics they have.

use std::fmt;

use metaq_protocol::{BrokerAddr, BrokerId};

use crate::BadEntry;

/// The part that a broker plays beside others of the same id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum BrokerRole {
    /// Producers send to it.
    #[default]
    Master,
    /// It copies the messages of the master with its id, and has this number among the slaves of that one.
    Slave(u32),
}

impl fmt::Display for BrokerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master => f.write_str("master"),
            Self::Slave(number) => write!(f, "slave{number}"),
        }
    }
}

/// A broker in a registry, which need not have topics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct RegisteredBroker {
    /// The broker's id. A slave has that of its master.
    pub id: BrokerId,
    /// Master or slave.
    pub role: BrokerRole,
    /// The address on which the broker listens.
    pub addr: BrokerAddr,
}

impl RegisteredBroker {
    /// Creates a broker.
    #[must_use]
    pub fn new(id: BrokerId, role: BrokerRole, addr: BrokerAddr) -> Self {
        Self { id, role, addr }
    }
}

/// All brokers in a registry, and the entries of brokers that can't be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegisteredBrokers {
    /// The brokers, sorted by id, each master before its slaves.
    pub brokers: Vec<RegisteredBroker>,
    /// The entries without a usable address.
    pub bad_entries: Vec<BadEntry>,
}

impl RegisteredBrokers {
    /// Creates a list of these brokers, and sorts them.
    #[must_use]
    pub fn new(mut brokers: Vec<RegisteredBroker>, bad_entries: Vec<BadEntry>) -> Self {
        brokers.sort_unstable();
        Self { brokers, bad_entries }
    }
}
