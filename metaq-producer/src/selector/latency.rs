//! More messages for brokers that answer faster.

use std::{sync::Arc, time::Duration};

use metaq_protocol::{BrokerId, Partition, Topic};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::PartitionSelector;
use crate::{Message, Outcome};

/// Draws a partition at random, those of faster brokers more often: a broker that takes twice as long gets
/// half as many messages for each of its partitions.
///
/// How long brokers take is learned from their answers of the last seconds, for all topics of the producer
/// together; a failed attempt counts as one that took at least twice as long. A slow broker keeps at least a
/// hundredth of what a fast one gets, and what is known of it fades within seconds when it isn't heard of, so
/// it has its share again soon after it recovered. A broker that nothing is known of is taken for as fast as
/// the fastest.
///
/// The messages of a key, or of anything else, have no partition of their own with it. Brokers that are
/// equally fast get about the same each, but not exactly.
///
/// ```
/// use metaq_producer::{selector::LatencySelector, Producer};
///
/// let producer = Producer::builder()
///     .broker("meta://127.0.0.1:8123".parse()?)
///     .selector(LatencySelector::new())
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct LatencySelector {
    latencies: Arc<Mutex<Latencies>>,
    shares: Mutex<Option<Shares>>,
}

/// The time for which the shares hold that were computed from the latencies.
const REFRESH: Duration = Duration::from_millis(10);

/// The time in which an old latency loses about two thirds of its weight against a new one.
const MEMORY: Duration = Duration::from_secs(1);

/// The half-life of the distance between the latency of a broker that isn't heard of and the fastest one's.
const FADING: Duration = Duration::from_secs(1);

/// The time after which a broker that isn't heard of is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// The least weight of a new latency; many arrive at the same time.
const LEAST_WEIGHT: f64 = 1.0 / 64.0;

/// The least share of a slow broker's partition, in relation to the fastest one's.
const LEAST_SHARE: f64 = 0.01;

/// The longest latency that counts, so that one odd answer is soon forgotten.
const LONGEST: Duration = Duration::from_secs(60);

/// The shortest latency that counts: differences below are noise.
const SHORTEST: Duration = Duration::from_micros(10);

impl LatencySelector {
    /// A selector that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl PartitionSelector for LatencySelector {
    fn select(&self, _: &Topic, partitions: &[Partition], _: &Message) -> Option<Partition> {
        let now = Instant::now();
        let mut shares = self.shares.lock();
        if let Some(fresh) = shares.as_ref().filter(|shares| shares.hold_for(partitions, now))
            && let Some(drawn) = fresh.draw(partitions)
        {
            return Some(drawn);
        }
        shares.insert(Shares::new(partitions, &self.latencies.lock(), now)).draw(partitions)
    }

    fn for_topic(&self, _: &Topic) -> Option<Box<dyn PartitionSelector>> {
        Some(Box::new(Self { latencies: Arc::clone(&self.latencies), shares: Mutex::default() }))
    }

    fn wants_outcomes(&self) -> bool {
        true
    }

    fn observe(&self, partition: Partition, latency: Duration, outcome: Result<(), Outcome>) {
        self.latencies.lock().learn(partition.broker, latency, outcome.is_ok(), Instant::now());
    }
}

/// The latencies of brokers, sorted by id.
#[derive(Debug, Default)]
struct Latencies {
    brokers: Vec<(BrokerId, Latency)>,
}

#[derive(Clone, Copy, Debug)]
struct Latency {
    /// In seconds.
    average: f64,
    at: Instant,
}

impl Latencies {
    fn learn(&mut self, broker: BrokerId, latency: Duration, is_ok: bool, now: Instant) {
        let took = latency.clamp(SHORTEST, LONGEST).as_secs_f64();
        match self.brokers.binary_search_by_key(&broker, |(id, _)| *id) {
            Ok(place) => {
                let known = &mut self.brokers[place].1;
                // A broker that is quick to refuse isn't fast.
                let took =
                    if is_ok { took } else { took.max(2.0 * known.average).min(LONGEST.as_secs_f64()) };
                let age = now.saturating_duration_since(known.at).as_secs_f64() / MEMORY.as_secs_f64();
                let weight = (1.0 - (-age).exp()).max(LEAST_WEIGHT);
                known.average += weight * (took - known.average);
                known.at = now;
            }
            // All that is known of it is that it fails, not how long it takes.
            Err(_) if !is_ok => {}
            Err(place) => {
                self.brokers.insert(place, (broker, Latency { average: took, at: now }));
                // Partitions without an outcome for this time start afresh.
                self.brokers.retain(|(_, known)| now.saturating_duration_since(known.at) < FORGOTTEN);
            }
        }
    }

