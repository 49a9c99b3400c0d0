//! The table of nodes that are read for the topics, without I/O: their contents, and the queue of nodes to
//! read next.
//!
//! Each node is read and watched once, no matter how many topics need it.

mod contents;
mod node;
mod queue;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};

use metaq_protocol::{BrokerId, Topic};

use crate::backend::registry::Layout;
pub(super) use contents::sort;
pub(super) use node::{Body, Content, Found, List, Node, NodeId, Step, TopicChild};

/// The nodes of all topics.
#[derive(Debug)]
pub(super) struct Nodes {
    pub(super) layout: Layout,
    by_id: HashMap<NodeId, Node>,
    topics: BTreeMap<Topic, NodeId>,
    masters: BTreeMap<BrokerId, NodeId>,
    last: NodeId,
    /// The next steps of nodes that are being read.
    steps: VecDeque<(NodeId, Step)>,
    /// The nodes to read: changed nodes before unread ones, and nodes that complete a topic before new
    /// topics.
    changed: VecDeque<NodeId>,
    unread: VecDeque<NodeId>,
    unread_lists: VecDeque<NodeId>,
    /// The topics that are completely read.
    ready: VecDeque<NodeId>,
    /// The topics of brokers whose addresses have changed; there may be thousands.
    affected: VecDeque<NodeId>,
    /// The number of nodes of topics that are no longer followed.
    unwanted: usize,
    /// The number of watchers of removed nodes.
    orphaned_watchers: usize,
}

impl Nodes {
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            layout,
            by_id: HashMap::new(),
            topics: BTreeMap::new(),
            masters: BTreeMap::new(),
            last: 0,
            steps: VecDeque::new(),
            changed: VecDeque::new(),
            unread: VecDeque::new(),
            unread_lists: VecDeque::new(),
            ready: VecDeque::new(),
            affected: VecDeque::new(),
            unwanted: 0,
            orphaned_watchers: 0,
        }
    }

    /// The number of nodes of followed topics.
    pub(super) fn wanted(&self) -> usize {
        self.by_id.len().saturating_sub(self.unwanted)
    }

    /// Returns true if a new session is cheaper than keeping the nodes and watchers of topics that are no
    /// longer followed.
    pub(super) fn should_rebuild(&self) -> bool {
        self.unwanted + self.orphaned_watchers > 10_000.max(self.by_id.len() / 2)
    }

    pub(super) fn get(&self, id: NodeId) -> Option<&Node> {
        self.by_id.get(&id)
    }

    pub(super) fn list(&self, id: NodeId) -> Option<&List> {
        match &self.by_id.get(&id)?.body {
            Body::List(list) => Some(list),
            _ => None,
        }
    }

    pub(super) fn list_mut(&mut self, id: NodeId) -> Option<&mut List> {
        match &mut self.by_id.get_mut(&id)?.body {
            Body::List(list) => Some(list),
            _ => None,
        }
    }

    pub(super) fn topic(&self, topic: &Topic) -> Option<NodeId> {
        self.topics.get(topic).copied()
    }

    /// The nodes of the followed topics, and those of all brokers' addresses.
    pub(super) fn roots(&self) -> VecDeque<NodeId> {
        let lists = self.topics.values().copied();
        let lists = lists.filter(|id| self.list(*id).is_some_and(|list| list.wanted));
        lists.chain(self.masters.values().copied()).collect()
    }

    pub(super) fn path(&self, id: NodeId) -> Option<String> {
        Some(match &self.by_id.get(&id)?.body {
            Body::List(list) => self.layout.topic(&list.topic),
            Body::Child(child) => self.layout.child(&self.list(child.list)?.topic, &child.name),
            Body::Master(master) => self.layout.master(master.broker),
        })
    }

    fn insert(&mut self, body: Body) -> NodeId {
        self.last += 1;
        let node = Node {
            body,
            watchers: 0,
            settled: false,
            queued: false,
            reading: false,
            changed_while_reading: false,
        };
        self.by_id.insert(self.last, node);
        self.last
    }

    /// Follows a topic from now on. Returns its node, and whether the topic must be read first.
    pub(super) fn want(&mut self, topic: &Topic) -> (NodeId, bool) {
        let Some(&id) = self.topics.get(topic) else {
            let list = List {
                topic: topic.clone(),
                found: Found::Unread,
                children: BTreeMap::new(),
                unknown: Vec::new(),
                pending: 1,
                pending_since: None,
                complete: false,
                is_ready: false,
                wanted: true,
                unwanted: 0,
                created: false,
                was_failed: false,
            };
            let id = self.insert(Body::List(Box::new(list)));
            self.topics.insert(topic.clone(), id);
            self.queue(id);
            return (id, true);
        };
        let Some(list) = self.list_mut(id) else { return (id, false) };
        let failed = matches!(list.found, Found::Failed(_));
        if std::mem::replace(&mut list.wanted, true) {
            if failed {
                self.requeue(id);
            }
            return (id, !self.by_id[&id].settled);
        }
        let children: Vec<_> = list.children.values().copied().collect();
        let unwanted = std::mem::take(&mut list.unwanted);
        self.unwanted -= unwanted;
        // Changes were not read while the topic was not followed.
        let mut outdated = vec![id];
        for child in children {
            let Some(Body::Child(TopicChild { broker, .. })) = self.by_id.get(&child).map(|node| &node.body)
            else {
                continue;
            };
            outdated.extend(self.masters.get(broker));
            outdated.push(child);
        }
        for node in outdated {
            if self.by_id.get(&node).is_some_and(|node| !node.settled || node.watchers == 0) {
                self.requeue(node);
            }
        }
        if failed {
            self.requeue(id);
        }
        (id, !self.by_id[&id].settled)
    }

    /// Stops following a topic. Its watches remain until they fire, because old servers can't remove watches,
    /// and are reused when the topic is followed again.
    pub(super) fn unwant(&mut self, topic: &Topic) {
        let Some(&id) = self.topics.get(topic) else { return };
        if let Some(list) = self.list_mut(id)
            && std::mem::replace(&mut list.wanted, false)
        {
            let unwanted = 1 + list.children.len();
            list.unwanted = unwanted;
            self.unwanted += unwanted;
        }
    }

    fn is_wanted(&self, id: NodeId) -> bool {
        let is_wanted = |list: NodeId| self.list(list).is_some_and(|list| list.wanted);
        match self.by_id.get(&id).map(|node| &node.body) {
            Some(Body::List(list)) => list.wanted,
            Some(Body::Child(child)) => is_wanted(child.list),
            Some(Body::Master(master)) => master.lists.iter().any(|list| is_wanted(*list)),
            None => false,
        }
    }
}
