//! The watches of several topics, for backends that hold them all in one place.

use std::{collections::BTreeMap, sync::Arc};

use metaq_protocol::Topic;

use crate::{TopicView, TopicWatch, ViewPublisher};

/// The publishers of the topics that are watched.
#[derive(Debug, Default)]
pub(crate) struct Publishers {
    by_topic: BTreeMap<Topic, Vec<Arc<ViewPublisher>>>,
    /// Their number, those that were dropped since the last time they were forgotten included.
    count: usize,
    /// At how many those that were dropped are forgotten next.
    limit: usize,
}

impl Publishers {
    /// A watch that begins with `first`.
    pub(crate) fn watch(&mut self, first: TopicView) -> TopicWatch {
        // Not at each: then many, of one topic or of many, would take time that grows with their square.
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

    /// The publishers of all who watch a topic.
    #[cfg(any(feature = "etcd", feature = "file", feature = "mock", feature = "zookeeper"))]
    pub(crate) fn of(&self, topic: &Topic) -> Vec<Arc<ViewPublisher>> {
        self.by_topic.get(topic).cloned().unwrap_or_default()
    }

    /// The number of watches of a topic that are held; clones of a watch count as one.
    #[cfg(feature = "mock")]
    pub(crate) fn count(&self, topic: &Topic) -> usize {
        let publishers = self.by_topic.get(topic).into_iter().flatten();
        publishers.filter(|publisher| !publisher.is_closed()).count()
    }

    /// Whether nobody watches a topic.
    #[cfg(any(feature = "etcd", feature = "file"))]
    pub(crate) fn is_unused(&self) -> bool {
        self.by_topic.values().flatten().all(|publisher| publisher.is_closed())
    }

    /// The topics that are watched.
    #[cfg(any(feature = "etcd", feature = "file", feature = "mock"))]
    pub(crate) fn topics(&mut self) -> Vec<Topic> {
        self.remove_dropped();
        self.by_topic.keys().cloned().collect()
    }

    /// Takes the publishers of a topic out that nobody watches any more.
    #[cfg(feature = "zookeeper")]
    #[must_use = "drop them once no lock is held"]
    pub(crate) fn take(&mut self, topic: &Topic) -> Vec<Arc<ViewPublisher>> {
        let taken = self.by_topic.remove(topic).unwrap_or_default();
        self.count -= taken.len();
        taken
    }

    /// Takes all publishers out, to end their watches.
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
    fn many_watches_of_one_topic_take_time_in_proportion() {
        const WATCHES: usize = 40_000;
        let (started, mut publishers) = (std::time::Instant::now(), Publishers::default());
        let topic = Topic::new("t").unwrap();
        let watches: Vec<_> = (0..WATCHES).map(|_| publishers.watch(TopicView::new(topic.clone()))).collect();
        assert_eq!(publishers.by_topic[&topic].len(), WATCHES);
        // Looking for dropped watches at every other one took longer than this limit.
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        drop(watches);
        // Those that were dropped don't pile up.
        (0..3 * WATCHES).for_each(|_| drop(publishers.watch(TopicView::new(topic.clone()))));
        assert!(publishers.by_topic[&topic].len() <= 2 * WATCHES, "{}", publishers.by_topic[&topic].len());
    }
}
