//! The actions of an operator on a running broker: topics, partitions, its disk, and decisions.

use std::{io, sync::atomic::Ordering};

use metaq_protocol::{Topic, XaTransactionId};

use super::broker::Broker;
#[cfg(any(feature = "zookeeper", feature = "etcd"))]
use crate::broker::registration::{Registration, Registry};
use crate::broker::transactions::Heuristic;

impl Broker {
    /// Adds a topic, or changes its number of partitions. What partitions hold is kept, but those beyond the number take
    /// nothing more.
    ///
    /// # Panics
    /// When the name can't be that of a topic.
    pub fn set_topic(&self, topic: impl AsRef<str>, partitions: u32) {
        let name = topic.as_ref();
        assert!(Topic::new(name).is_ok(), "{name:?} is no name of a topic");
        self.shared.topics.configure(name, partitions);
        self.shared.notify_registries();
    }

    /// Whether a topic is registered for producers and for consumers, both true at first. It takes messages and hands them
    /// out all the same, as a Java broker does. Without effect on a topic that there is not.
    pub fn set_accepts(&self, topic: impl AsRef<str>, publish: bool, subscribe: bool) {
        if let Some(topic) = self.shared.topics.get(topic.as_ref()) {
            topic.publishes.store(publish, Ordering::Release);
            topic.subscribes.store(subscribe, Ordering::Release);
            self.shared.notify_registries();
        }
    }

    /// Closes a partition, as an operator does: it neither takes nor hands out messages (status 403), except in
    /// transactions and when the choice is left to the broker. It stays registered. Without effect when there is no such
    /// topic.
    pub fn close_partition(&self, topic: impl AsRef<str>, index: i32) {
        if let Some(topic) = self.shared.topics.get(topic.as_ref()) {
            topic.set_closed(index, true);
        }
    }

    /// Opens a partition that was [closed](Self::close_partition).
    pub fn open_partition(&self, topic: impl AsRef<str>, index: i32) {
        if let Some(topic) = self.shared.topics.get(topic.as_ref()) {
            topic.set_closed(index, false);
        }
    }

    /// Makes all messages readable, and has them written through to the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn flush(&self) -> io::Result<()> {
        let flushed = self.shared.topics.flush();
        self.shared.activity.notify_waiters();
        flushed
    }

    /// Drops the oldest segment of a partition, as a Java broker does with old ones. False when there is only the one that
    /// is written to.
    ///
    /// # Errors
    /// When its file can't be removed.
    pub fn drop_oldest_segment(&self, topic: impl AsRef<str>, index: i32) -> io::Result<bool> {
        let log = self.shared.topics.get(topic.as_ref()).and_then(|topic| topic.existing_log(index));
        log.map_or(Ok(false), |log| self.shared.topics.drop_oldest_segment(&log))
    }

    /// Ends a prepared XA transaction behind its owner's back, as an operator of a Java broker can; the owner is told so
    /// until it forgets it. False when no such transaction is prepared.
    ///
    /// # Errors
    /// When it was to be committed, and its messages can't be stored.
    pub fn decide(&self, id: &XaTransactionId, heuristic: Heuristic) -> io::Result<bool> {
        let decided = self.shared.decide(id, heuristic);
        self.shared.activity.notify_waiters();
        decided
    }

    /// Registers a running broker in one more registry, as [`register_in`](crate::BrokerBuilder::register_in) does for one that
    /// is started. Whoever may have to give up while a registry doesn't answer can [`shut_down`](Self::shut_down) the broker
    /// then, which takes it out of those where it is registered already.
    ///
    /// # Errors
    /// When the broker can't be registered there: `AlreadyExists` when its id is that of another live broker. Its other
    /// registrations are not affected.
    ///
    /// # Cancel safety
    /// When the future is dropped before it is done, the broker is not kept registered there; what was entered expires.
    #[cfg(any(feature = "zookeeper", feature = "etcd"))]
    pub async fn register(&mut self, registry: Registry) -> io::Result<()> {
        let registration = Registration::new(registry, std::sync::Arc::clone(&self.shared)).await?;
        self.registrations.push(registration);
        Ok(())
    }
}
