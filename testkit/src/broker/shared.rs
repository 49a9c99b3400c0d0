//! The state that the connections of a broker share, and the updates of registries from it.

use std::sync::{
    OnceLock,
    atomic::{AtomicI64, AtomicUsize, Ordering},
};

use metaq_protocol::{BrokerAddr, BrokerId, Topic};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    counters::Counters,
    faults::Faults,
    observe::{PutMonitor, Records},
    settings::Settings,
    store::{TopicEntry, Topics},
    transactions::{LocalMessages, XaTransactions},
};
use crate::EmbeddedRegistry;

/// The state that the connections of a broker share.
#[derive(Debug)]
pub(super) struct BrokerShared {
    pub(super) id: BrokerId,
    pub(super) addr: BrokerAddr,
    pub(super) settings: Settings,
    pub(super) topics: Topics,
    pub(super) transactions: Mutex<XaTransactions>,
    pub(super) local_messages: LocalMessages,
    /// The number of ids that were issued.
    pub(super) ids: AtomicI64,
    pub(super) counters: Counters,
    pub(super) faults: Faults,
    pub(super) put_monitor: OnceLock<PutMonitor>,
    pub(super) records: Records,
    /// Notifies waiters of requests, messages and connections.
    pub(super) activity: Notify,
    pub(super) random: Mutex<fastrand::Rng>,
    pub(super) started: Instant,
    pub(super) accepted: AtomicUsize,
    pub(super) open: AtomicUsize,
    /// Counts the changes of the topics that registries list.
    pub(super) topic_changes: watch::Sender<u64>,
    pub(super) registries: Vec<EmbeddedRegistry>,
    /// The broker's own registry, made when a test first asks for it.
    pub(super) own_registry: OnceLock<EmbeddedRegistry>,
}

impl BrokerShared {
    pub(super) fn registries(&self) -> impl Iterator<Item = &EmbeddedRegistry> {
        self.registries.iter().chain(self.own_registry.get())
    }

    /// Registers a topic with its first message if only a pattern matches it (registry §12).
    pub(super) fn announce_topic(&self, topic: &TopicEntry) {
        if topic.set_registered() {
            self.notify_registries();
        }
    }

    pub(super) fn notify_registries(&self) {
        self.topic_changes.send_modify(|changes| *changes += 1);
        self.update_registries();
    }

    /// Updates the topics of the broker in all registries in the process of the test.
    pub(super) fn update_registries(&self) {
        for registry in self.registries() {
            let registered = self.topics.all().into_iter().filter(|topic| topic.is_registered());
            let published = registered.filter(|topic| topic.publishes.load(Ordering::Acquire));
            let named = published.filter_map(|topic| {
                let partitions = self.topics.partitions(Some(&topic));
                // A client may have put to a name that is no topic's.
                Topic::new(&topic.name).ok().map(|name| (name, partitions))
            });
            registry.update(self.id, &self.addr, named.collect());
        }
    }

    /// Refuses to store anything from now on, and releases the data folder. A commit completes before that,
    /// or stores nothing.
    pub(super) fn close(&self) {
        let mut xa = self.transactions.lock();
        xa.closed = true;
        self.topics.close();
    }
}
