//! The nodes that are read for the topics, without touching any server: what they hold, and which are to be read next.
//!
//! Each node is read and watched once, whatever number of topics needs it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use metaq_protocol::{BrokerAddr, BrokerId, Topic};
use tokio::time::Instant;

use crate::{
    DiscoveryError, TopicView,
    registry::{Child, Layout, ViewBuilder},
    reports::Bad,
};

/// A topic whose nodes change all the time is published so long after its first change all the same.
const LONGEST_BURST: Duration = Duration::from_millis(100);

/// What names a node, and never another one.
pub(super) type NodeId = u64;

/// What a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content<T> {
    /// It was never read.
    Unread,
    Missing,
    /// It can't be used, and why.
    Bad(Box<str>),
    /// It can't be read, and why.
    Unreadable(Box<str>),
    Good(T),
}

/// What is done with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is read, and watched.
    Read,
    /// It wasn't there; whether it is now is asked, and watched.
    Missing,
    /// It can't be read; it is watched that it is made anew.
    Unreadable,
    /// The node of a topic is created.
    Create,
}

/// What the node of a topic says.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Unread,
    Missing,
    There,
    /// It can't be listed.
    Failed(DiscoveryError),
}

/// The node of a topic, whose children are its brokers.
#[derive(Debug)]
pub(super) struct List {
    pub(super) topic: Topic,
    pub(super) found: Found,
    pub(super) children: BTreeMap<Arc<str>, NodeId>,
    /// The names of children that no broker gives.
    pub(super) unknown: Vec<Box<str>>,
    /// How many of these are not known: the list itself, its children, addresses that were never read.
    pending: usize,
    pending_since: Option<Instant>,
    /// Whether nothing was pending once.
    complete: bool,
    is_ready: bool,
    pub(super) wanted: bool,
    pub(super) created: bool,
    /// Whether it was said that it can't be listed.
    pub(super) was_failed: bool,
}

/// A broker's partitions of a topic.
#[derive(Debug)]
pub(super) struct TopicChild {
    pub(super) list: NodeId,
    pub(super) name: Arc<str>,
    pub(super) broker: BrokerId,
    pub(super) content: Content<u32>,
}

/// The address of a broker.
#[derive(Debug)]
pub(super) struct Master {
    pub(super) broker: BrokerId,
    pub(super) content: Content<BrokerAddr>,
    /// The topics that the broker offers.
    lists: BTreeSet<NodeId>,
}

#[derive(Debug)]
pub(super) enum Body {
    List(Box<List>),
    Child(TopicChild),
    Master(Box<Master>),
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) body: Body,
    /// How many watchers will report its next change.
    pub(super) watchers: u16,
    /// Whether nothing is to be read.
    settled: bool,
    queued: bool,
    /// Whether it is being read.
    reading: bool,
    /// Whether it has changed since it is being read.
    again: bool,
}

/// The nodes of all topics.
#[derive(Debug)]
pub(super) struct Nodes {
    pub(super) layout: Layout,
    by_id: HashMap<NodeId, Node>,
    topics: BTreeMap<Topic, NodeId>,
    masters: BTreeMap<BrokerId, NodeId>,
    last: NodeId,
    /// The next step of nodes that are being read.
    steps: VecDeque<(NodeId, Step)>,
    /// What is to be read: what has changed comes before what was never read, and what completes a topic before others.
    changed: VecDeque<NodeId>,
    unread: VecDeque<NodeId>,
    unread_lists: VecDeque<NodeId>,
    /// The topics of which everything is known that there is.
    ready: VecDeque<NodeId>,
    /// How many nodes belong to topics that nobody wants any more.
    unwanted: usize,
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
            unwanted: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether it would be cheaper to begin anew than to go on with what nobody wants.
    pub(super) fn is_littered(&self) -> bool {
        self.unwanted > 10_000.max(self.by_id.len() / 2)
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

    /// The nodes of the topics that are wanted, and those of all brokers' addresses.
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
        let node = Node { body, watchers: 0, settled: false, queued: false, reading: false, again: false };
        self.by_id.insert(self.last, node);
        self.last
    }

    /// Reads and watches a topic from now on. Returns its node, and whether that is to be read.
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
        self.unwanted = self.unwanted.saturating_sub(1 + children.len());
        // What has changed while nobody wanted it was not read.
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

