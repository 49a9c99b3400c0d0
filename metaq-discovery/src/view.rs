//! The brokers and partitions of a topic at one moment, and how they are followed.

use std::{sync::Arc, time::Duration};

use metaq_protocol::{BrokerAddr, BrokerId, Partition, Topic};
use tokio::{sync::watch, time::Instant};

use crate::{DiscoveryError, ViewChange};

/// No broker is believed to have more partitions of one topic than this.
pub const MAX_PARTITIONS: u32 = 65_536;

/// The brokers and partitions of one topic at one moment. Master brokers only, and only those whose address is known.
#[derive(Clone, Debug)]
pub struct TopicView {
    topic: Topic,
    brokers: Vec<ViewBroker>,
    partitions: Vec<Partition>,
    read_at: Instant,
}

/// A broker in a [`TopicView`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ViewBroker {
    /// The broker's id.
    pub id: BrokerId,
    /// Where it listens.
    pub addr: BrokerAddr,
    /// How many partitions of the topic it has. None when only its address is known: then the broker chooses.
    pub partitions: Option<u32>,
}

impl TopicView {
    /// A view without brokers, to add them to.
    #[must_use]
    pub fn new(topic: Topic) -> Self {
        Self { topic, brokers: Vec::new(), partitions: Vec::new(), read_at: Instant::now() }
    }

    /// The view with one broker more, which has the partitions 0 to `partitions` - 1, at most
    /// [`MAX_PARTITIONS`] of them. A broker of the same id is replaced.
    #[must_use]
    pub fn with_broker(self, id: BrokerId, addr: BrokerAddr, partitions: u32) -> Self {
        self.with(ViewBroker { id, addr, partitions: Some(partitions.min(MAX_PARTITIONS)) })
    }

    /// The view with one broker more, of which only the address is known: its id is
    /// [`BrokerId::UNKNOWN`], and its only partition is [`Partition::ANY`].
    #[must_use]
    pub fn with_address(self, addr: BrokerAddr) -> Self {
        self.with(ViewBroker { id: BrokerId::UNKNOWN, addr, partitions: None })
    }

    /// The view with one broker more, as it is in another view. A broker of the same id is replaced.
    #[must_use]
    pub fn with(mut self, broker: ViewBroker) -> Self {
        self.brokers.retain(|other| other.id != broker.id);
        self.brokers.push(broker);
        self.brokers.sort_unstable_by_key(|broker| broker.id);
        self.partitions = self.brokers.iter().flat_map(ViewBroker::partitions).collect();
        self
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

    /// Whether no broker offers the topic.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.brokers.is_empty()
    }

    /// Says that the registry was read again, and this is still so.
    #[cfg(feature = "file")]
    pub(crate) fn mark_read(&mut self) {
        self.read_at = Instant::now();
    }

    /// How long ago the registry was read. A view stays in use while the registry is away.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.read_at.elapsed()
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

/// When it was read makes no difference.
impl PartialEq for TopicView {
    fn eq(&self, other: &Self) -> bool {
        self.topic == other.topic && self.brokers == other.brokers
    }
}

impl Eq for TopicView {}

/// Follows one topic. Dropping it ends that.
#[derive(Clone, Debug)]
pub struct TopicWatch {
    views: watch::Receiver<Arc<TopicView>>,
}

impl TopicWatch {
    /// A watch that begins with `first`, and the other end, which publishes later views: for a
    /// [`Discovery`](crate::Discovery) of one's own.
    #[must_use]
    pub fn channel(first: TopicView) -> (ViewPublisher, Self) {
        let (publisher, views) = watch::channel(Arc::new(first));
        (ViewPublisher { views: publisher }, Self { views })
    }

    /// The latest view.
    #[must_use]
    pub fn current(&self) -> Arc<TopicView> {
        Arc::clone(&self.views.borrow())
    }

    /// Waits for a view that this method of this watch hasn't returned yet, and returns it. Views that were replaced before anyone looked
    /// are skipped.
    ///
    /// # Errors
    /// When there will be no other view, because the discovery was closed. The current one stays available.
    ///
    /// # Cancel safety
    /// No view is missed when the future is dropped.
    pub async fn changed(&mut self) -> Result<Arc<TopicView>, DiscoveryError> {
        self.views.changed().await.map_err(|_| DiscoveryError::closed())?;
        Ok(Arc::clone(&self.views.borrow_and_update()))
    }
}

/// Publishes the views of one topic to a [`TopicWatch`] and its clones. Dropping it tells them that there will be no
/// other.
#[derive(Debug)]
pub struct ViewPublisher {
    views: watch::Sender<Arc<TopicView>>,
}

impl ViewPublisher {
    /// Replaces the current view. Watches are told only if it differs from the one before; then the difference is
    /// returned.
    pub fn publish(&self, view: TopicView) -> Option<ViewChange> {
        self.publish_and_tell(view, |_| {})
    }

    /// [`publish`](Self::publish), and calls `tell` with the difference before the view can be seen.
    pub(crate) fn publish_and_tell(
        &self,
        view: TopicView,
        tell: impl FnOnce(&ViewChange),
    ) -> Option<ViewChange> {
        let mut change = None;
        self.views.send_if_modified(|current| {
            change = ViewChange::between(current, &view);
            if let Some(change) = &change {
                tell(change);
            }
            *current = Arc::new(view);
            change.is_some()
        });
        change
    }

    /// The latest view.
    #[must_use]
    pub fn current(&self) -> Arc<TopicView> {
        Arc::clone(&self.views.borrow())
    }

    /// Whether all watches were dropped.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.views.is_closed()
    }

    /// Waits until all watches were dropped.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn closed(&self) {
        self.views.closed().await;
    }
}

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
    fn an_address_alone_leaves_the_choice_to_the_broker() {
        assert_eq!(view().with_address(addr(1)).partitions(), [Partition::ANY], "S-14");
    }

    #[test]
    fn absurd_counts_are_cut() {
        let view = view().with_broker(BrokerId(0), addr(1), u32::MAX);
        assert_eq!(view.partitions().len(), MAX_PARTITIONS as usize);
    }

    #[tokio::test]
    async fn a_watch_is_told_of_differences_only() {
        let (publisher, mut watch) = TopicWatch::channel(view());
        assert_eq!(publisher.publish(view()), None);
        let change = publisher.publish(view().with_broker(BrokerId(0), addr(1), 1)).unwrap();
        assert_eq!(change.added, [BrokerId(0)]);
        assert_eq!(watch.changed().await.unwrap().brokers().len(), 1);
        drop(publisher);
        assert!(watch.changed().await.is_err());
        assert_eq!(watch.current().brokers().len(), 1, "the last view stays");
    }

    #[tokio::test]
    async fn dropping_the_watch_tells_the_publisher() {
        let (publisher, watch) = TopicWatch::channel(view());
        assert!(!publisher.is_closed());
        drop(watch);
        publisher.closed().await;
        assert!(publisher.is_closed());
    }
}
