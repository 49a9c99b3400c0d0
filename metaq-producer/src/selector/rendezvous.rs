//! A partition for each key, which changes only when it must.

use metaq_protocol::{Partition, Topic};

use super::{PartitionSelector, RoundRobinSelector, key_hash};
use crate::Message;

/// Sends all messages of a key to the same partition. When partitions go, only their keys move, each to
/// another one, evenly; when partitions come, they take their share of keys from all others, and no key moves
/// between those. Messages without a key are taken in turn.
///
/// A broker that isn't connected counts as gone: its keys go elsewhere until it is back, unless the
/// partitions are [configured](crate::config::PartitionSet). Choosing takes a few
/// nanoseconds for each partition of the topic, so for hundreds of partitions
/// [`KeyHashSelector`](crate::selector::KeyHashSelector) is faster.
///
/// # How it chooses
/// By rendezvous hashing: the partition with the largest score, where the score of a key and partition is
/// `mix(h ^ mix(p))`, with `h` the [`key_hash`], `p` the broker's id in the upper 32 bits and the partition's
/// index in the lower, both as unsigned numbers, and `mix` the finalizer of SplitMix64:
///
/// ```text
/// x += 0x9e3779b97f4a7c15;
/// x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
/// x = (x ^ x >> 27) * 0x94d049bb133111eb;
/// x ^ x >> 31
/// ```
///
/// in 64 bits. None of this ever changes.
///
/// ```
/// use metaq_producer::{Producer, selector::RendezvousSelector};
///
/// let producer = Producer::builder()
///     .broker("meta://127.0.0.1:8123".parse()?)
///     .selector(RendezvousSelector::new())
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct RendezvousSelector {
    without_key: RoundRobinSelector,
}

impl RendezvousSelector {
    /// A selector by key, or else in turn.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl PartitionSelector for RendezvousSelector {
    fn select(&self, topic: &Topic, partitions: &[Partition], message: &Message) -> Option<Partition> {
        let Some(key) = message.key() else {
            return self.without_key.select(topic, partitions, message);
        };
        let hash = key_hash(key);
        // `mix` maps no two numbers to one, so no two partitions have the same score.
        partitions.iter().copied().max_by_key(|partition| score(hash, *partition))
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

fn score(hash: u64, partition: Partition) -> u64 {
    let bits = |number: i32| u64::from(number.cast_unsigned());
    mix(hash ^ mix(bits(partition.broker.0) << 32 | bits(partition.index)))
}

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::super::testing::{partitions, select, select_key};
    use super::*;

    fn chosen(partitions: &[Partition], key: impl AsRef<[u8]>) -> Partition {
        select_key(&RendezvousSelector::new(), partitions, key).unwrap()
    }

    #[test]
    fn a_key_has_the_partition_that_is_written_down_for_ever() {
        let partitions = partitions(&[4, 3, 2]);
        let golden = ["", "a", "abc", "customer-7", "客户"].map(|key| chosen(&partitions, key).to_string());
        // Never change these: programs in use rely on where their keys go.
        assert_eq!(golden, ["0-1", "2-0", "0-0", "2-0", "0-0"]);
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf, "the first number of SplitMix64 with seed 0");
        assert_eq!(score(key_hash(b"abc"), Partition::new(1, 2)), 0xbc31_739e_b33f_881e);
        assert_eq!(score(key_hash(b"abc"), Partition::new(-1, 0)), 0x3fbe_151a_86c5_6aac);
    }

    #[test]
    fn keys_are_spread_evenly_also_those_of_a_broker_that_is_gone() {
        let all = partitions(&[4, 4, 4]);
        let rest: Vec<_> = all.iter().copied().filter(|partition| partition.broker.0 != 1).collect();
        let (mut before, mut moved) = (BTreeMap::new(), BTreeMap::new());
        for n in 0..24_000 {
            let key = format!("{n}");
            let old = chosen(&all, &key);
            *before.entry(old).or_insert(0) += 1;
            if old.broker.0 == 1 {
                *moved.entry(chosen(&rest, &key)).or_insert(0) += 1;
            }
        }
        assert!(before.len() == 12 && before.values().all(|n| (1800..2200).contains(n)), "{before:?}");
        assert!(moved.len() == 8 && moved.values().all(|n| (850..1150).contains(n)), "{moved:?}");
    }

    #[test]
    fn takes_turns_without_a_key_and_insists_with_one() {
        let partitions = partitions(&[3]);
        let selector = RendezvousSelector::new();
        let picks: Vec<_> = (0..4).map(|_| select(&selector, &partitions).unwrap().index).collect();
        let expected: Vec<_> = (picks[0]..).take(4).map(|index| index % 3).collect();
        assert_eq!(picks, expected);
        let firsts = || select(&*selector.for_topic(&Topic::new("t").unwrap()).unwrap(), &partitions);
        let firsts: BTreeSet<_> = (0..200).map(|_| firsts().unwrap()).collect();
        assert_eq!(firsts.len(), 3, "it begins anywhere");
        assert_eq!(select_key(&selector, &[], "a"), None);
        let topic = Topic::new("t").unwrap();
        let message = Message::new(topic.clone(), "").with_key("a");
        assert_eq!(selector.reselect(&topic, &partitions, &message, partitions[0]), None);
    }

    fn any_partitions() -> impl Strategy<Value = BTreeSet<(i32, i32)>> {
        prop::collection::btree_set((-1..5_i32, 0..6_i32), 1..20)
    }

    fn as_partitions<'a>(pairs: impl Iterator<Item = &'a (i32, i32)>) -> Vec<Partition> {
        pairs.map(|(broker, index)| Partition::new(*broker, *index)).collect()
    }

    proptest! {
        #[test]
        fn a_key_moves_only_when_it_must(
            before in any_partitions(),
            after in any_partitions(),
            key in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let old = chosen(&as_partitions(before.iter()), &key);
            let new = chosen(&as_partitions(after.iter()), &key);
            let is_in = |set: &BTreeSet<_>, partition: Partition| set.contains(&(partition.broker.0, partition.index));
            // Either its partition is gone, or a new one took it over.
            prop_assert!(new == old || !is_in(&after, old) || !is_in(&before, new));
        }

        #[test]
        fn the_order_of_the_partitions_makes_no_difference(
            all in any_partitions(),
            key in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let sorted = as_partitions(all.iter());
            let reversed: Vec<_> = sorted.iter().rev().copied().collect();
            prop_assert_eq!(chosen(&sorted, &key), chosen(&reversed, &key));
        }
    }
}