    /// The latency of a broker, in seconds, and its weight.
    fn of(&self, broker: BrokerId, now: Instant) -> Option<(f64, f64)> {
        let place = self.brokers.binary_search_by_key(&broker, |(id, _)| *id).ok()?;
        let Latency { average, at } = self.brokers[place].1;
        let age = now.saturating_duration_since(at).as_secs_f64() / FADING.as_secs_f64();
        Some((average, (-age).exp2()))
    }
}

/// The share of messages that the partitions of each broker get.
///
/// It does not keep the partitions, of which there may be thousands: to compare them would cost each message
/// more than all else. That the ones of a broker are where they were is looked up when one is drawn.
#[derive(Debug)]
struct Shares {
    /// The number of all partitions.
    partitions: usize,
    brokers: Vec<Share>,
    made: Instant,
}

#[derive(Debug)]
struct Share {
    broker: BrokerId,
    /// The positions of the broker's partitions.
    first: usize,
    count: usize,
    /// The weights of the brokers up to this one, itself included.
    up_to: f64,
}

impl Shares {
    fn new(partitions: &[Partition], latencies: &Latencies, now: Instant) -> Self {
        let groups = || partitions.chunk_by(|a, b| a.broker == b.broker);
        let known =
            |group: &[Partition]| group.first().and_then(|partition| latencies.of(partition.broker, now));
        let fastest = groups().filter_map(known).map(|(latency, _)| latency).fold(f64::INFINITY, f64::min);
        let (mut first, mut up_to) = (0, 0.0);
        let brokers = groups().map(|group| {
            let weight = known(group).map_or(1.0, |(latency, still_counts)| {
                let latency = fastest + (latency - fastest) * still_counts;
                (fastest / latency).clamp(LEAST_SHARE, 1.0)
            });
            up_to += weight * group.len() as f64;
            let broker = group.first().map_or(BrokerId::UNKNOWN, |partition| partition.broker);
            let share = Share { broker, first, count: group.len(), up_to };
            first += group.len();
            share
        });
        Self { brokers: brokers.collect(), partitions: partitions.len(), made: now }
    }

    fn hold_for(&self, partitions: &[Partition], now: Instant) -> bool {
        now.saturating_duration_since(self.made) < REFRESH && self.partitions == partitions.len()
    }

