//! The queues of nodes to read, and of topics to publish.

use std::time::Duration;

use tokio::time::Instant;

use super::{Body, Content, Found, NodeId, Nodes, Step, TopicChild};

/// The longest time from the first change of a topic to its view, even if its nodes keep changing.
const MAX_BURST: Duration = Duration::from_millis(100);

/// The number of topics of a broker with a new address that are handled per turn.
const AFFECTED_PER_TURN: usize = 64;

impl Nodes {
    /// The next step for nodes that are being read or have changed.
    pub(in crate::zookeeper) fn next_change(&mut self) -> Option<(NodeId, Step)> {
        let step = self.steps.pop_front();
        step.or_else(|| self.next_read(|nodes| nodes.changed.pop_front()))
    }

    /// The next step for nodes that were never read.
    pub(in crate::zookeeper) fn next_unread(&mut self) -> Option<(NodeId, Step)> {
        self.next_read(|nodes| nodes.unread.pop_front().or_else(|| nodes.unread_lists.pop_front()))
    }

    fn next_read(&mut self, next: impl Fn(&mut Self) -> Option<NodeId>) -> Option<(NodeId, Step)> {
        loop {
            let id = next(self)?;
            let wanted = self.is_wanted(id);
            let Some(node) = self.by_id.get_mut(&id) else { continue };
            node.queued = false;
            if wanted {
                node.reading = true;
                return Some((id, Step::Read));
            }
        }
    }

    /// Returns true if there is a node to read.
    pub(in crate::zookeeper) fn has_steps(&self) -> bool {
        let queues = [&self.changed, &self.unread, &self.unread_lists];
        !self.steps.is_empty() || queues.into_iter().any(|queue| !queue.is_empty())
    }

    /// Queues the next step for a node that is being read.
    pub(in crate::zookeeper) fn push_step(&mut self, id: NodeId, step: Step) {
        self.steps.push_back((id, step));
    }

    /// The next topic that is completely read.
    pub(in crate::zookeeper) fn next_ready(&mut self) -> Option<NodeId> {
        loop {
            let id = self.ready.pop_front()?;
            if let Some(list) = self.list_mut(id) {
                list.is_ready = false;
                list.pending_since = (list.pending > 0).then(Instant::now);
                return Some(id);
            }
        }
    }

    pub(in crate::zookeeper) fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.affected.is_empty()
    }

    /// Queues the views of some topics whose brokers have new addresses. All such topics are queued before
    /// the first is published, so that each is published once. Returns false if there are none.
    pub(in crate::zookeeper) fn take_affected(&mut self) -> bool {
        let count = AFFECTED_PER_TURN.min(self.affected.len());
        let affected: Vec<_> = self.affected.drain(..count).collect();
        for list in affected {
            if self.list(list).is_some_and(|list| list.wanted) {
                self.refresh(list);
            }
        }
        count > 0
    }

    pub(in crate::zookeeper) fn is_settled(&self, id: NodeId) -> bool {
        self.list(id).is_some_and(|list| list.pending == 0)
    }

    /// Publishes the view of a topic as soon as the topic is completely read.
    pub(in crate::zookeeper) fn refresh(&mut self, id: NodeId) {
        if self.is_settled(id) {
            self.make_ready(id);
        }
    }

    pub(super) fn make_ready(&mut self, id: NodeId) {
        if let Some(list) = self.list_mut(id)
            && !std::mem::replace(&mut list.is_ready, true)
        {
            self.ready.push_back(id);
        }
    }

    pub(super) fn list_of(&self, id: NodeId) -> Option<NodeId> {
        match &self.by_id.get(&id)?.body {
            Body::List(_) => Some(id),
            Body::Child(child) => Some(child.list),
            Body::Master(_) => None,
        }
    }

    pub(super) fn add_pending(&mut self, list: NodeId) {
        if let Some(list) = self.list_mut(list) {
            list.pending += 1;
            list.pending_since.get_or_insert_with(Instant::now);
        }
    }

    pub(super) fn remove_pending(&mut self, id: NodeId) {
        let Some(list) = self.list_mut(id) else { return };
        list.pending -= 1;
        list.complete |= list.pending == 0;
        let lasts = || list.pending_since.is_some_and(|since| since.elapsed() >= MAX_BURST);
        if list.pending == 0 || list.complete && lasts() {
            self.make_ready(id);
        }
    }

    pub(super) fn unsettle(&mut self, id: NodeId) {
        let list = self.list_of(id);
        let Some(node) = self.by_id.get_mut(&id) else { return };
        if std::mem::replace(&mut node.settled, false)
            && let Some(list) = list
        {
            self.add_pending(list);
        }
    }

    /// Completes the read of a node.
    pub(in crate::zookeeper) fn settle(&mut self, id: NodeId) {
        let list = self.list_of(id);
        let Some(node) = self.by_id.get_mut(&id) else { return };
        node.reading = false;
        if std::mem::take(&mut node.changed_while_reading) {
            self.queue(id);
        } else if !std::mem::replace(&mut node.settled, true)
            && let Some(list) = list
        {
            self.remove_pending(list);
        }
    }

    /// Marks a node as outdated and queues it for reading.
    pub(in crate::zookeeper) fn requeue(&mut self, id: NodeId) {
        self.unsettle(id);
        self.queue(id);
    }

    pub(super) fn queue(&mut self, id: NodeId) {
        let Some(node) = self.by_id.get_mut(&id) else { return };
        if node.reading {
            node.changed_while_reading = true;
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

    /// Repeats a call for a node that has failed with the connection.
    pub(in crate::zookeeper) fn interrupted(&mut self, id: NodeId) {
        if let Some(node) = self.by_id.get_mut(&id) {
            (node.reading, node.changed_while_reading) = (false, false);
        }
        if let Some(list) = self.list_mut(id) {
            list.created = false;
        }
        self.queue(id);
        self.remove_unused_master(id);
    }

    pub(in crate::zookeeper) fn watched(&mut self, id: NodeId) {
        match self.by_id.get_mut(&id) {
            Some(node) => node.watchers = node.watchers.saturating_add(1),
            None => self.orphaned_watchers += 1,
        }
    }
}
