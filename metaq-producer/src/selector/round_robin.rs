//! The partitions in turn.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use arc_swap::ArcSwap;
use metaq_protocol::{Partition, Topic};

use super::PartitionSelector;
use crate::Message;

/// Takes the partitions of a topic in turn. The default.
///
/// The first message goes to a partition that is drawn at random, so that many programs which send little
/// each don't all send it to the same partition; with the Java client it goes to the second one. Each topic
/// has a turn of its own, so that topics which are sent to alternately use all their partitions.
#[derive(Debug)]
pub struct RoundRobinSelector {
    turn: AtomicU32,
    /// The position at which each topic begins; none to draw it.
    start: Option<u32>,
    /// None for the order in which the partitions come.
    interleaved: Option<ArcSwap<Interleaved>>,
}

/// Partitions, and the order in which they have their turn.
#[derive(Debug, Default)]
struct Interleaved {
    sorted: Vec<Partition>,
    in_turn: Vec<Partition>,
}

impl Default for RoundRobinSelector {
    fn default() -> Self {
        Self { turn: AtomicU32::new(drawn()), start: None, interleaved: None }
    }
}

/// A random start, from which it is far until the count overflows.
fn drawn() -> u32 {
    fastrand::u32(..1 << 31)
}

impl RoundRobinSelector {
    /// A selector that begins with any partition, and has all partitions of a broker in turn before those of
    /// the next one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins each topic with the partition at `place`, modulo their number, in place of a random one. The
    /// Java client begins with 1, which is the second.
    ///
    /// ```
    /// use metaq_producer::{Message, Partition, PartitionSelector, selector::RoundRobinSelector, Topic};
    ///
    /// let selector = RoundRobinSelector::new().starting_at(1);
    /// let (topic, partitions) = (Topic::new("orders")?, [0, 1, 2].map(|index| Partition::new(0, index)));
    /// let message = Message::new(topic.clone(), "one coffee");
    /// assert_eq!(selector.select(&topic, &partitions, &message), Some(Partition::new(0, 1)));
    /// assert_eq!(selector.select(&topic, &partitions, &message), Some(Partition::new(0, 2)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn starting_at(self, place: u32) -> Self {
        Self { turn: AtomicU32::new(place), start: Some(place), ..self }
    }

    /// A selector whose turn goes from broker to broker, so that no broker gets a burst for all its
    /// partitions while the others have nothing to do. A broker with more partitions than others has its turn
    /// accordingly more often.
    #[must_use]
    pub fn interleaved() -> Self {
        Self { interleaved: Some(ArcSwap::default()), ..Self::default() }
    }
}

impl PartitionSelector for RoundRobinSelector {
    fn select(&self, _: &Topic, partitions: &[Partition], _: &Message) -> Option<Partition> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let place = turn as usize % partitions.len().max(1);
        let Some(interleaved) = &self.interleaved else {
            return partitions.get(place).copied();
        };
        let known = interleaved.load();
        if known.sorted == partitions {
            return known.in_turn.get(place).copied();
        }
        let new = Arc::new(Interleaved { sorted: partitions.to_vec(), in_turn: interleave(partitions) });
        let chosen = new.in_turn.get(place).copied();
        interleaved.store(new);
        chosen
    }

    fn for_topic(&self, _: &Topic) -> Option<Box<dyn PartitionSelector>> {
        let new = if self.interleaved.is_some() { Self::interleaved() } else { Self::new() };
        Some(Box::new(match self.start {
            Some(place) => new.starting_at(place),
            None => new,
        }))
    }
}

