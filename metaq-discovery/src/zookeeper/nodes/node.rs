//! A node, and what is known of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use metaq_protocol::{BrokerAddr, BrokerId, Topic};
use tokio::time::Instant;

use crate::DiscoveryError;

/// The name of a node, which no other node ever has.
pub(in crate::zookeeper) type NodeId = u64;

/// The content of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::zookeeper) enum Content<T> {
    /// It was never read.
    Unread,
    Missing,
    /// It can't be used, and why.
    Bad(Box<str>),
    /// It can't be read, and why.
    Unreadable(Box<str>),
    Good(T),
}

/// The steps that are taken with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::zookeeper) enum Step {
    /// It is read, and watched.
    Read,
    /// It wasn't there; whether it is now is asked, and watched.
    Missing,
    /// It can't be read; it is watched that it is made anew.
    Unreadable,
    /// The node of a topic is created.
    Create,
}

/// The result of listing the node of a topic.
#[derive(Clone, Debug)]
pub(in crate::zookeeper) enum Found {
    Unread,
    Missing,
    There,
    /// It can't be listed.
    Failed(DiscoveryError),
}

/// The node of a topic, whose children are its brokers.
#[derive(Debug)]
pub(in crate::zookeeper) struct List {
    pub(in crate::zookeeper) topic: Topic,
    pub(in crate::zookeeper) found: Found,
    pub(in crate::zookeeper) children: BTreeMap<Arc<str>, NodeId>,
    /// The names of children that no broker gives.
    pub(in crate::zookeeper) unknown: Vec<Box<str>>,
    /// The number of these that are not known: the list itself, its children, addresses that were never read.
    pub(super) pending: usize,
    pub(super) pending_since: Option<Instant>,
    /// Whether nothing was pending once.
    pub(super) complete: bool,
    pub(super) is_ready: bool,
    pub(in crate::zookeeper) wanted: bool,
    /// As how many nodes that nobody wants it was counted.
    pub(super) unwanted: usize,
    pub(in crate::zookeeper) created: bool,
    /// Whether it was said that it can't be listed.
    pub(in crate::zookeeper) was_failed: bool,
}

/// A broker's partitions of a topic.
#[derive(Debug)]
pub(in crate::zookeeper) struct TopicChild {
    pub(in crate::zookeeper) list: NodeId,
    pub(in crate::zookeeper) name: Arc<str>,
    pub(in crate::zookeeper) broker: BrokerId,
    pub(in crate::zookeeper) content: Content<u32>,
}

/// The address of a broker.
#[derive(Debug)]
pub(in crate::zookeeper) struct Master {
    pub(in crate::zookeeper) broker: BrokerId,
    pub(in crate::zookeeper) content: Content<BrokerAddr>,
    /// The topics that the broker offers.
    pub(super) lists: BTreeSet<NodeId>,
}

#[derive(Debug)]
pub(in crate::zookeeper) enum Body {
    List(Box<List>),
    Child(TopicChild),
    Master(Box<Master>),
}

#[derive(Debug)]
pub(in crate::zookeeper) struct Node {
    pub(in crate::zookeeper) body: Body,
    /// The number of watchers that will report its next change.
    pub(in crate::zookeeper) watchers: u16,
    /// Whether nothing is to be read.
    pub(super) settled: bool,
    pub(super) queued: bool,
    /// Whether it is being read.
    pub(super) reading: bool,
    /// Whether it has changed since it is being read.
    pub(super) changed_while_reading: bool,
}
