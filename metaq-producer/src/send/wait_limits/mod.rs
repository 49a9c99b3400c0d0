//! The limits of what may wait for one broker, so that it doesn't take the capacity of all.
//!
//! An accepted message keeps its capacity while it waits. Messages that insist on a broker that is away or
//! slow would fill the capacity, and none could be accepted for the brokers that work. A message that can't
//! be handed to a connection at once is therefore accepted only if three times what waits for its broker,
//! and all that waits, fit into the capacity together: one such broker takes a quarter of it at most, and
//! several leave something to the others. Else the message waits outside, without capacity, until those of
//! its queue have left.
//!
//! Each queue may hold one message whatever else waits, so that one goes when what the queue waits for comes.
//! A task that is let in and doesn't notice in time, because its task isn't run any more, loses the place to
//! the next.

mod outside;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use metaq_protocol::BrokerId;
use parking_lot::Mutex;

use outside::{Outside, Untaken};

use crate::{
    panics,
    route::wait_queue::{WaitQueues, WaitReason},
    send::{permits::Share, submit::Submitter, timers::Timers},
};

pub(crate) struct WaitLimits {
    capacity: Load,
    inner: Mutex<Inner>,
    timers: Arc<Timers>,
    /// The submitter that runs what is due.
    submitter: OnceLock<Weak<Submitter>>,
}

#[derive(Default)]
struct Inner {
    all: Load,
    groups: BTreeMap<Group, Waiting>,
    queues: HashMap<QueueKey, Queue, foldhash::fast::FixedState>,
    /// The number of who came to wait outside last.
    last: u64,
    /// Those who were let in and have not noticed yet, by their numbers.
    untaken: BTreeMap<u64, Untaken>,
    /// The time that the last one to be let in took to notice.
    last_took: Duration,
    /// Whether a timer is set that looks for those who don't notice.
    is_watched: bool,
    is_closed: bool,
}

/// The broker that messages wait for; none if it can be any of the topic.
type Group = Option<BrokerId>;

/// The queues of a topic, by their address, and the one of them.
type QueueKey = (usize, WaitReason);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    messages: usize,
    bytes: usize,
}

/// The messages that wait for one broker.
#[derive(Default)]
struct Waiting {
    load: Load,
    /// Those who wait outside, by their numbers, and their queues.
    outside: BTreeMap<u64, QueueKey>,
}

#[derive(Default)]
struct Queue {
    /// The number of its permits.
    permits: usize,
    /// Those who wait outside, by their numbers.
    outside: BTreeMap<u64, Outside>,
}

/// A message may wait in a queue as long as it is held.
pub(crate) struct WaitPermit {
    limits: Arc<WaitLimits>,
    waits: Arc<WaitQueues>,
    reason: WaitReason,
    share: Share,
}

impl Load {
    fn of(share: Share) -> Self {
        Self { messages: 1, bytes: share.bytes() }
    }

    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }

    fn subtract(&mut self, other: Self) {
        self.messages -= other.messages;
        self.bytes -= other.bytes;
    }
}

impl WaitReason {
    fn group(self) -> Group {
        match self {
            Self::NoBroker | Self::AnyCapacity(_) => None,
            Self::Away(broker) | Self::Capacity(broker, _) => Some(broker),
            Self::Turn(partition) | Self::Unnamed(partition) => Some(partition.broker),
        }
    }
}

fn key(waits: &Arc<WaitQueues>, reason: WaitReason) -> QueueKey {
    (Arc::as_ptr(waits).addr(), reason)
}

impl WaitLimits {
    /// Limits in proportion to the producer's limits of messages and bytes. `timers` watch the tasks that are
    /// let in.
    pub(crate) fn new(max_messages: usize, max_bytes: usize, timers: &Arc<Timers>) -> Arc<Self> {
        let capacity = Load { messages: max_messages, bytes: max_bytes };
        let (inner, submitter) = (Mutex::default(), OnceLock::new());
        Arc::new(Self { capacity, inner, timers: Arc::clone(timers), submitter })
    }

    /// Sets the submitter that runs timers.
    pub(crate) fn set_submitter(&self, submitter: Weak<Submitter>) {
        let _ = self.submitter.set(submitter);
    }

    /// A permit for a new message, unless the limit is reached or others wait outside for the same.
    pub(crate) fn try_enter(
        self: &Arc<Self>,
        waits: &Arc<WaitQueues>,
        reason: WaitReason,
        share: Share,
    ) -> Option<WaitPermit> {
        if !self.inner.lock().try_enter(self.capacity, key(waits, reason), share) {
            return None;
        }
        Some(self.permit(waits, reason, share))
    }

