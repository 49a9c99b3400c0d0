//! The brokers and partitions of a topic at one moment, and how they are followed.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use metaq_protocol::{BrokerAddr, BrokerId, Partition, Topic};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::{DiscoveryError, DiscoveryErrorKind, ViewChange};

/// No broker is believed to have more partitions of one topic than this.
pub const MAX_PARTITIONS: u32 = 65_536;

/// The brokers and partitions of one topic at one moment. Master brokers only, and only those whose address is known.
#[derive(Clone, Debug)]
pub struct TopicView {
    topic: Topic,
    brokers: Vec<ViewBroker>,
    partitions: Vec<Partition>,
    read_time: ReadTime,
}

/// The time of reading, of one view and its clones or of many views that are read together.
#[derive(Clone, Debug)]
pub(crate) struct ReadTime(Arc<Mutex<Instant>>);

impl Default for ReadTime {
    /// Now.
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl ReadTime {
    /// Says that the registry was read again at this time, and all is still so.
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
    /// The address that it listens on.
    pub addr: BrokerAddr,
    /// The number of its partitions of the topic. None when only its address is known: then the broker chooses.
    pub partitions: Option<u32>,
}

impl TopicView {
    /// A view without brokers, to add them to.
    #[must_use]
    pub fn new(topic: Topic) -> Self {
        Self { topic, brokers: Vec::new(), partitions: Vec::new(), read_time: ReadTime::default() }
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
        self.insert(broker);
        self
    }

    /// Adds a broker, which replaces one of the same id.
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

    /// Whether no broker offers the topic.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.brokers.is_empty()
    }

    /// The view with a time of reading that it shares with others.
    #[cfg(feature = "file")]
    pub(crate) fn read_at(mut self, time: &ReadTime) -> Self {
        self.read_time = time.clone();
        self
    }

    /// The time since the registry was read. A view stays in use while the registry is away.
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

/// The time of reading makes no difference.
impl PartialEq for TopicView {
    fn eq(&self, other: &Self) -> bool {
        self.topic == other.topic && self.brokers == other.brokers
    }
}

impl Eq for TopicView {}

/// Follows one topic. Dropping it ends that.
///
/// It isn't bound to the runtime on which it was made. When that has ended, [`changed`](Self::changed) continues on the
/// caller's, as far as the discovery follows its registry by itself.
#[derive(Clone)]
pub struct TopicWatch {
    views: watch::Receiver<Arc<TopicView>>,
    end: Arc<OnceLock<DiscoveryError>>,
    source: Option<Arc<dyn ViewSource>>,
}

/// Whatever publishes views from a task that can be started again.
pub(crate) trait ViewSource: Send + Sync {
    /// Starts the task on the caller's runtime if it doesn't run. Returns what tells whether it runs.
    ///
    /// # Errors
    /// When it doesn't run and can't be started: the discovery was closed, or there is no runtime.
    fn ensure_followed(self: Arc<Self>) -> Result<watch::Receiver<bool>, DiscoveryError>;
}

impl TopicWatch {
    /// A watch that begins with `first`, and the other end, which publishes later views: for a
    /// [`Discovery`](crate::Discovery) of one's own.
    #[must_use]
    pub fn channel(first: TopicView) -> (ViewPublisher, Self) {
        let (publisher, views) = watch::channel(Arc::new(first));
        let end = Arc::new(OnceLock::new());
        (ViewPublisher { views: publisher, end: Arc::clone(&end) }, Self { views, end, source: None })
    }

    /// The watch, which sees to it that `source` runs.
    #[cfg(any(feature = "etcd", feature = "file", feature = "zookeeper"))]
    pub(crate) fn with_source(mut self, source: Arc<dyn ViewSource>) -> Self {
        self.source = Some(source);
        self
    }

    /// The latest view.
    #[must_use]
    pub fn current(&self) -> Arc<TopicView> {
        Arc::clone(&self.views.borrow())
    }

