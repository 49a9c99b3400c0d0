//! The watches of all topics of a backend.

use std::{collections::BTreeMap, sync::Arc};

use metaq_protocol::Topic;

use crate::{TopicView, TopicWatch, ViewPublisher};

/// The publishers of the watched topics.
#[derive(Debug, Default)]
pub(crate) struct Publishers {
    by_topic: BTreeMap<Topic, Vec<Arc<ViewPublisher>>>,
    /// The number of publishers, including dropped ones that were not removed yet.
    count: usize,
    /// The `count` at which dropped publishers are removed next.
    limit: usize,
}

impl Publishers {
    /// Returns a watch that begins with `first`.
    pub(crate) fn watch(&mut self, first: TopicView) -> TopicWatch {
        // Not on every call: the total time would be quadratic in the number of watches.
        if self.count >= self.limit {
            self.remove_dropped();
            self.limit = (self.count * 2).max(16);
        }
        self.count += 1;
        let topic = first.topic().clone();
        let (publisher, watch) = TopicWatch::channel(first);
        self.by_topic.entry(topic).or_default().push(Arc::new(publisher));
        watch
    }

    /// The publishers of all watches of a topic.
    #[cfg(any(feature = "etcd", feature = "file", feature = "mock", feature = "zookeeper"))]
    pub(crate) fn of(&self, topic: &Topic) -> Vec<Arc<ViewPublisher>> {
        self.by_topic.get(topic).cloned().unwrap_or_default()
    }

    /// The number of watches of a topic; clones of a watch count as one.
    #[cfg(feature = "mock")]
    pub(crate) fn count(&self, topic: &Topic) -> usize {
        let publishers = self.by_topic.get(topic).into_iter().flatten();
        publishers.filter(|publisher| !publisher.is_closed()).count()
    }

    /// Returns true when no topic is watched.
    #[cfg(any(feature = "etcd", feature = "file"))]
    pub(crate) fn is_unused(&self) -> bool {
        self.by_topic.values().flatten().all(|publisher| publisher.is_closed())
    }

    /// The watched topics.
    #[cfg(any(feature = "etcd", feature = "file", feature = "mock"))]
    pub(crate) fn topics(&mut self) -> Vec<Topic> {
        self.remove_dropped();
        self.by_topic.keys().cloned().collect()
    }

    /// Removes and returns the publishers of a topic that is no longer watched.
    #[cfg(feature = "zookeeper")]
    #[must_use = "drop them once no lock is held"]
    pub(crate) fn take(&mut self, topic: &Topic) -> Vec<Arc<ViewPublisher>> {
        let taken = self.by_topic.remove(topic).unwrap_or_default();
        self.count -= taken.len();
        taken
    }

    /// Removes and returns all publishers, so that their watches can be ended.
    pub(crate) fn take_all(&mut self) -> Vec<Arc<ViewPublisher>> {
        (self.count, self.limit) = (0, 0);
        std::mem::take(&mut self.by_topic).into_values().flatten().collect()
    }

    fn remove_dropped(&mut self) {
        self.count = 0;
        self.by_topic.retain(|_, publishers| {
            publishers.retain(|publisher| !publisher.is_closed());
            self.count += publishers.len();
            !publishers.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn opening_watches_of_one_topic_takes_linear_time() {
        const WATCHES: usize = 40_000;
        let (started, mut publishers) = (std::time::Instant::now(), Publishers::default());
        let topic = Topic::new("t").unwrap();
        let watches: Vec<_> = (0..WATCHES).map(|_| publishers.watch(TopicView::new(topic.clone()))).collect();
        assert_eq!(publishers.by_topic[&topic].len(), WATCHES);
        // Searching for dropped watches on every other call took longer than this limit.
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        drop(watches);
        // Dropped watches do not accumulate.
        (0..3 * WATCHES).for_each(|_| drop(publishers.watch(TopicView::new(topic.clone()))));
        assert!(publishers.by_topic[&topic].len() <= 2 * WATCHES, "{}", publishers.by_topic[&topic].len());
    }
}