/// The partitions in an order in which each broker's are as far apart as they can be.
fn interleave(partitions: &[Partition]) -> Vec<Partition> {
    let mut placed = Vec::with_capacity(partitions.len());
    for of_broker in partitions.chunk_by(|a, b| a.broker == b.broker) {
        let count = of_broker.len() as f64;
        // The middles of equal parts of the round.
        placed.extend(
            of_broker.iter().enumerate().map(|(n, partition)| ((n as f64 + 0.5) / count, *partition)),
        );
    }
    placed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    placed.into_iter().map(|(_, partition)| partition).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{partitions, select};
    use super::*;

    #[test]
    fn round_robin_begins_where_it_is_told_to_and_overflows_quietly() {
        let partitions = partitions(&[3]);
        let selector = RoundRobinSelector::new().starting_at(1);
        let picks: Vec<_> = (0..6).map(|_| select(&selector, &partitions).unwrap().index).collect();
        assert_eq!(picks, [1, 2, 0, 1, 2, 0], "L-3, C-17");
        selector.turn.store(u32::MAX, Ordering::Relaxed);
        assert_eq!(select(&selector, &partitions).unwrap().index, 0);
        assert_eq!(select(&selector, &partitions).unwrap().index, 0);
        assert_eq!(select(&selector, &[]), None, "L-4, K-45");
    }

    #[test]
    fn round_robin_begins_anywhere() {
        let (topic, partitions) = (Topic::new("t").unwrap(), partitions(&[4]));
        for shared in [RoundRobinSelector::new(), RoundRobinSelector::interleaved()] {
            let (mut first, mut of_topic) = ([0; 4], [0; 4]);
            for _ in 0..2000 {
                let fresh = RoundRobinSelector::new();
                first[select(&fresh, &partitions).unwrap().index as usize] += 1;
                let own = shared.for_topic(&topic).unwrap();
                of_topic[select(&own, &partitions).unwrap().index as usize] += 1;
            }
            assert!(first.iter().chain(&of_topic).all(|n| (350..650).contains(n)), "{first:?} {of_topic:?}");
        }
        let seeded = || {
            fastrand::seed(7);
            let own = RoundRobinSelector::new().for_topic(&topic).unwrap();
            (0..9).map(|_| select(&own, &partitions).unwrap().index).collect::<Vec<_>>()
        };
        assert_eq!(seeded(), seeded(), "a simulation repeats");
    }

    #[test]
    fn round_robin_counts_for_each_topic_by_itself() {
        let topic = Topic::new("t").unwrap();
        let shared = RoundRobinSelector::new().starting_at(1);
        let (one, two) = (shared.for_topic(&topic).unwrap(), shared.for_topic(&topic).unwrap());
        let partitions = partitions(&[2]);
        let next = |selector| select(selector, &partitions).unwrap().index;
        let picks: Vec<_> = (0..4).map(|_| (next(&one), next(&two))).collect();
        assert_eq!(picks, [(1, 1), (0, 0), (1, 1), (0, 0)], "K-42");
    }

    #[test]
    fn interleaved_goes_from_broker_to_broker_and_follows_changes() {
        let selector = RoundRobinSelector::interleaved().starting_at(1);
        let selector = selector.for_topic(&Topic::new("t").unwrap()).unwrap();
        let picks = |counts: &[i32]| {
            let partitions = partitions(counts);
            let picks = (0..partitions.len()).map(|_| select(&selector, &partitions).unwrap().to_string());
            picks.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(picks(&[2, 2, 2]), "1-0 2-0 0-1 1-1 2-1 0-0", "K-43");
        assert_eq!(picks(&[4, 2]), "1-0 0-1 0-2 1-1 0-3 0-0");
        assert_eq!(picks(&[1]), "0-0");
        assert_eq!(select(&selector, &[]), None);
    }

    proptest! {
        #[test]
        fn every_partition_has_its_turn_in_each_round(
            counts in prop::collection::vec(0..7_i32, 1..6),
            start in any::<u32>(),
            interleaved: bool,
        ) {
            let partitions = partitions(&counts);
            let selector = if interleaved { RoundRobinSelector::interleaved() } else { RoundRobinSelector::new() };
            selector.turn.store(start, Ordering::Relaxed);
            let rounds = 3;
            // Where the count overflows, a partition may have its turn twice in a row at most.
            let overflows = u64::from(start) + (rounds * partitions.len()) as u64 >= u64::from(u32::MAX);
            let mut picks = std::collections::BTreeMap::new();
            for _ in 0..rounds * partitions.len() {
                let pick = select(&selector, &partitions).unwrap();
                prop_assert!(partitions.contains(&pick));
                *picks.entry(pick).or_insert(0) += 1;
            }
            let expected = if overflows { rounds - 1..=rounds + 1 } else { rounds..=rounds };
            for partition in &partitions {
                prop_assert!(expected.contains(picks.get(partition).unwrap_or(&0)), "{picks:?}");
            }
        }

        #[test]
        fn between_two_turns_of_a_broker_the_others_have_theirs(
            brokers in 2..6_usize,
            each in 1..7_i32,
        ) {
            let partitions = partitions(&vec![each; brokers]);
            let order = interleave(&partitions);
            for round in order.chunks(brokers) {
                let distinct: std::collections::BTreeSet<_> = round.iter().map(|partition| partition.broker).collect();
                prop_assert_eq!(distinct.len(), brokers);
            }
        }
    }
}
