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
}
