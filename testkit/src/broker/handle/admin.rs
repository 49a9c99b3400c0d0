//! The actions of an operator on a running broker: topics, partitions, the disk, decisions, registration.

use std::{io, sync::atomic::Ordering};

use metaq_protocol::{Topic, XaTransactionId};

use super::broker::Broker;
#[cfg(any(feature = "zookeeper", feature = "etcd"))]
use crate::broker::registration::{Registration, Registry};
use crate::broker::transactions::Heuristic;

impl Broker {
    /// Adds a topic, or changes its number of partitions. Messages are kept, but partitions beyond the number
    /// accept no more.
    ///
    /// # Panics
    /// When `topic` is not a valid name.
    pub fn set_topic(&self, topic: impl AsRef<str>, partitions: u32) {
        let name = topic.as_ref();
        assert!(Topic::new(name).is_ok(), "{name:?} is no name of a topic");
        self.shared.topics.configure(name, partitions);
        self.shared.notify_registries();
    }

    /// Sets whether a topic is registered for producers and for consumers, both true at first. As in a Java
    /// broker the topic accepts and returns messages regardless. Has no effect on an unknown topic.
    pub fn set_accepts(&self, topic: impl AsRef<str>, publish: bool, subscribe: bool) {
        if let Some(topic) = self.shared.topics.get(topic.as_ref()) {
            topic.publishes.store(publish, Ordering::Release);
            topic.subscribes.store(subscribe, Ordering::Release);
            self.shared.notify_registries();
        }
    }

    /// Closes a partition, as an operator does: it neither accepts nor returns messages (status 403), except
    /// in transactions and when the client leaves the choice of the partition to the broker. The
    /// partition stays registered. Has no effect on an unknown topic.
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

    /// Makes all messages readable, and writes them through to the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn flush(&self) -> io::Result<()> {
        let flushed = self.shared.topics.flush();
        self.shared.activity.notify_waiters();
        flushed
    }

    /// Drops the oldest segment of a partition, as a Java broker does with old ones. Returns false if only
    /// the active segment is left.
    ///
    /// # Errors
    /// When its file can't be removed.
    pub fn drop_oldest_segment(&self, topic: impl AsRef<str>, index: i32) -> io::Result<bool> {
        let log = self.shared.topics.get(topic.as_ref()).and_then(|topic| topic.existing_log(index));
        log.map_or(Ok(false), |log| self.shared.topics.drop_oldest_segment(&log))
    }

    /// Completes a prepared XA transaction without its owner, as an operator of a Java broker can. The steps
    /// of the owner fail with that outcome until it forgets the transaction. Returns false if no such
    /// transaction is prepared.
    ///
    /// # Errors
    /// When the messages of a transaction to commit can't be stored.
    pub fn decide(&self, id: &XaTransactionId, heuristic: Heuristic) -> io::Result<bool> {
        let decided = self.shared.decide(id, heuristic);
        self.shared.activity.notify_waiters();
        decided
    }

    /// Registers a running broker in one more registry, as [`register_in`](crate::BrokerBuilder::register_in)
    /// does at the start. A program that gives up on a registry that doesn't answer can
    /// [`shut_down`](Self::shut_down) the broker, which removes it from the registries where it is registered
    /// already.
    ///
    /// # Errors
    /// When the broker can't be registered there: `AlreadyExists` when another live broker has its id. Its
    /// other registrations are not affected.
    ///
    /// # Cancel safety
    /// When the future is dropped early, the broker doesn't stay registered there; entries that were created
    /// expire.
    #[cfg(any(feature = "zookeeper", feature = "etcd"))]
    pub async fn register(&mut self, registry: Registry) -> io::Result<()> {
        let registration = Registration::new(registry, std::sync::Arc::clone(&self.shared)).await?;
        self.registrations.push(registration);
        Ok(())
    }
}
