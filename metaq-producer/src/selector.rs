//! Choosing a partition for each message.

use std::{
    fmt,
    sync::atomic::{AtomicU32, Ordering},
};

use metaq_protocol::{Partition, Topic};

use crate::Message;

/// Chooses the partition that a message goes to.
///
/// It is asked once for each message, on the task that sends it, so it must not block.
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
/// }
/// ```
pub trait PartitionSelector: Send + Sync {
    /// One of `partitions`, which are those of the brokers that are connected now, sorted by broker, then by index,
    /// and never empty. `None` refuses the message.
    fn select(&self, topic: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition>;

    /// A selector for `topic` alone, for selectors that keep a state for each topic. Called once when the topic is
    /// published. The default is to have none: [`select`](Self::select) of this selector is asked for all topics.
    fn for_topic(&self, topic: &Topic) -> Option<Box<dyn PartitionSelector>> {
        let _ = topic;
        None
    }
}

impl<S: PartitionSelector + ?Sized> PartitionSelector for Box<S> {
    fn select(&self, topic: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        (**self).select(topic, partitions, message)
    }

    fn for_topic(&self, topic: &Topic) -> Option<Box<dyn PartitionSelector>> {
        (**self).for_topic(topic)
    }
}

/// Takes the partitions of a topic in turn. The default.
///
/// As with the Java client, the first message goes to the second partition (rule L-3). Unlike there, each topic
/// has a turn of its own, so that topics which are sent to alternately use all their partitions (K-42).
#[derive(Debug, Default)]
pub struct RoundRobinSelector {
    turn: AtomicU32,
}

impl RoundRobinSelector {
    /// A selector that begins with the second partition.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl PartitionSelector for RoundRobinSelector {
    fn select(&self, _: &Topic, partitions: &[Partition], _: &Message) -> Option<Partition> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        partitions.get(turn as usize % partitions.len().max(1)).copied()
    }

    fn for_topic(&self, _: &Topic) -> Option<Box<dyn PartitionSelector>> {
        Some(Box::new(Self::new()))
    }
}

/// Draws a partition at random for each message, all with the same chance.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomSelector {
    _private: (),
}

impl RandomSelector {
    /// A selector that draws from the thread's own random numbers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl PartitionSelector for RandomSelector {
    fn select(&self, _: &Topic, partitions: &[Partition], _: &Message) -> Option<Partition> {
        if partitions.is_empty() {
            return None;
        }
        partitions.get(fastrand::usize(..partitions.len())).copied()
    }
}

/// A selector made of a closure.
///
/// ```
/// use metaq_producer::select_fn;
///
/// let always_first = select_fn(|_topic, partitions, _message| partitions.first().copied());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn select(selector: &dyn PartitionSelector, partitions: &[Partition]) -> Option<i32> {
        let topic = Topic::new("t").unwrap();
        let message = Message::new(topic.clone(), "");
        selector.select(&topic, partitions, &message).map(|partition| partition.index)
    }

    #[test]
    fn round_robin_begins_with_the_second_partition_and_overflows_quietly() {
        let partitions = [0, 1, 2].map(|index| Partition::new(0, index));
        let selector = RoundRobinSelector::new();
        let picks: Vec<_> = (0..6).map(|_| select(&selector, &partitions).unwrap()).collect();
        assert_eq!(picks, [1, 2, 0, 1, 2, 0], "L-3, C-17");
        selector.turn.store(u32::MAX, Ordering::Relaxed);
        assert_eq!(select(&selector, &partitions), Some(0));
        assert_eq!(select(&selector, &[]), None, "K-45");
    }

    #[test]
    fn round_robin_counts_for_each_topic_by_itself() {
        let topic = Topic::new("t").unwrap();
        let shared = RoundRobinSelector::new();
        let (one, two) = (shared.for_topic(&topic).unwrap(), shared.for_topic(&topic).unwrap());
        let partitions = [0, 1].map(|index| Partition::new(0, index));
        let picks: Vec<_> = (0..4)
            .map(|_| (select(&one, &partitions).unwrap(), select(&two, &partitions).unwrap()))
            .collect();
        assert_eq!(picks, [(1, 1), (0, 0), (1, 1), (0, 0)], "K-42");
    }

    #[test]
    fn random_uses_all_partitions_about_equally() {
        let partitions = [0, 1, 2, 3].map(|index| Partition::new(0, index));
        let mut counts = [0_u32; 4];
        (0..8000).for_each(|_| counts[select(&RandomSelector::new(), &partitions).unwrap() as usize] += 1);
        assert!(counts.iter().all(|count| (1700..2300).contains(count)), "{counts:?}");
        assert_eq!(select(&RandomSelector::new(), &[]), None);
    }
}
