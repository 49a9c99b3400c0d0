//! The queues of a spool, by topic and partition.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering, fence},
    },
};

use metaq_producer::Topic;
use parking_lot::RwLock;

use crate::record::QueueKey;

/// A queue, as those who spool and those who replay see it.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) id: u32,
    pub(crate) key: QueueKey,
    /// The messages that wait, those included that are not committed yet.
    held: AtomicU64,
    /// The messages that are replayed, and whose removal is not committed yet.
    unremoved: AtomicU64,
    /// Messages that are replayed, and have no outcome yet.
    in_flight: AtomicU64,
    /// The messages that were moved into it.
    placed: AtomicU64,
}

impl Queue {
    pub(crate) fn new(id: u32, key: QueueKey, held: u64) -> Self {
        let zero = || AtomicU64::new(0);
        Self { id, key, held: held.into(), unremoved: zero(), in_flight: zero(), placed: zero() }
    }

    /// The number of messages that wait, those included that are being written.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    /// The number of messages that are replayed, and whose removal is not committed yet.
    pub(crate) fn unremoved(&self) -> u64 {
        self.unremoved.load(Ordering::Acquire)
    }

    /// Returns whether it is empty, and nothing but these references leads to it.
    ///
    /// New ones come only from those that exist, and from the [`Index`]: it is meaningful under its lock.
    pub(crate) fn is_unused(self: &Arc<Self>, references: usize) -> bool {
        let is_alone = Arc::strong_count(self) == references;
        // What was done through references that are gone is seen.
        fence(Ordering::Acquire);
        is_alone && !self.is_in_use() && self.unremoved() == 0
    }

    /// Whether a message waits, is being written, or is replayed: it may be dropped meanwhile, and be stored.
    pub(crate) fn is_in_use(&self) -> bool {
        self.held() > 0 || self.in_flight.load(Ordering::Acquire) > 0
    }

    pub(crate) fn set_in_flight(&self, count: usize) {
        self.in_flight.store(count as u64, Ordering::Release);
    }

    /// The number of messages that were moved into the queue, to the places of their numbers.
    pub(crate) fn placed(&self) -> u64 {
        self.placed.load(Ordering::Acquire)
    }

    pub(crate) fn add_placed(&self) {
        self.placed.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn begin_removal(&self, count: u64) {
        self.unremoved.fetch_add(count, Ordering::AcqRel);
    }

    pub(crate) fn end_removal(&self, count: u64) {
        take(&self.unremoved, count);
    }

    /// Adds a message; true when there was none.
    pub(crate) fn add(&self) -> bool {
        self.held.fetch_add(1, Ordering::AcqRel) == 0
    }

    /// Takes messages away; true when none is left.
    pub(crate) fn remove(&self, count: u64) -> bool {
        count > 0 && (1..=count).contains(&take(&self.held, count))
    }

    /// Adds messages that have come back.
    pub(crate) fn add_all(&self, count: u64) {
        self.held.fetch_add(count, Ordering::AcqRel);
    }
}

/// Subtracts as much as there is, and returns what there was.
fn take(from: &AtomicU64, count: u64) -> u64 {
    let subtract = |value: u64| Some(value.saturating_sub(count));
    from.fetch_update(Ordering::AcqRel, Ordering::Acquire, subtract).unwrap_or_default()
}

#[derive(Debug, Default)]
struct Queues {
    by_key: HashMap<QueueKey, Arc<Queue>>,
    ids: HashSet<u32>,
    next_id: u32,
}

impl Queues {
    /// A number that no queue has. All are used before one is used again.
    fn free_id(&mut self) -> u32 {
        loop {
            let id = self.next_id;
            // The last number is none: it ends the range of all.
            self.next_id = if id >= u32::MAX - 1 { 0 } else { id + 1 };
            if self.ids.insert(id) {
                return id;
            }
        }
    }
}

/// The queues that hold messages, or did a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Index {
    queues: RwLock<Queues>,
    /// The queues that were looked at by those who wanted all that hold messages.
    #[cfg(test)]
    looks: AtomicU64,
}

impl Index {
    pub(crate) fn new(queues: impl IntoIterator<Item = Arc<Queue>>, next_id: u32) -> Self {
        let by_key: HashMap<_, _> = queues.into_iter().map(|queue| (queue.key.clone(), queue)).collect();
        let ids = by_key.values().map(|queue| queue.id).collect();
        Self {
            queues: RwLock::new(Queues { by_key, ids, next_id }),
            #[cfg(test)]
            looks: AtomicU64::new(0),
        }
    }

