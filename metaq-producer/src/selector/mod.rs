//! Choosing a partition for each message.

use std::{fmt, time::Duration};

use metaq_protocol::{Partition, Topic};

use crate::{Message, Outcome};

mod hash;
mod key_hash;
mod latency;
mod random;
mod rendezvous;
mod round_robin;
mod sticky;

pub use hash::key_hash;
pub use key_hash::KeyHashSelector;
pub use latency::LatencySelector;
pub use random::RandomSelector;
pub use rendezvous::RendezvousSelector;
pub use round_robin::RoundRobinSelector;
pub use sticky::StickySelector;

/// Chooses the partition that a message goes to.
///
/// It is asked once for each message, and again when the chosen partition can't take it at that moment, on
/// the task that sends it or on one of the producer's: so it must not block.
///
/// A selector that answers nonsense harms only the message that it was asked about: to refuse it, to choose a
/// partition that the topic doesn't have, or to panic ends the message with
/// [`NoPartition`](crate::SendErrorKind::NoPartition), not sent, and given back. (A program that is built to
/// abort on panics still aborts.)
///
/// ```
/// use metaq_producer::{Message, Partition, PartitionSelector, Topic};
///
/// /// Everything of one customer goes to the same partition.
/// struct ByCustomer;
///
/// impl PartitionSelector for ByCustomer {
///     fn select(&self, _: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
///         let customer: usize = message.attribute()?.parse().ok()?;
///         partitions.get(customer % partitions.len()).copied()
///     }
///
///     fn reselect(&self, _: &Topic, _: &[Partition], _: &Message, _: Partition) -> Option<Partition> {
///         None // No other partition will do.
///     }
/// }
/// ```
pub trait PartitionSelector: Send + Sync {
    /// Returns one of `partitions`, which are those of the brokers that are connected now, or those that are
    /// [configured](crate::config::PartitionSet) for the topic, sorted by broker, then by index, and never
    /// empty. `None` refuses the message.
    ///
    /// For a partition that is configured and is not there the message waits, within its timeout, and
    /// [`reselect`](Self::reselect) is not asked. The same for a partition of a broker that the registry
    /// names and that is not connected. A partition that is not configured, of a broker that the registry
    /// does not name, ends the message with [`NoPartition`](crate::SendErrorKind::NoPartition).
    ///
    /// There may be thousands of partitions, and a selector that looks at each of them does so for each
    /// message. They are sorted, so one is found by `binary_search`.
    ///
    /// Within a transaction, `partitions` are those of the transaction's broker only. For the first message
    /// of a local transaction they are those of the connected brokers that did not fail lately, if there are
    /// any. So a hash modulo the length of the list chooses others than outside of transactions. A partition
    /// that is not in the list is refused there.
    fn select(&self, topic: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition>;

    /// Another partition for a message that `unfit`, which was chosen before, can't take well at the moment:
    /// its broker failed lately or has no capacity. `None` insists on that one: then the message is sent
    /// there all the same, or waits until there is capacity. The default asks [`select`](Self::select)
    /// again.
    fn reselect(
        &self,
        topic: &Topic,
        partitions: &[Partition],
        message: &Message,
        unfit: Partition,
    ) -> Option<Partition> {
        let _ = unfit;
        self.select(topic, partitions, message)
    }

    /// A selector for `topic` alone, for selectors that keep a state for each topic. The default is none:
    /// this selector is asked for all topics.
    ///
    /// Called when a topic is published, by the program or by its first message, and again when it is
    /// published anew, after it was taken back or could not be published: its state begins anew then. Where
    /// several callers publish a topic at the same time, each may call it, and one of the selectors is used.
    /// The list of partitions that the selector is asked about is that of the topic, also where it is
    /// [configured](crate::config::PartitionSet). A panic propagates to the caller of
    /// [`publish_topic`](crate::Producer::publish_topic); it ends a message that publishes its topic
    /// with [`NoPartition`](crate::SendErrorKind::NoPartition).
    fn for_topic(&self, topic: &Topic) -> Option<Box<dyn PartitionSelector>> {
        let _ = topic;
        None
    }

    /// Whether [`observe`](Self::observe) is called. Asked once when a topic is published, so that selectors
    /// which don't learn cost nothing. The default is no.
    fn wants_outcomes(&self) -> bool {
        false
    }

    /// An attempt to send a message to `partition` ended: `latency` after it was handed to the connection,
    /// which is neither the message's wait for capacity before nor its earlier attempts. Called from the task
    /// that reads answers: it must not block. What a panic says is logged, once for each topic.
    fn observe(&self, partition: Partition, latency: Duration, outcome: Result<(), Outcome>) {
        let _ = (partition, latency, outcome);
    }
}

impl<S: PartitionSelector + ?Sized> PartitionSelector for Box<S> {
    fn select(&self, topic: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        (**self).select(topic, partitions, message)
    }

    fn reselect(
        &self,
        topic: &Topic,
        partitions: &[Partition],
        message: &Message,
        unfit: Partition,
    ) -> Option<Partition> {
        (**self).reselect(topic, partitions, message, unfit)
    }

    fn for_topic(&self, topic: &Topic) -> Option<Box<dyn PartitionSelector>> {
        (**self).for_topic(topic)
    }

    fn wants_outcomes(&self) -> bool {
        (**self).wants_outcomes()
    }

    fn observe(&self, partition: Partition, latency: Duration, outcome: Result<(), Outcome>) {
        (**self).observe(partition, latency, outcome);
    }
}

/// A selector made of a closure.
///
/// ```
/// use metaq_producer::{Producer, selector::select_fn};
///
/// let always_first = select_fn(|_topic, partitions, _message| partitions.first().copied());
/// let producer = Producer::builder()
///     .broker("meta://127.0.0.1:8123".parse()?)
///     .selector(always_first)
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn select_fn<F>(select: F) -> SelectFn<F>
where
    F: Fn(&Topic, &[Partition], &Message) -> Option<Partition> + Send + Sync,
{
    SelectFn(select)
}

/// See [`select_fn`].
pub struct SelectFn<F>(F);

impl<F> PartitionSelector for SelectFn<F>
where
    F: Fn(&Topic, &[Partition], &Message) -> Option<Partition> + Send + Sync,
{
    fn select(&self, topic: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        (self.0)(topic, partitions, message)
    }
}

impl<F> fmt::Debug for SelectFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SelectFn").finish()
    }
}

/// Helpers for the tests of all selectors.
#[cfg(test)]
mod testing {
    use super::*;

    /// The partitions of brokers 0, 1, …, with the given number each.
    pub(super) fn partitions(counts: &[i32]) -> Vec<Partition> {
        let of = |(broker, count): (usize, &i32)| {
            (0..*count)
                .map(move |index| Partition::new(i32::try_from(broker).unwrap(), index))
                .collect::<Vec<_>>()
        };
        counts.iter().enumerate().flat_map(of).collect()
    }

    pub(super) fn select(selector: &dyn PartitionSelector, partitions: &[Partition]) -> Option<Partition> {
        let topic = Topic::new("t").unwrap();
        selector.select(&topic, partitions, &Message::new(topic.clone(), ""))
    }

    pub(super) fn select_key(
        selector: &dyn PartitionSelector,
        partitions: &[Partition],
        key: impl AsRef<[u8]>,
    ) -> Option<Partition> {
        let topic = Topic::new("t").unwrap();
        selector.select(&topic, partitions, &Message::new(topic.clone(), "").with_key(key))
    }
}