    /// Waits for a view that this method of this watch hasn't returned yet, and returns it. Views that were replaced
    /// before anyone looked are skipped.
    ///
    /// # Errors
    /// [`Closed`](DiscoveryErrorKind::Closed) when there will be no other view, because the discovery was closed;
    /// [`NoRuntime`](DiscoveryErrorKind::NoRuntime) when the runtime that followed the registry has ended: watch the topic
    /// again. The current view stays available.
    ///
    /// # Cancel safety
    /// No view is missed when the future is dropped.
    pub async fn changed(&mut self) -> Result<Arc<TopicView>, DiscoveryError> {
        loop {
            let running = match &self.source {
                // What was published before needs nobody.
                Some(source) if matches!(self.views.has_changed(), Ok(false)) => {
                    Some(Arc::clone(source).ensure_followed()?)
                }
                _ => None,
            };
            let stopped = async {
                match running {
                    // Never an error: the source holds the sender.
                    Some(mut running) => drop(running.wait_for(|running| !running).await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = self.views.changed() => {
                    changed.map_err(|_| self.end.get().cloned().unwrap_or_else(|| self.abandoned()))?;
                    return Ok(Arc::clone(&self.views.borrow_and_update()));
                }
                () = stopped => {}
            }
        }
    }

    /// The error when the publisher was dropped without a word.
    fn abandoned(&self) -> DiscoveryError {
        let text = format!(
            "nobody publishes views of topic {} any more; the Tokio runtime that followed the registry may have ended: \
             watch the topic again",
            self.views.borrow().topic
        );
        DiscoveryError::new(DiscoveryErrorKind::NoRuntime, text)
    }
}

impl fmt::Debug for TopicWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicWatch").field("current", &self.current()).finish_non_exhaustive()
    }
}

/// Publishes the views of one topic to a [`TopicWatch`] and its clones. Dropping it tells them that there will be no
/// other; [`end`](Self::end) also tells why.
#[derive(Debug)]
pub struct ViewPublisher {
    views: watch::Sender<Arc<TopicView>>,
    end: Arc<OnceLock<DiscoveryError>>,
}

impl ViewPublisher {
    /// Replaces the current view. Watches are told only if it differs from the one before; then the difference is
    /// returned.
    pub fn publish(&self, view: TopicView) -> Option<ViewChange> {
        let (mut change, mut view) = (None, Arc::new(view));
        self.views.send_if_modified(|current| {
            change = ViewChange::between(current, &view);
            std::mem::swap(current, &mut view);
            change.is_some()
        });
        change
    }

    /// Ends the watches: their [`changed`](TopicWatch::changed) fails with `reason` from now on.
    pub fn end(self, reason: DiscoveryError) {
        self.set_end(reason);
    }

    /// The error of watches once this was dropped.
    pub(crate) fn set_end(&self, reason: DiscoveryError) {
        // The first reason stays.
        let _ = self.end.set(reason);
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
    fn a_broker_is_replaced_in_its_place() {
        let view = view().with_broker(BrokerId(1), addr(1), 1).with_broker(BrokerId(3), addr(3), 1);
        let view = view.with_broker(BrokerId(2), addr(2), 2).with_broker(BrokerId(1), addr(9), 2);
        let texts: Vec<_> = view.partitions().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["1-0", "1-1", "2-0", "2-1", "3-0"]);
        assert_eq!(view.brokers()[0].addr.port(), 9);
    }

    #[test]
    fn many_brokers_take_time_in_proportion() {
        let started = std::time::Instant::now();
        let view = (0..10_000).fold(view(), |view, id| view.with_broker(BrokerId(id), addr(1), 4));
        assert_eq!(view.partitions().len(), 40_000);
        assert_eq!(ViewChange::between(&view, &view.clone()), None);
        // Sorting and collecting everything for each broker took longer than this limit.
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
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
        let error = watch.changed().await.unwrap_err();
        assert!(
            error.kind() == DiscoveryErrorKind::NoRuntime
                && error.to_string().contains("watch the topic again")
        );
        let (publisher, mut ended) = TopicWatch::channel(view());
        publisher.end(DiscoveryError::closed());
        assert_eq!(ended.changed().await.unwrap_err().kind(), DiscoveryErrorKind::Closed);
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