    /// A permit for a message that was accepted before.
    pub(crate) fn enter(
        self: &Arc<Self>,
        waits: &Arc<WaitQueues>,
        reason: WaitReason,
        share: Share,
    ) -> WaitPermit {
        self.inner.lock().enter(key(waits, reason), share);
        self.permit(waits, reason, share)
    }

    /// Refuses all who wait outside.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.is_closed = true;
        inner.groups.values_mut().for_each(|group| group.outside.clear());
        let outside: Vec<_> =
            inner.queues.values_mut().map(|queue| std::mem::take(&mut queue.outside)).collect();
        drop(inner);
        // Wakes their tasks.
        panics::contain_each(outside.into_iter().flatten(), drop);
    }

    fn permit(self: &Arc<Self>, waits: &Arc<WaitQueues>, reason: WaitReason, share: Share) -> WaitPermit {
        WaitPermit { limits: Arc::clone(self), waits: Arc::clone(waits), reason, share }
    }
}

impl Inner {
    /// Whether a message may come to wait in the queue.
    fn has_place(&self, capacity: Load, (queue, reason): QueueKey, share: Share) -> bool {
        if self.queues.get(&(queue, reason)).is_none_or(|queue| queue.permits == 0) {
            return true;
        }
        let of_broker = self.groups.get(&reason.group()).map(|group| group.load).unwrap_or_default();
        let fits = |capacity: usize, of_broker: usize, all: usize, rare: usize| {
            3 * of_broker + all + 4 * rare <= capacity
        };
        fits(capacity.messages, of_broker.messages, self.all.messages, 1)
            && fits(capacity.bytes, of_broker.bytes, self.all.bytes, share.bytes())
    }

    /// Enters a new message if there is a place and no task waits outside for it.
    fn try_enter(&mut self, capacity: Load, key: QueueKey, share: Share) -> bool {
        let has_outside = self.queues.get(&key).is_some_and(|queue| !queue.outside.is_empty());
        let enters = !has_outside && self.has_place(capacity, key, share);
        if enters {
            self.enter(key, share);
        }
        enters
    }

    fn enter(&mut self, key: QueueKey, share: Share) {
        let load = Load::of(share);
        self.all.add(load);
        self.groups.entry(key.1.group()).or_default().load.add(load);
        self.queues.entry(key).or_default().permits += 1;
    }

    fn leave(&mut self, key: QueueKey, share: Share) {
        let load = Load::of(share);
        self.all.subtract(load);
        if let Some(group) = self.groups.get_mut(&key.1.group()) {
            group.load.subtract(load);
        }
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.permits -= 1;
        }
        self.tidy(key);
    }

    /// Removes queues without waiters.
    fn tidy(&mut self, key: QueueKey) {
        if self.queues.get(&key).is_some_and(|queue| queue.permits == 0 && queue.outside.is_empty()) {
            self.queues.remove(&key);
        }
        let group = key.1.group();
        if self.groups.get(&group).is_some_and(|group| group.load.messages == 0 && group.outside.is_empty()) {
            self.groups.remove(&group);
        }
    }
}

impl WaitPermit {
    /// The message, which was accepted, waits for another reason from now on.
    pub(crate) fn change(&mut self, reason: WaitReason) {
        self.change_if(reason, |inner, new, share| {
            inner.enter(new, share);
            true
        });
    }

    /// The message, which is not accepted yet, has to wait for another reason. None if it may not.
    pub(crate) fn try_change(mut self, reason: WaitReason) -> Option<Self> {
        let capacity = self.limits.capacity;
        let is_changed = self.change_if(reason, |inner, new, share| inner.try_enter(capacity, new, share));
        is_changed.then_some(self)
    }

    fn change_if(
        &mut self,
        reason: WaitReason,
        enter: impl FnOnce(&mut Inner, QueueKey, Share) -> bool,
    ) -> bool {
        if reason == self.reason {
            return true;
        }
        let (old, new) = (key(&self.waits, self.reason), key(&self.waits, reason));
        {
            let mut inner = self.limits.inner.lock();
            inner.leave(old, self.share);
            if !enter(&mut inner, new, self.share) {
                inner.enter(old, self.share);
                return false;
            }
        }
        self.reason = reason;
        self.limits.let_in(old);
        true
    }
}

impl Drop for WaitPermit {
    fn drop(&mut self) {
        let key = key(&self.waits, self.reason);
        self.limits.inner.lock().leave(key, self.share);
        self.limits.let_in(key);
    }
}

impl fmt::Debug for WaitPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitPermit").field("reason", &self.reason).finish_non_exhaustive()
    }
}
