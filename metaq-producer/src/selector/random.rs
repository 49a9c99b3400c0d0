//! A partition by chance.

use metaq_protocol::{Partition, Topic};

use super::PartitionSelector;
use crate::Message;

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

    /// Another partition, all others with the same chance; none if there is no other.
    fn reselect(
        &self,
        topic: &Topic,
        partitions: &[Partition],
        message: &Message,
        unfit: Partition,
    ) -> Option<Partition> {
        let Some(place) = partitions.iter().position(|partition| *partition == unfit) else {
            return self.select(topic, partitions, message);
        };
        match partitions.len() {
            0 | 1 => None,
            all => partitions.get((place + fastrand::usize(1..all)) % all).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{partitions, select};
    use super::*;

    #[test]
    fn random_uses_all_partitions_about_equally() {
        let partitions = partitions(&[4]);
        let mut counts = [0_u32; 4];
        (0..8000)
            .for_each(|_| counts[select(&RandomSelector::new(), &partitions).unwrap().index as usize] += 1);
        assert!(counts.iter().all(|count| (1700..2300).contains(count)), "{counts:?}");
        assert_eq!(select(&RandomSelector::new(), &[]), None, "L-5, K-45");
    }

    #[test]
    fn random_is_uniform_and_accepts_another_partition() {
        let all = partitions(&[2, 2]);
        let topic = Topic::new("t").unwrap();
        let message = Message::new(topic.clone(), "");
        let again = |partitions: &[Partition], unfit| {
            RandomSelector::new().reselect(&topic, partitions, &message, unfit)
        };
        for unfit in &all {
            let mut counts = std::collections::BTreeMap::new();
            for _ in 0..6000 {
                *counts.entry(again(&all, *unfit).unwrap()).or_insert(0) += 1;
            }
            assert!(!counts.contains_key(unfit), "{counts:?}");
            assert!(counts.len() == 3 && counts.values().all(|n| (1700..2300).contains(n)), "{counts:?}");
        }
        assert_eq!(again(&all[..1], all[0]), None, "there is no other");
        assert_eq!(again(&all[1..2], all[0]), Some(all[1]), "the one that can't take it is gone");
        assert_eq!(again(&[], all[0]), None);
    }
}
