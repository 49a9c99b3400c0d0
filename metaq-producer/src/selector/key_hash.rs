//! A partition for each key, by the remainder of its hash.

use metaq_protocol::{Partition, Topic};

use super::{PartitionSelector, RoundRobinSelector, key_hash};
use crate::Message;

/// Sends all messages of a key to the same partition, as long as the topic has the same partitions: the one
/// at [`key_hash`] modulo their number. Messages without a key are taken in turn.
///
/// When a partition comes or goes — a broker that isn't connected counts as gone — nearly all keys move,
/// unless the partitions are [configured](crate::config::PartitionSet).
/// [`RendezvousSelector`](crate::selector::RendezvousSelector) moves only those that have to.
///
/// ```
/// use metaq_producer::{selector::KeyHashSelector, Message, Producer, Topic};
///
/// let producer = Producer::builder()
///     .broker("meta://127.0.0.1:8123".parse()?)
///     .selector(KeyHashSelector::new())
///     .build()?;
/// let message = Message::new(Topic::new("orders")?, "one coffee").with_key("customer-7");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct KeyHashSelector {
    without_key: RoundRobinSelector,
}

impl KeyHashSelector {
    /// A selector by key, or else in turn.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl PartitionSelector for KeyHashSelector {
    fn select(&self, topic: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        let Some(key) = message.key() else {
            return self.without_key.select(topic, partitions, message);
        };
        let remainder = key_hash(key) % (partitions.len() as u64).max(1);
        // Less than a length, so it is one.
        partitions.get(remainder as usize).copied()
    }

    fn reselect(
        &self,
        topic: &Topic,
        partitions: &[Partition],
        message: &Message,
        _: Partition,
    ) -> Option<Partition> {
        match message.key() {
            Some(_) => None,
            None => self.without_key.select(topic, partitions, message),
        }
    }

    fn for_topic(&self, _: &Topic) -> Option<Box<dyn PartitionSelector>> {
        Some(Box::new(Self::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{partitions, select, select_key};
    use super::*;

    #[test]
    fn a_key_has_the_partition_that_its_hash_says_for_ever() {
        let partitions = partitions(&[4, 3]);
        let selector = KeyHashSelector::new();
        let golden = ["", "a", "abc", "customer-7", "客户"].map(|key| {
            let chosen = select_key(&selector, &partitions, key).unwrap();
            assert_eq!(chosen, partitions[(key_hash(key.as_bytes()) % 7) as usize]);
            chosen.to_string()
        });
        // Never change these: programs in use rely on where their keys go.
        assert_eq!(golden, ["1-2", "1-2", "0-0", "0-2", "0-3"]);
    }

    #[test]
    fn keys_that_differ_little_are_spread_evenly() {
        let partitions = partitions(&[8]);
        // Even numbers only, which a weak hash would send to half of the partitions.
        let mut counts = [0_u32; 8];
        for n in 0..16_000 {
            let key = format!("customer-{:06}", 2 * n);
            counts[select_key(&KeyHashSelector::new(), &partitions, key).unwrap().index as usize] += 1;
        }
        assert!(counts.iter().all(|count| (1850..2150).contains(count)), "{counts:?}");
    }

    #[test]
    fn takes_turns_without_a_key_and_insists_with_one() {
        let partitions = partitions(&[3]);
        let selector = KeyHashSelector::new();
        let picks: Vec<_> = (0..4).map(|_| select(&selector, &partitions).unwrap().index).collect();
        let expected: Vec<_> = (picks[0]..).take(4).map(|index| index % 3).collect();
        assert_eq!(picks, expected);
        let firsts = || select(&*selector.for_topic(&Topic::new("t").unwrap()).unwrap(), &partitions);
        let firsts: std::collections::BTreeSet<_> = (0..200).map(|_| firsts().unwrap()).collect();
        assert_eq!(firsts.len(), 3, "it begins anywhere");
        assert_eq!(select_key(&selector, &[], "a"), None);
        let topic = Topic::new("t").unwrap();
        let message = Message::new(topic.clone(), "");
        let unfit = partitions[0];
        assert!(selector.reselect(&topic, &partitions, &message, unfit).is_some());
        assert_eq!(selector.reselect(&topic, &partitions, &message.with_key("a"), unfit), None);
    }
}
