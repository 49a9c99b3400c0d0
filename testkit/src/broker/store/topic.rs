//! One topic: its configuration, its closed partitions, and its logs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};

use super::log::Log;

/// A topic that is configured, or that a pattern matches and a client has put to. It is never removed.
#[derive(Debug)]
pub(in crate::broker) struct TopicEntry {
    pub(in crate::broker) name: Arc<str>,
    /// The number of partitions; 0 if the topic isn't configured.
    configured: AtomicU32,
    /// Set if a pattern matches the topic.
    matches_pattern: AtomicBool,
    /// Set if registries list the topic.
    registered: AtomicBool,
    pub(in crate::broker) publishes: AtomicBool,
    pub(in crate::broker) subscribes: AtomicBool,
    any_closed: AtomicBool,
    closed: RwLock<BTreeSet<i32>>,
    pub(super) logs: RwLock<BTreeMap<i32, Arc<Mutex<Log>>>>,
}

impl TopicEntry {
    /// Returns a topic that is neither configured nor put to.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            configured: AtomicU32::new(0),
            matches_pattern: AtomicBool::new(false),
            registered: AtomicBool::new(false),
            publishes: AtomicBool::new(true),
            subscribes: AtomicBool::new(true),
            any_closed: AtomicBool::new(false),
            closed: RwLock::default(),
            logs: RwLock::default(),
        }
    }

    pub(super) fn configure(&self, partitions: u32) {
        self.configured.store(partitions, Ordering::Release);
        self.registered.store(true, Ordering::Release);
    }

    /// Returns 0 if the topic isn't configured.
    pub(super) fn configured_partitions(&self) -> u32 {
        self.configured.load(Ordering::Acquire)
    }

    pub(super) fn set_matches_pattern(&self) {
        self.matches_pattern.store(true, Ordering::Release);
    }

    /// Returns whether the topic accepts messages: it is configured, or a pattern matches it.
    pub(super) fn accepts_messages(&self) -> bool {
        self.is_configured() || self.matches_pattern.load(Ordering::Acquire)
    }

    /// Returns whether registries list the topic.
    pub(in crate::broker) fn is_registered(&self) -> bool {
        self.registered.load(Ordering::Acquire)
    }

    /// Marks the topic as listed by registries. Returns true if it was not before.
    pub(in crate::broker) fn set_registered(&self) -> bool {
        !self.registered.load(Ordering::Acquire) && !self.registered.swap(true, Ordering::AcqRel)
    }

    pub(in crate::broker) fn is_configured(&self) -> bool {
        self.configured_partitions() > 0
    }

    pub(in crate::broker) fn has_logs(&self) -> bool {
        !self.logs.read().is_empty()
    }

    /// Returns the log of a partition, if there is one.
    pub(in crate::broker) fn existing_log(&self, partition: i32) -> Option<Arc<Mutex<Log>>> {
        self.logs.read().get(&partition).cloned()
    }

    /// Returns all logs, by partition.
    pub(in crate::broker) fn logs(&self) -> Vec<(i32, Arc<Mutex<Log>>)> {
        self.logs.read().iter().map(|(index, log)| (*index, Arc::clone(log))).collect()
    }

    pub(in crate::broker) fn set_closed(&self, partition: i32, is_closed: bool) {
        let mut closed = self.closed.write();
        if is_closed {
            closed.insert(partition);
        } else {
            closed.remove(&partition);
        }
        self.any_closed.store(!closed.is_empty(), Ordering::Release);
    }

    pub(in crate::broker) fn is_closed(&self, partition: i32) -> bool {
        self.any_closed.load(Ordering::Acquire) && self.closed.read().contains(&partition)
    }
}
