//! The contents of nodes, and the effects of their changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use metaq_protocol::{BrokerAddr, BrokerId, Topic};

use super::{Body, Content, Found, List, Node, NodeId, Nodes, TopicChild, node::Master};
use crate::{
    TopicView,
    backend::{
        bad_entries::UnusableEntry,
        registry::{Child, ViewBuilder},
    },
};

impl Nodes {
    /// Handles a change of a node. `deleted` if the node is gone.
    pub(in crate::zookeeper) fn fired(&mut self, id: NodeId, deleted: bool) {
        let Some(node) = self.by_id.get_mut(&id) else {
            self.orphaned_watchers = self.orphaned_watchers.saturating_sub(1);
            return;
        };
        node.watchers = node.watchers.saturating_sub(1);
        match &node.body {
            Body::List(list) if !list.wanted => {
                let topic = list.topic.clone();
                return self.remove_topic(&topic, id);
            }
            Body::Child(child) if deleted => {
                let list = child.list;
                // Its list has changed as well, and shows whether the child exists again.
                if !self.by_id.get(&list).is_some_and(|list| list.settled) {
                    return self.unsettle(id);
                }
            }
            _ => {}
        }
        if self.is_wanted(id) {
            self.requeue(id);
        } else {
            self.unsettle(id);
            self.remove_unused_master(id);
        }
    }

    pub(super) fn remove_topic(&mut self, topic: &Topic, id: NodeId) {
        self.topics.remove(topic);
        let Some(Node { body: Body::List(list), .. }) = self.remove(id) else { return };
        self.unwanted -= list.unwanted;
        for child in list.children.into_values() {
            if let Some(Node { body: Body::Child(child), .. }) = self.remove(child) {
                self.unlink(id, child.broker);
            }
        }
    }

    /// Removes a node. Its watchers remain until they fire.
    fn remove(&mut self, id: NodeId) -> Option<Node> {
        let node = self.by_id.remove(&id)?;
        self.orphaned_watchers += usize::from(node.watchers);
        Some(node)
    }

    /// Replaces the names of a topic's children.
    pub(in crate::zookeeper) fn listed(&mut self, id: NodeId, names: Vec<String>) {
        let Some(list) = self.list_mut(id) else { return };
        list.found = Found::There;
        let (brokers, unknown) = sort(names);
        list.unknown = unknown;
        let gone: Vec<_> = list
            .children
            .iter()
            .filter(|(name, _)| !brokers.contains_key(name.as_ref()))
            .map(|(name, child)| (Arc::clone(name), *child))
            .collect();
        gone.iter().for_each(|(name, child)| self.remove_child(id, name, *child));
        for (name, broker) in brokers {
            let known = self.list(id).and_then(|list| list.children.get(name.as_str()).copied());
            if let Some(child) = known {
                // A child that was deleted and created again waits for this list; servers report no changes
                // of unreadable nodes.
                let is_outdated = |node: &Node| {
                    let content = match &node.body {
                        Body::Child(child) => &child.content,
                        _ => return false,
                    };
                    let is_unknown = node.watchers == 0 || !node.settled;
                    !node.reading && (is_unknown || matches!(content, Content::Unreadable(_)))
                };
                if self.by_id.get(&child).is_some_and(is_outdated) {
                    self.requeue(child);
                }
                continue;
            }
            let name: Arc<str> = name.into();
            let content = Content::Unread;
            let child = TopicChild { list: id, name: Arc::clone(&name), broker, content };
            let child = self.insert(Body::Child(child));
            if let Some(list) = self.list_mut(id) {
                list.children.insert(name, child);
            }
            self.add_pending(id);
            self.queue(child);
            self.link(id, broker);
        }
    }

    /// Handles a topic's node that is missing or can't be listed. In the latter case its children remain.
    pub(in crate::zookeeper) fn not_listed(&mut self, id: NodeId, found: Found) {
        let Some(list) = self.list_mut(id) else { return };
        if matches!(found, Found::Missing) {
            list.unknown.clear();
            let children: Vec<_> =
                list.children.iter().map(|(name, child)| (Arc::clone(name), *child)).collect();
            children.iter().for_each(|(name, child)| self.remove_child(id, name, *child));
        }
        if let Some(list) = self.list_mut(id) {
            list.found = found;
        }
        self.read_deleted(id);
    }

    /// Reads the deleted children that waited for their list to show whether they exist again.
    pub(in crate::zookeeper) fn read_deleted(&mut self, id: NodeId) {
        let children = self.list(id).map(|list| list.children.values().copied().collect::<Vec<_>>());
        for child in children.unwrap_or_default() {
            if self.by_id.get(&child).is_some_and(|node| !node.settled && !node.reading) {
                self.queue(child);
            }
        }
    }

    pub(super) fn remove_child(&mut self, id: NodeId, name: &str, child: NodeId) {
        let node = self.remove(child);
        let Some(list) = self.list_mut(id) else { return };
        list.children.remove(name);
        let Some(Node { body: Body::Child(child), settled, .. }) = node else { return };
        if !settled {
            self.remove_pending(id);
        }
        self.unlink(id, child.broker);
    }