    /// The queue with this key, if it holds a message, or did a moment ago.
    pub(crate) fn find(&self, key: &QueueKey) -> Option<Arc<Queue>> {
        self.queues.read().by_key.get(key).map(Arc::clone)
    }

    /// The queue with this key, made if there is none.
    pub(crate) fn find_or_make(&self, key: &QueueKey) -> Arc<Queue> {
        if let Some(queue) = self.find(key) {
            return queue;
        }
        let mut queues = self.queues.write();
        if let Some(queue) = queues.by_key.get(key) {
            return Arc::clone(queue);
        }
        let queue = Arc::new(Queue::new(queues.free_id(), key.clone(), 0));
        queues.by_key.insert(key.clone(), Arc::clone(&queue));
        queue
    }

    /// Forgets queues, and returns their numbers. Nobody finds one meanwhile.
    pub(crate) fn forget(&self, is_unused: impl Fn(&Arc<Queue>) -> bool) -> Vec<u32> {
        let mut queues = self.queues.write();
        let Queues { by_key, ids, .. } = &mut *queues;
        let forgotten: Vec<_> =
            by_key.extract_if(|_, queue| is_unused(queue)).map(|(_, queue)| queue.id).collect();
        for id in &forgotten {
            ids.remove(id);
        }
        by_key.shrink_to_fit();
        ids.shrink_to_fit();
        forgotten
    }

    /// The number of queues.
    pub(crate) fn len(&self) -> usize {
        self.queues.read().by_key.len()
    }

    /// The number of the next queue.
    pub(crate) fn next_id(&self) -> u32 {
        self.queues.read().next_id
    }

    /// Whether there are messages of a topic that are for one partition.
    pub(crate) fn holds_placed(&self, topic: &Topic) -> bool {
        let queues = self.queues.read();
        let mut queues = queues.by_key.values();
        queues.any(|queue| queue.key.partition.is_some() && queue.key.topic == *topic && queue.is_in_use())
    }

    /// The queues that [`filled`](Self::filled) has looked at.
    #[cfg(test)]
    pub(crate) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Acquire)
    }

    /// All queues that hold messages, in the order of their numbers.
    pub(crate) fn filled(&self) -> Vec<Arc<Queue>> {
        let queues = self.queues.read();
        #[cfg(test)]
        self.looks.fetch_add(queues.by_key.len() as u64, Ordering::AcqRel);
        let mut filled: Vec<_> =
            queues.by_key.values().filter(|queue| queue.held() > 0).map(Arc::clone).collect();
        drop(queues);
        filled.sort_unstable_by_key(|queue| queue.id);
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_keeps_its_number_and_knows_when_it_is_empty() {
        let key = |topic: &str| QueueKey { topic: topic.parse().unwrap(), partition: None };
        let index = Index::new([Arc::new(Queue::new(4, key("a"), 2))], 5);
        assert_eq!(index.find_or_make(&key("a")).id, 4);
        let other = index.find_or_make(&key("b"));
        assert_eq!((other.id, index.find_or_make(&key("b")).id), (5, 5));
        assert_eq!(index.filled().len(), 1);
        assert!(other.add() && !other.add());
        assert_eq!(index.filled().len(), 2);
        assert!(!other.remove(1) && !other.remove(0) && other.remove(1));
        assert!(!other.remove(1) && other.held() == 0, "it has no less than none");
        assert!(index.find(&key("c")).is_none());
    }

    #[test]
    fn a_queue_that_somebody_has_is_not_forgotten() {
        let key = |topic: &str| QueueKey { topic: topic.parse().unwrap(), partition: None };
        let index = Index::new([Arc::new(Queue::new(0, key("a"), 1))], u32::MAX - 1);
        let forget = || index.forget(|queue| queue.is_unused(1));
        let found = index.find_or_make(&key("b"));
        // Its number is the last one, after which those begin again that are free.
        assert_eq!((found.id, index.find_or_make(&key("c")).id), (u32::MAX - 1, 1));
        assert_eq!((forget(), index.len()), (vec![1], 2), "not between it is found and is added to");
        found.add();
        drop(found);
        assert!(forget().is_empty(), "nor while it holds a message");
        index.find(&key("b")).unwrap().remove(1);
        assert_eq!((forget(), index.len()), (vec![u32::MAX - 1], 1));
        assert_eq!(index.find_or_make(&key("b")).id, 2);
    }
}
