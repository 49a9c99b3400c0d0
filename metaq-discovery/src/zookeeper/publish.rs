//! Watches of topics, and the publishing of their views.

use metaq_protocol::Topic;

use super::{
    follow::Follower,
    nodes::{Found, NodeId},
    shared::Request,
};
use crate::{
    DiscoveryError,
    backend::notices::Notice,
    panics::{contain, log},
};

/// The number of topics that are added, and of those that are left, per turn.
const TOPICS_PER_TURN: usize = 128;

impl Follower<'_> {
    /// Handles queued requests, and leaves topics that are no longer watched.
    pub(super) fn take_requests(&mut self) {
        let (requests, dropped) = {
            let mut shared = self.inner.shared.lock();
            let count = TOPICS_PER_TURN.min(shared.requests.len());
            let requests: Vec<_> = shared.requests.drain(..count).collect();
            let kept = shared.dropped.len().saturating_sub(TOPICS_PER_TURN);
            let dropped = shared.dropped.split_off(kept);
            if !shared.requests.is_empty() || !shared.dropped.is_empty() {
                self.inner.wake.notify_one();
            }
            (requests, dropped)
        };
        for topic in dropped {
            self.drop_topic(&topic);
        }
        for _ in 0..TOPICS_PER_TURN {
            let Some(topic) = self.topics.pop_front() else { break };
            self.nodes.want(&topic);
        }
        for request in requests {
            match request {
                closed if closed.is_closed() => {}
                Request::Watch(topic, reply) => {
                    let (node, is_read) = self.nodes.want(&topic);
                    if is_read {
                        self.waiting.entry(node).or_default().push(reply);
                    } else {
                        self.barriers.push_back((node, reply));
                    }
                }
                Request::Topics(reply) => self.topic_requests.push_back(reply),
            }
        }
    }

    /// Leaves a topic unless it is watched, or a call waits for it.
    fn drop_topic(&mut self, topic: &Topic) {
        if self.inner.shared.lock().is_watched(topic) {
            return;
        }
        if let Some(node) = self.nodes.topic(topic) {
            let waiting = self.waiting.get_mut(&node);
            if waiting.is_some_and(|waiting| waiting.iter().any(|reply| !reply.is_closed())) {
                return;
            }
            self.waiting.remove(&node);
        }
        self.inner.reports.lock().forget(topic);
        self.nodes.unwant(topic);
    }

    /// Publishes the view of the next topic that is completely read, and replies to the calls that wait for
    /// it. Returns false if there is none.
    pub(super) fn publish_next(&mut self) -> bool {
        if self.nodes.take_affected() {
            return true;
        }
        let Some(id) = self.nodes.next_ready() else { return false };
        let Some(list) = self.nodes.list(id) else { return true };
        match &list.found {
            Found::Failed(error) => {
                let error = error.clone();
                self.failed(id, &error);
            }
            Found::Unread => {}
            Found::Missing | Found::There => self.publish(id),
        }
        true
    }

    fn publish(&mut self, id: NodeId) {
        let Some(list) = self.nodes.list(id).filter(|list| list.wanted) else { return };
        let (view, bad) = self.nodes.view(list);
        let topic = list.topic.clone();
        let (inner, notices) = (self.inner, &self.inner.notices);
        let new = inner.reports.lock().report(topic.clone(), bad);
        new.into_iter().for_each(|entry| notices.push(Notice::BadEntry(entry)));
        let publishers = inner.shared.lock().publishers.of(&topic);
        let waiting = if self.nodes.is_settled(id) { self.waiting.remove(&id) } else { None };
        let waiting = waiting.unwrap_or_default();
        let watches: Vec<_> = waiting.iter().map(|_| inner.new_watch(view.clone())).collect();
        let is_watched = !publishers.is_empty();
        if is_watched {
            notices.push(Notice::View(publishers, view));
        }
        notices.deliver(&inner.events);
        // If the caller has gone, this drops the watch.
        waiting.into_iter().zip(watches).for_each(|(reply, watch)| contain(|| drop(reply.send(Ok(watch)))));
        if self.nodes.list_mut(id).is_some_and(|list| std::mem::take(&mut list.was_failed)) {
            log(|| tracing::info!(%topic, "topic is read again"));
        }
        if !is_watched && !inner.shared.lock().is_watched(&topic) {
            self.drop_topic(&topic);
        }
    }

    /// Handles a topic that can't be listed.
    fn failed(&mut self, id: NodeId, error: &DiscoveryError) {
        let waiting = self.waiting.remove(&id).unwrap_or_default();
        waiting.into_iter().for_each(|reply| contain(|| drop(reply.send(Err(error.clone())))));
        let Some(list) = self.nodes.list_mut(id) else { return };
        let (topic, was_failed) = (list.topic.clone(), std::mem::replace(&mut list.was_failed, true));
        if !self.inner.shared.lock().is_watched(&topic) {
            self.drop_topic(&topic);
        } else if !was_failed {
            log(|| tracing::warn!(%topic, %error, "topic can't be read; its last view holds"));
        }
    }
}
