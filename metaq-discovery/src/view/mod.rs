//! The brokers and partitions of a topic at one moment, and the watches of a topic.

mod change;
mod watch;

use std::{sync::Arc, time::Duration};

use metaq_protocol::{BrokerAddr, BrokerId, Partition, Topic};
use parking_lot::Mutex;
use tokio::time::Instant;

pub use change::ViewChange;
#[cfg(any(feature = "etcd", feature = "file", feature = "zookeeper"))]
pub(crate) use watch::ViewSource;
pub use watch::{TopicWatch, ViewPublisher};

/// The largest number of partitions of one topic that is accepted for a broker.
pub const MAX_PARTITIONS: u32 = 65_536;

/// The brokers and partitions of one topic at one moment: master brokers whose address is known.
#[derive(Clone, Debug)]
pub struct TopicView {
    topic: Topic,
    brokers: Vec<ViewBroker>,
    partitions: Vec<Partition>,
    read_time: ReadTime,
}

/// The time of reading, shared by clones of a view or by all views that are read together.
#[derive(Clone, Debug)]
pub(crate) struct ReadTime(Arc<Mutex<Instant>>);

impl Default for ReadTime {
    /// Now.
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl ReadTime {
    /// Records that the registry was read again at this time and has not changed.
    #[cfg(feature = "file")]
    pub(crate) fn set(&self, time: Instant) {
        *self.0.lock() = time;
    }
}

/// A broker in a [`TopicView`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ViewBroker {
    /// The broker's id.
    pub id: BrokerId,
    /// The address on which the broker listens.
    pub addr: BrokerAddr,
    /// The number of its partitions of the topic. `None` when only its address is known: then the broker
    /// chooses.
    pub partitions: Option<u32>,
}

impl TopicView {
    /// Creates a view without brokers.
    #[must_use]
    pub fn new(topic: Topic) -> Self {
        Self { topic, brokers: Vec::new(), partitions: Vec::new(), read_time: ReadTime::default() }
    }

    /// Adds a broker with the partitions 0 to `partitions` - 1, at most [`MAX_PARTITIONS`] of them. Replaces
    /// a broker of the same id.
    #[must_use]
    pub fn with_broker(self, id: BrokerId, addr: BrokerAddr, partitions: u32) -> Self {
        self.with(ViewBroker { id, addr, partitions: Some(partitions.min(MAX_PARTITIONS)) })
    }

    /// Adds a broker of which only the address is known: its id is [`BrokerId::UNKNOWN`], and its only
    /// partition is [`Partition::ANY`].
    #[must_use]
    pub fn with_address(self, addr: BrokerAddr) -> Self {
        self.with(ViewBroker { id: BrokerId::UNKNOWN, addr, partitions: None })
    }

    /// Adds a broker of another view. Replaces a broker of the same id.
    #[must_use]
    pub fn with(mut self, broker: ViewBroker) -> Self {
        self.insert(broker);
        self
    }

    /// Adds a broker, or replaces the one with the same id.
    pub(crate) fn insert(&mut self, broker: ViewBroker) {
        let place = self.brokers.partition_point(|other| other.id < broker.id);
        let begin = self.partitions.partition_point(|partition| partition.broker < broker.id);
        let end = self.partitions.partition_point(|partition| partition.broker <= broker.id);
        self.partitions.splice(begin..end, broker.partitions());
        match self.brokers.get_mut(place) {
            Some(other) if other.id == broker.id => *other = broker,
            _ => self.brokers.insert(place, broker),
        }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The brokers, sorted by id.
    #[must_use]
    pub fn brokers(&self) -> &[ViewBroker] {
        &self.brokers
    }

    /// All partitions, sorted by broker, then by index.
    #[must_use]
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// Returns true when no broker offers the topic.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.brokers.is_empty()
    }

    /// Sets a time of reading that is shared with other views.
    #[cfg(feature = "file")]
    pub(crate) fn read_at(mut self, time: &ReadTime) -> Self {
        self.read_time = time.clone();
        self
    }

    /// The time since the registry was read. A view remains in use while the registry is unavailable.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.read_time.0.lock().elapsed()
    }
}

impl ViewBroker {
    fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        let broker = self.id;
        let indexes = match self.partitions {
            Some(count) => 0..count as i32,
            None => Partition::ANY_INDEX..0,
        };
        indexes.map(move |index| Partition { broker, index })
    }
}

/// The time of reading is not compared.
impl PartialEq for TopicView {
    fn eq(&self, other: &Self) -> bool {
        self.topic == other.topic && self.brokers == other.brokers
    }
}

impl Eq for TopicView {}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> BrokerAddr {
        BrokerAddr::new("127.0.0.1", port).unwrap()
    }

    fn view() -> TopicView {
        TopicView::new(Topic::new("t").unwrap())
    }

    #[test]
    fn partitions_are_sorted_by_broker_then_index() {
        let view = view().with_broker(BrokerId(10), addr(2), 1).with_broker(BrokerId(2), addr(1), 2);
        let texts: Vec<_> = view.partitions().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["2-0", "2-1", "10-0"], "P-23");
        assert_eq!(view.brokers()[0].id, BrokerId(2));
    }

    #[test]
    fn an_address_alone_has_the_partition_any() {
        assert_eq!(view().with_address(addr(1)).partitions(), [Partition::ANY], "S-14");
    }

    #[test]
    fn a_broker_is_replaced_in_its_place() {
        let view = view().with_broker(BrokerId(1), addr(1), 1).with_broker(BrokerId(3), addr(3), 1);
        let view = view.with_broker(BrokerId(2), addr(2), 2).with_broker(BrokerId(1), addr(9), 2);
        let texts: Vec<_> = view.partitions().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["1-0", "1-1", "2-0", "2-1", "3-0"]);
        assert_eq!(view.brokers()[0].addr.port(), 9);
    }

    #[test]
    fn adding_brokers_takes_linear_time() {
        let started = std::time::Instant::now();
        let view = (0..10_000).fold(view(), |view, id| view.with_broker(BrokerId(id), addr(1), 4));
        assert_eq!(view.partitions().len(), 40_000);
        assert_eq!(ViewChange::between(&view, &view.clone()), None);
        // Sorting and collecting all brokers for each addition took longer than this limit.
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }

    #[test]
    fn partition_counts_are_limited() {
        let view = view().with_broker(BrokerId(0), addr(1), u32::MAX);
        assert_eq!(view.partitions().len(), MAX_PARTITIONS as usize);
    }
}