    /// Nobody wants a topic any more. Its watches stay until they fire, as old servers can't be told to remove them, and
    /// serve who wants it again.
    pub(super) fn unwant(&mut self, topic: &Topic) {
        let Some(&id) = self.topics.get(topic) else { return };
        if let Some(list) = self.list_mut(id)
            && std::mem::replace(&mut list.wanted, false)
        {
            self.unwanted += 1 + self.list(id).map_or(0, |list| list.children.len());
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

    /// The next step to take.
    pub(super) fn next_step(&mut self) -> Option<(NodeId, Step)> {
        if let Some(step) = self.steps.pop_front() {
            return Some(step);
        }
        loop {
            let queues = [&mut self.changed, &mut self.unread, &mut self.unread_lists];
            let id = queues.into_iter().find_map(VecDeque::pop_front)?;
            let wanted = self.is_wanted(id);
            let Some(node) = self.by_id.get_mut(&id) else { continue };
            node.queued = false;
            if wanted {
                node.reading = true;
                return Some((id, Step::Read));
            }
        }
    }

    /// Whether something is to be read.
    pub(super) fn has_steps(&self) -> bool {
        let queues = [&self.changed, &self.unread, &self.unread_lists];
        !self.steps.is_empty() || queues.into_iter().any(|queue| !queue.is_empty())
    }

    /// Takes another step with a node that is being read.
    pub(super) fn push_step(&mut self, id: NodeId, step: Step) {
        self.steps.push_back((id, step));
    }

    /// A topic of which everything is known.
    pub(super) fn next_ready(&mut self) -> Option<NodeId> {
        loop {
            let id = self.ready.pop_front()?;
            if let Some(list) = self.list_mut(id) {
                list.is_ready = false;
                list.pending_since = (list.pending > 0).then(Instant::now);
                return Some(id);
            }
        }
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn is_settled(&self, id: NodeId) -> bool {
        self.list(id).is_some_and(|list| list.pending == 0)
    }

    /// Has the view of a topic published as soon as everything of it is known.
    pub(super) fn refresh(&mut self, id: NodeId) {
        if self.is_settled(id) {
            self.make_ready(id);
        }
    }

    fn make_ready(&mut self, id: NodeId) {
        if let Some(list) = self.list_mut(id)
            && !std::mem::replace(&mut list.is_ready, true)
        {
            self.ready.push_back(id);
        }
    }

    fn list_of(&self, id: NodeId) -> Option<NodeId> {
        match &self.by_id.get(&id)?.body {
            Body::List(_) => Some(id),
            Body::Child(child) => Some(child.list),
            Body::Master(_) => None,
        }
    }

    fn pend(&mut self, list: NodeId) {
        if let Some(list) = self.list_mut(list) {
            list.pending += 1;
            list.pending_since.get_or_insert_with(Instant::now);
        }
    }

    fn unpend(&mut self, id: NodeId) {
        let Some(list) = self.list_mut(id) else { return };
        list.pending -= 1;
        list.complete |= list.pending == 0;
        let lasts = || list.pending_since.is_some_and(|since| since.elapsed() >= LONGEST_BURST);
        if list.pending == 0 || list.complete && lasts() {
            self.make_ready(id);
        }
    }

    fn unsettle(&mut self, id: NodeId) {
        let list = self.list_of(id);
        let Some(node) = self.by_id.get_mut(&id) else { return };
        if std::mem::replace(&mut node.settled, false)
            && let Some(list) = list
        {
            self.pend(list);
        }
    }

    /// A node was read.
    pub(super) fn settle(&mut self, id: NodeId) {
        let list = self.list_of(id);
        let Some(node) = self.by_id.get_mut(&id) else { return };
        node.reading = false;
        if std::mem::take(&mut node.again) {
            self.queue(id);
        } else if !std::mem::replace(&mut node.settled, true)
            && let Some(list) = list
        {
            self.unpend(list);
        }
    }

    /// Has a node read.
    pub(super) fn requeue(&mut self, id: NodeId) {
        self.unsettle(id);
        self.queue(id);
    }

    fn queue(&mut self, id: NodeId) {
        let Some(node) = self.by_id.get_mut(&id) else { return };
        if node.reading {
            node.again = true;
            return;
        }
        if std::mem::replace(&mut node.queued, true) {
            return;
        }
        match &node.body {
            Body::List(list) if !list.complete && matches!(list.found, Found::Unread) => {
                self.unread_lists.push_back(id);
            }
            Body::Child(TopicChild { content: Content::Unread, .. }) => self.unread.push_back(id),
            Body::Master(master) if master.content == Content::Unread => self.unread.push_back(id),
            _ => self.changed.push_back(id),
        }
    }

    /// The call that was to read a node has failed with the connection; it is made again.
    pub(super) fn interrupted(&mut self, id: NodeId) {
        if let Some(node) = self.by_id.get_mut(&id) {
            (node.reading, node.again) = (false, false);
        }
        if let Some(list) = self.list_mut(id) {
            list.created = false;
        }
        self.queue(id);
    }

    pub(super) fn watched(&mut self, id: NodeId) {
        if let Some(node) = self.by_id.get_mut(&id) {
            node.watchers += 1;
        }
    }

    /// A node has changed. `deleted` if it isn't there any more.
    pub(super) fn fired(&mut self, id: NodeId, deleted: bool) {
        let Some(node) = self.by_id.get_mut(&id) else { return };
        node.watchers = node.watchers.saturating_sub(1);
        match &node.body {
            Body::List(list) if !list.wanted => {
                let topic = list.topic.clone();
                return self.remove_topic(&topic, id);
            }
            Body::Child(child) if deleted => {
                let list = child.list;
                // Its list has changed, too, and says whether it is there again.
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

    fn remove_topic(&mut self, topic: &Topic, id: NodeId) {
        self.topics.remove(topic);
        let Some(Node { body: Body::List(list), .. }) = self.by_id.remove(&id) else { return };
        self.unwanted = self.unwanted.saturating_sub(1 + list.children.len());
        for child in list.children.into_values() {
            if let Some(Node { body: Body::Child(child), .. }) = self.by_id.remove(&child) {
                self.unlink(id, child.broker);
            }
        }
    }

    /// Replaces the names of a topic's children.
    pub(super) fn listed(&mut self, id: NodeId, names: Vec<String>) {
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
                // One that was deleted and created again has lost its watcher by that; of one that may not be read, servers
                // report nothing.
                let is_outdated = |node: &Node| {
                    let content = match &node.body {
                        Body::Child(child) => &child.content,
                        _ => return false,
                    };
                    !node.reading && (node.watchers == 0 || matches!(content, Content::Unreadable(_)))
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
            self.pend(id);
            self.queue(child);
            self.link(id, broker);
        }
    }

    /// The node of a topic is not there, or can't be listed; in the latter case its children are what they were.
    pub(super) fn not_listed(&mut self, id: NodeId, found: Found) {
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
    }

    fn remove_child(&mut self, id: NodeId, name: &str, child: NodeId) {
        let node = self.by_id.remove(&child);
        let Some(list) = self.list_mut(id) else { return };
        list.children.remove(name);
        let Some(Node { body: Body::Child(child), settled, .. }) = node else { return };
        if !settled {
            self.unpend(id);
        }
        self.unlink(id, child.broker);
    }

    fn link(&mut self, list: NodeId, broker: BrokerId) {
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
            self.pend(list);
        }
        if !settled {
            self.queue(id);
        }
    }

    fn unlink(&mut self, list: NodeId, broker: BrokerId) {
        // Names like 0-m and 00-m are of the same broker.
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
            self.unpend(list);
        }
        self.remove_unused_master(id);
    }

    /// What is known of a broker that has gone stays as long as it is watched: it may come back with the same address.
    fn remove_unused_master(&mut self, id: NodeId) {
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

    /// Replaces what a child holds.
    pub(super) fn child_read(&mut self, id: NodeId, content: Content<u32>) {
        if let Some(Node { body: Body::Child(child), .. }) = self.by_id.get_mut(&id) {
            child.content = content;
        }
    }

    /// Replaces a broker's address.
    pub(super) fn master_read(&mut self, id: NodeId, content: Content<BrokerAddr>) {
        let Some(Node { body: Body::Master(master), .. }) = self.by_id.get_mut(&id) else { return };
        if master.content == content {
            return;
        }
        let former = std::mem::replace(&mut master.content, content);
        let lists: Vec<_> = master.lists.iter().copied().collect();
        for list in lists {
            if former == Content::Unread {
                self.unpend(list);
            } else if self.list(list).is_some_and(|list| list.wanted) {
                self.refresh(list);
            }
        }
    }

    /// The view of a topic, without what can't be used, and a list of that.
    pub(super) fn view(&self, list: &List) -> (TopicView, Vec<Bad>) {
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

/// The names of brokers among those of a topic's children, and those that no broker gives.
pub(super) fn sort(names: Vec<String>) -> (BTreeMap<String, BrokerId>, Vec<Box<str>>) {
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
