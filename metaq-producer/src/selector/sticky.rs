//! One partition for many messages, then another.

use std::time::Duration;

use metaq_protocol::{Partition, Topic};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::PartitionSelector;
use crate::{Message, deadline};

/// Stays with a partition for some messages or some time, whichever is over first, and then draws another one
/// at random.
///
/// Messages that are sent at the same time go to one broker then, in fewer and larger writes, which saves
/// both sides work. In the long run all partitions get the same share. When the partition can't take a
/// message, because its broker is gone, failed lately or has no capacity, it moves at once.
///
/// Among [configured](crate::config::PartitionSet) partitions it stays with one that is away as with any
/// other: a selector does not learn which of them are there, so the messages of that stay, 128 by default,
/// wait for the partition within their timeouts. Configured partitions suit selectors by key.
///
/// Each topic has a stay of its own.
///
/// ```
/// use std::time::Duration;
/// use metaq_producer::{Producer, selector::StickySelector};
///
/// let producer = Producer::builder()
///     .broker("meta://127.0.0.1:8123".parse()?)
///     .selector(StickySelector::new().messages(500).time(Duration::from_millis(20)))
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StickySelector {
    messages: u32,
    time: Duration,
    stay: Mutex<Option<Stay>>,
}

#[derive(Clone, Copy, Debug)]
struct Stay {
    partition: Partition,
    left: u32,
    until: Instant,
}

impl Default for StickySelector {
    fn default() -> Self {
        Self { messages: 128, time: Duration::from_millis(100), stay: Mutex::new(None) }
    }
}

impl StickySelector {
    /// A selector that stays for 128 messages, and at most for 100 ms.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// For how many messages it stays at most. With 1, or 0, it draws for each message. Too many, and one
    /// broker gets all of a burst.
    #[must_use]
    pub fn messages(self, messages: u32) -> Self {
        Self { messages, ..self }
    }

    /// For how long it stays at most. With zero it draws for each message. Too long, and where few messages
    /// are sent the consumers of one partition get them all for a while.
    #[must_use]
    pub fn time(self, time: Duration) -> Self {
        Self { time, ..self }
    }

    /// Draws a partition other than `last`, if there is another.
    fn move_on(&self, partitions: &[Partition], last: Option<Partition>, now: Instant) -> Option<Stay> {
        // They are sorted. There may be thousands, and it is asked again while the one that it draws is away.
        let place = last.and_then(|last| partitions.binary_search(&last).ok());
        let drawn = match (place, partitions.len()) {
            (_, 0) => return None,
            (Some(place), others @ 2..) => (place + fastrand::usize(1..others)) % others,
            (_, all) => fastrand::usize(..all),
        };
        let until = deadline::at(now, self.time);
        Some(Stay { partition: *partitions.get(drawn)?, left: self.messages, until })
    }
}

impl PartitionSelector for StickySelector {
    fn select(&self, _: &Topic, partitions: &[Partition], _: &Message) -> Option<Partition> {
        let now = Instant::now();
        let mut stay = self.stay.lock();
        let last = stay.map(|stay| stay.partition);
        let kept = stay.filter(|stay| {
            stay.left > 0 && now < stay.until && partitions.binary_search(&stay.partition).is_ok()
        });
        let mut chosen = match kept {
            Some(stay) => stay,
            None => self.move_on(partitions, last, now)?,
        };
        chosen.left = chosen.left.saturating_sub(1);
        *stay = Some(chosen);
        Some(chosen.partition)
    }

    fn reselect(
        &self,
        topic: &Topic,
        partitions: &[Partition],
        message: &Message,
        unfit: Partition,
    ) -> Option<Partition> {
        {
            let mut stay = self.stay.lock();
            // Another message may have moved it meanwhile.
            if let Some(stay) = stay.as_mut().filter(|stay| stay.partition == unfit) {
                stay.left = 0;
            }
        }
        self.select(topic, partitions, message)
    }

    fn for_topic(&self, _: &Topic) -> Option<Box<dyn PartitionSelector>> {
        Some(Box::new(Self::new().messages(self.messages).time(self.time)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::testing::{partitions, select};
    use super::*;

    #[test]
    fn it_stays_for_so_many_messages_and_is_fair_in_the_long_run() {
        let partitions = partitions(&[2, 2]);
        let selector = StickySelector::new().messages(10).time(Duration::from_secs(3600));
        let selector = selector.for_topic(&Topic::new("t").unwrap()).unwrap();
        let picks: Vec<_> = (0..40_000).map(|_| select(&selector, &partitions).unwrap()).collect();
        let mut counts = BTreeMap::new();
        for (stay, next) in picks.chunks(10).zip(picks.chunks(10).skip(1)) {
            assert!(stay.iter().all(|pick| *pick == stay[0]));
            assert_ne!(stay[0], next[0], "it moves on");
            *counts.entry(stay[0]).or_insert(0) += 1;
        }
        assert!(counts.len() == 4 && counts.values().all(|n| (900..1100).contains(n)), "{counts:?}");
        assert_eq!(select(&selector, &[]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn it_stays_for_so_long() {
        let partitions = partitions(&[3]);
        let selector = StickySelector::new().messages(u32::MAX).time(Duration::from_millis(20));
        let first = select(&selector, &partitions);
        for _ in 0..1000 {
            assert_eq!(select(&selector, &partitions), first);
        }
        tokio::time::advance(Duration::from_millis(19)).await;
        assert_eq!(select(&selector, &partitions), first);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_ne!(select(&selector, &partitions), first);
        let endless = StickySelector::new().time(Duration::MAX);
        assert_eq!(select(&endless, &partitions), select(&endless, &partitions));
    }

    #[test]
    fn it_leaves_a_partition_that_is_unfit_or_gone_at_once() {
        let all = partitions(&[2]);
        let topic = Topic::new("t").unwrap();
        let message = Message::new(topic.clone(), "");
        let selector = StickySelector::new().time(Duration::from_secs(3600));
        let first = selector.select(&topic, &all, &message).unwrap();
        let second = selector.reselect(&topic, &all, &message, first).unwrap();
        assert_ne!(first, second);
        assert_eq!(selector.reselect(&topic, &all, &message, first), Some(second), "it left that one");
        let other = [first];
        assert_eq!(selector.select(&topic, &other, &message), Some(first));
        assert_eq!(selector.reselect(&topic, &other, &message, first), Some(first), "there is no other");
    }

    proptest! {
        #[test]
        fn whatever_is_set_it_chooses_one_that_exists(
            rounds in prop::collection::vec(prop::collection::vec(0..4_i32, 1..4), 1..20),
            messages in 0..4_u32,
            millis in 0..3_u64,
        ) {
            let selector = StickySelector::new().messages(messages).time(Duration::from_millis(millis));
            for counts in rounds {
                let partitions = partitions(&counts);
                let chosen = select(&selector, &partitions);
                prop_assert_eq!(chosen.is_none(), partitions.is_empty());
                prop_assert!(chosen.is_none_or(|chosen| partitions.contains(&chosen)));
            }
        }
    }
}
