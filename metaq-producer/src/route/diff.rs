//! The difference of two routes, for logs and events.

use std::fmt::{self, Display};

use metaq_protocol::{BrokerAddr, BrokerId};

use crate::route::topic_state::Route;

/// The part of a route that another one doesn't have. Shows the brokers as `0@meta://host:8123(4)`, with the
/// number of partitions.
pub(crate) struct Difference<'a> {
    of: &'a Route,
    from: &'a Route,
}

impl<'a> Difference<'a> {
    /// Returns the part of `of` that `from` doesn't have: brokers at another address or with another number
    /// of partitions included.
    pub(crate) fn new(of: &'a Route, from: &'a Route) -> Self {
        Self { of, from }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.brokers().next().is_none()
    }

    fn brokers(&self) -> impl Iterator<Item = (BrokerId, &'a BrokerAddr, usize)> {
        let (of, from) = (self.of, self.from);
        brokers(of).filter(move |broker| !brokers(from).any(|other| other == *broker))
    }
}

fn brokers(route: &Route) -> impl Iterator<Item = (BrokerId, &BrokerAddr, usize)> {
    route.brokers.iter().map(|broker| {
        let count = route.partitions.iter().filter(|partition| partition.broker == broker.id).count();
        (broker.id, &broker.topic_broker.broker.addr, count)
    })
}

impl Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.brokers().enumerate().try_for_each(|(n, (id, addr, partitions))| {
            let separator = if n == 0 { "" } else { " " };
            write!(f, "{separator}{id}@{addr}({partitions})")
        })
    }
}