    pub(super) fn link(&mut self, list: NodeId, broker: BrokerId) {
        let id = match self.masters.get(&broker) {
            Some(id) => *id,
            None => {
                let master = Master { broker, content: Content::Unread, lists: BTreeSet::new() };
                let id = self.insert(Body::Master(Box::new(master)));
                self.masters.insert(broker, id);
                id
            }
        };
        let Some(Node { body: Body::Master(master), settled, .. }) = self.by_id.get_mut(&id) else { return };
        let (unread, settled) = (master.content == Content::Unread, *settled);
        if master.lists.insert(list) && unread {
            self.add_pending(list);
        }
        if !settled {
            self.queue(id);
        }
    }

    pub(super) fn unlink(&mut self, list: NodeId, broker: BrokerId) {
        // Names like 0-m and 00-m denote the same broker.
        let is_of = |child: &NodeId| match self.by_id.get(child).map(|node| &node.body) {
            Some(Body::Child(child)) => child.broker == broker,
            _ => false,
        };
        if self.list(list).is_some_and(|list| list.children.values().any(is_of)) {
            return;
        }
        let Some(&id) = self.masters.get(&broker) else { return };
        let Some(Node { body: Body::Master(master), .. }) = self.by_id.get_mut(&id) else { return };
        if master.lists.remove(&list) && master.content == Content::Unread {
            self.remove_pending(list);
        }
        self.remove_unused_master(id);
    }

    /// Removes a broker that no topic needs. Its address is kept while it is watched: the broker may return
    /// with the same address.
    pub(in crate::zookeeper) fn remove_unused_master(&mut self, id: NodeId) {
        let Some(Node { body: Body::Master(master), watchers: 0, reading: false, .. }) = self.by_id.get(&id)
        else {
            return;
        };
        if master.lists.is_empty() {
            let broker = master.broker;
            self.by_id.remove(&id);
            self.masters.remove(&broker);
        }
    }

    /// Replaces the content of a child.
    pub(in crate::zookeeper) fn child_read(&mut self, id: NodeId, content: Content<u32>) {
        if let Some(Node { body: Body::Child(child), .. }) = self.by_id.get_mut(&id) {
            child.content = content;
        }
    }

    /// Replaces a broker's address.
    pub(in crate::zookeeper) fn master_read(&mut self, id: NodeId, content: Content<BrokerAddr>) {
        let Some(Node { body: Body::Master(master), .. }) = self.by_id.get_mut(&id) else { return };
        if master.content == content {
            return;
        }
        let former = std::mem::replace(&mut master.content, content);
        if former != Content::Unread {
            self.affected.extend(&master.lists);
            return;
        }
        let lists: Vec<_> = master.lists.iter().copied().collect();
        lists.into_iter().for_each(|list| self.remove_pending(list));
    }

    /// The view of the usable entries of a topic, and the list of the unusable ones.
    pub(in crate::zookeeper) fn view(&self, list: &List) -> (TopicView, Vec<UnusableEntry>) {
        let mut builder = ViewBuilder::new(&list.topic, &self.layout);
        list.unknown.iter().for_each(|name| builder.unknown_child(name));
        let children = list.children.values().filter_map(|id| match &self.by_id.get(id)?.body {
            Body::Child(child) => Some(child),
            _ => None,
        });
        let mut children: Vec<_> = children.collect();
        children.sort_by_key(|child| child.broker);
        for child in children {
            let partitions = match &child.content {
                Content::Unread | Content::Missing => continue,
                Content::Bad(reason) | Content::Unreadable(reason) => {
                    builder.bad_child(&child.name, reason);
                    continue;
                }
                Content::Good(partitions) => *partitions,
            };
            let master = self.masters.get(&child.broker).and_then(|id| self.by_id.get(id));
            let Some(Node { body: Body::Master(master), .. }) = master else { continue };
            match &master.content {
                Content::Unread => {}
                Content::Missing => builder.missing_master(child.broker),
                Content::Bad(reason) | Content::Unreadable(reason) => {
                    builder.bad_master(child.broker, reason)
                }
                Content::Good(addr) => builder.broker(child.broker, addr.clone(), partitions),
            }
        }
        builder.build()
    }
}

/// Separates the names of a topic's children into brokers and unknown names.
pub(in crate::zookeeper) fn sort(names: Vec<String>) -> (BTreeMap<String, BrokerId>, Vec<Box<str>>) {
    let (mut brokers, mut unknown) = (BTreeMap::new(), Vec::new());
    for name in names {
        match Child::parse(&name) {
            Child::Master(id) => drop(brokers.insert(name, id)),
            Child::Slave => {}
            Child::Unknown => unknown.push(name.into_boxed_str()),
        }
    }
    unknown.sort_unstable();
    (brokers, unknown)
}