    /// Draws one of `partitions`. None if they are others than those that the shares were made of, as far as
    /// the broker that is drawn is concerned.
    fn draw(&self, partitions: &[Partition]) -> Option<Partition> {
        let last = self.brokers.last()?;
        let drawn = fastrand::f64() * last.up_to;
        let share =
            self.brokers.get(self.brokers.partition_point(|share| share.up_to <= drawn)).unwrap_or(last);
        // They are sorted: between a first and a last one of a broker there are no others.
        let group = partitions.get(share.first..share.first + share.count)?;
        let is_of_broker =
            |partition: Option<&Partition>| partition.is_some_and(|it| it.broker == share.broker);
        let is_whole = is_of_broker(group.first())
            && is_of_broker(group.last())
            && !is_of_broker(share.first.checked_sub(1).and_then(|before| partitions.get(before)))
            && !is_of_broker(partitions.get(share.first + share.count));
        let place = fastrand::usize(..share.count.max(1));
        group.get(place).filter(|_| is_whole).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{partitions, select};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Returns the share of 20,000 messages that each broker gets.
    fn parts(selector: &dyn PartitionSelector, partitions: &[Partition]) -> [f64; 3] {
        let mut parts = [0.0; 3];
        for _ in 0..20_000 {
            parts[select(selector, partitions).unwrap().broker.0 as usize] += 1.0 / 20_000.0;
        }
        parts
    }

    #[track_caller]
    fn near(parts: [f64; 3], expected: [f64; 3]) {
        let is_near = parts.iter().zip(&expected).all(|(part, expected)| (part - expected).abs() < 0.02);
        assert!(is_near, "{parts:?} instead of {expected:?}");
    }

    fn observe(selector: &LatencySelector, broker: i32, latency: Duration, outcome: Result<(), Outcome>) {
        selector.observe(Partition::new(broker, 0), latency, outcome);
    }

    #[tokio::test(start_paused = true)]
    async fn faster_brokers_get_more() {
        let partitions = partitions(&[2, 2, 2]);
        let selector = LatencySelector::new();
        let topic = Topic::new("t").unwrap();
        let (one, two) = (selector.for_topic(&topic).unwrap(), selector.for_topic(&topic).unwrap());
        assert!(one.wants_outcomes());
        near(parts(&one, &partitions), [1.0 / 3.0; 3]);
        [1, 2, 4].into_iter().zip(0..).for_each(|(ms, broker)| observe(&selector, broker, ms * MS, Ok(())));
        near(parts(&two, &partitions), [4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0]);
        tokio::time::advance(REFRESH).await;
        // A little has faded.
        near(parts(&one, &partitions), [4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0]);
        assert_eq!(select(&one, &[]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_broker_loses_its_share_and_regains_it() {
        let partitions = partitions(&[1, 1, 1]);
        let selector = LatencySelector::new();
        let slow_for = async |millis: u64, slow: Duration| {
            for round in 0..millis / 10 {
                (0..2).for_each(|broker| observe(&selector, broker, MS, Ok(())));
                // It is heard of only when it was chosen: each hundredth message here.
                if round % 50 == 0 || slow == MS {
                    observe(&selector, 2, slow, Ok(()));
                }
                tokio::time::advance(10 * MS).await;
            }
        };
        slow_for(2000, MS).await;
        near(parts(&selector, &partitions), [1.0 / 3.0; 3]);
        observe(&selector, 2, 100 * MS, Ok(()));
        slow_for(3000, 100 * MS).await;
        let [_, _, slow] = parts(&selector, &partitions);
        assert!((0.003..0.08).contains(&slow), "{slow} while it is slow; never nothing");
        slow_for(8000, MS).await;
        near(parts(&selector, &partitions), [1.0 / 3.0; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_fades_when_nothing_is_heard() {
        let partitions = partitions(&[1, 1]);
        let selector = LatencySelector::new();
        observe(&selector, 0, MS, Ok(()));
        observe(&selector, 1, 50 * MS, Ok(()));
        let [_, before, _] = parts(&selector, &partitions);
        tokio::time::advance(Duration::from_secs(10)).await;
        let [_, after, _] = parts(&selector, &partitions);
        assert!(before < 0.04 && after > 0.45, "{before}, then {after}");
    }

    #[tokio::test(start_paused = true)]
    async fn to_refuse_quickly_is_not_to_be_fast() {
        let partitions = partitions(&[1, 1]);
        let selector = LatencySelector::new();
        for _ in 0..200 {
            observe(&selector, 0, 10 * MS, Ok(()));
            observe(&selector, 1, 10 * MS, Ok(()));
            observe(&selector, 1, MS / 10, Err(Outcome::Rejected));
        }
        let [_, refusing, _] = parts(&selector, &partitions);
        assert!(refusing < 0.35, "{refusing}");
        let unknown = LatencySelector::new();
        observe(&unknown, 0, MS, Err(Outcome::Unknown));
        assert!(unknown.latencies.lock().brokers.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn brokers_that_are_not_heard_of_any_more_are_forgotten() {
        let selector = LatencySelector::new();
        for broker in 0..1000 {
            observe(&selector, broker, MS, Ok(()));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(selector.latencies.lock().brokers.len(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn shares_are_not_used_for_another_list_of_that_length() {
        fastrand::seed(7);
        let (first, second) = (partitions(&[4, 1]), partitions(&[1, 4]));
        let selector = LatencySelector::new();
        observe(&selector, 0, MS, Ok(()));
        observe(&selector, 1, 100 * MS, Ok(()));
        let mut of_slow = 0;
        for _ in 0..2000 {
            // Time stands still, so shares that are made hold.
            assert!(select(&selector, &first).is_some_and(|chosen| first.contains(&chosen)));
            of_slow += i32::from(select(&selector, &second).is_some_and(|chosen| chosen.broker.0 == 1));
        }
        assert!(of_slow < 400, "{of_slow} of 2000 went to the slow broker, which is to have 77");
    }

    proptest! {
        #[test]
        fn any_observation_leaves_every_partition_eligible(
            counts in prop::collection::vec(0..4_i32, 1..4),
            seen in prop::collection::vec((0..6_i32, any::<u64>(), any::<bool>()), 0..50),
        ) {
            let partitions = partitions(&counts);
            let selector = LatencySelector::new();
            for (broker, nanos, is_ok) in seen {
                observe(&selector, broker, Duration::from_nanos(nanos), is_ok.then_some(()).ok_or(Outcome::Unknown));
            }
            let shares = Shares::new(&partitions, &selector.latencies.lock(), Instant::now());
            let mut before = 0.0;
            for share in &shares.brokers {
                let weight = (share.up_to - before) / share.count as f64;
                prop_assert!((LEAST_SHARE * 0.999..=1.001).contains(&weight), "{shares:?}");
                before = share.up_to;
            }
            for _ in 0..20 {
                let chosen = select(&selector, &partitions);
                prop_assert_eq!(chosen.is_none(), partitions.is_empty());
                prop_assert!(chosen.is_none_or(|chosen| partitions.contains(&chosen)));
            }
        }
    }
}
