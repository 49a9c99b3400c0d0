//! A node, and its known content.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use metaq_protocol::{BrokerAddr, BrokerId, Topic};
use tokio::time::Instant;

use crate::DiscoveryError;

/// The unique id of a node.
pub(in crate::zookeeper) type NodeId = u64;

/// The content of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::zookeeper) enum Content<T> {
    /// Never read.
    Unread,
    Missing,
    /// Unusable, with the reason.
    Bad(Box<str>),
    /// Unreadable, with the reason.
    Unreadable(Box<str>),
    Good(T),
}

/// The next call for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::zookeeper) enum Step {
    /// Reads and watches the node.
    Read,
    /// The node was missing: checks whether it exists, and watches that.
    Missing,
    /// The node can't be read: watches for it to be created again.
    Unreadable,
    /// Creates the node of a topic.
    Create,
}

/// The result of listing the node of a topic.
#[derive(Clone, Debug)]
pub(in crate::zookeeper) enum Found {
    Unread,
    Missing,
    There,
    /// The node can't be listed.
    Failed(DiscoveryError),
}

/// The node of a topic. Its children are the brokers of the topic.
#[derive(Debug)]
pub(in crate::zookeeper) struct List {
    pub(in crate::zookeeper) topic: Topic,
    pub(in crate::zookeeper) found: Found,
    pub(in crate::zookeeper) children: BTreeMap<Arc<str>, NodeId>,
    /// The names of children that do not have the form that brokers use.
    pub(in crate::zookeeper) unknown: Vec<Box<str>>,
    /// The number of unknown parts: the list itself, its children, and addresses that were never read.
    pub(super) pending: usize,
    pub(super) pending_since: Option<Instant>,
    /// Set once nothing was pending.
    pub(super) complete: bool,
    pub(super) is_ready: bool,
    pub(in crate::zookeeper) wanted: bool,
    /// The number of nodes with which it is counted in `Nodes::unwanted`.
    pub(super) unwanted: usize,
    pub(in crate::zookeeper) created: bool,
    /// Set if the log says that the topic can't be listed.
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
    /// The number of watchers that will report the next change of the node.
    pub(in crate::zookeeper) watchers: u16,
    /// Set when the content is up to date.
    pub(super) settled: bool,
    pub(super) queued: bool,
    /// Set while a call for the node is pending.
    pub(super) reading: bool,
    /// Set if the node has changed since the pending call was sent.
    pub(super) changed_while_reading: bool,
}
