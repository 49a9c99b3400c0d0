//! Repeated reading of watched nodes: finds changes that were not reported, and keeps the age of views
//! accurate.
//!
//! The reads of a round are spread evenly over the interval, with at most a thousand per second.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{
    follow::{Follower, PendingCall},
    nodes::{Body, Content, NodeId, TopicChild},
    session::Call,
};
use crate::backend::deadline::after;

/// The number of concurrent reads.
const WINDOW: usize = 8;

/// The shortest time between two reads.
const MIN_GAP: Duration = Duration::from_millis(1);

/// The longest backlog. Reads that were due earlier, while the task had other work, are not made up for.
const MAX_BACKLOG: Duration = Duration::from_millis(50);

/// A round of reads of all nodes.
#[derive(Debug)]
pub(super) struct Recheck {
    interval: Duration,
    /// The topics and brokers' addresses that are not read yet in this round.
    roots: VecDeque<NodeId>,
    /// The topic whose children are being read, and those children that are not read yet.
    list: Option<NodeId>,
    children: VecDeque<NodeId>,
    next: Option<Instant>,
    under_way: usize,
}

impl Recheck {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            roots: VecDeque::new(),
            list: None,
            children: VecDeque::new(),
            next: None,
            under_way: 0,
        }
    }

    /// The time at which the next node is due; `None` while the window is full, or there is nothing to read.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next.filter(|_| self.under_way < WINDOW)
    }

    pub(super) fn answered(&mut self) {
        self.under_way -= 1;
    }
}

impl Follower<'_> {
    /// Sends the reads that are due.
    pub(super) fn send_rechecks(&mut self) {
        let now = Instant::now();
        let Some(next) = self.recheck.next else {
            if self.nodes.wanted() > 0 {
                self.recheck.roots = self.nodes.roots();
                self.recheck.next = Some(after(self.gap()));
            }
            return;
        };
        let mut next = next.max(now.checked_sub(MAX_BACKLOG).unwrap_or(now));
        while next <= now && self.recheck.under_way < WINDOW {
            let Some((id, last)) = self.next_recheck() else {
                self.recheck.roots = self.nodes.roots();
                if self.recheck.roots.is_empty() {
                    self.recheck.next = None;
                    return;
                }
                continue;
            };
            next += self.gap();
            if !self.recheck(id, last)
                && let Some(list) = last
            {
                self.nodes.refresh(list);
            }
        }
        self.recheck.next = Some(next);
    }

    /// The time to the next read, varied at random by half in either direction, because many processes start
    /// at the same time.
    ///
    /// It follows the number of nodes during a round, which may begin before most of them are known.
    fn gap(&self) -> Duration {
        let count = u32::try_from(self.nodes.wanted().max(1)).unwrap_or(u32::MAX);
        let gap = (self.recheck.interval / count).max(MIN_GAP);
        gap.mul_f64(0.5 + fastrand::f64())
    }

    /// The next node, and the topic of which it is the last one.
    fn next_recheck(&mut self) -> Option<(NodeId, Option<NodeId>)> {
        if let Some(child) = self.recheck.children.pop_front() {
            let last = self.recheck.children.is_empty();
            return Some((child, self.recheck.list.filter(|_| last)));
        }
        let id = self.recheck.roots.pop_front()?;
        let Some(list) = self.nodes.list(id) else { return Some((id, None)) };
        self.recheck.list = Some(id);
        self.recheck.children = list.children.values().copied().collect();
        Some((id, self.recheck.list.filter(|_| list.children.is_empty())))
    }

    /// Reads a node once more. Returns false if nothing was sent.
    fn recheck(&mut self, id: NodeId, last: Option<NodeId>) -> bool {
        let (Some(path), Some(node)) = (self.nodes.path(id), self.nodes.get(id)) else { return false };
        let call = match &node.body {
            Body::List(_) => Call::Names { path, watch: false },
            // A missing child is not watched; its list is.
            Body::Child(TopicChild { content: Content::Missing, .. }) if node.watchers == 0 => return false,
            Body::Child(_) | Body::Master(_) if node.watchers == 0 => {
                self.nodes.requeue(id);
                return false;
            }
            Body::Child(_) | Body::Master(_) => Call::Data { path, watch: false },
        };
        self.recheck.under_way += 1;
        self.session.send(PendingCall::Recheck(id, last), id, call);
        true
    }
}
