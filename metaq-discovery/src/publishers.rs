//! The watches of several topics, for backends that hold them all in one place.

use std::collections::BTreeMap;

use metaq_protocol::Topic;

#[cfg(any(feature = "etcd", feature = "file", feature = "mock"))]
use crate::EventPublisher;
use crate::{TopicView, TopicWatch, ViewPublisher};

/// The publishers of the topics that are watched.
#[derive(Debug, Default)]
pub(crate) struct Publishers {
    by_topic: BTreeMap<Topic, Vec<ViewPublisher>>,
}

impl Publishers {
    /// A watch that begins with `first`.
    pub(crate) fn watch(&mut self, first: TopicView) -> TopicWatch {
        self.forget_dropped();
        let topic = first.topic().clone();
        let (publisher, watch) = TopicWatch::channel(first);
        self.by_topic.entry(topic).or_default().push(publisher);
        watch
    }

    /// Publishes `view` to all who watch its topic; the change is told once.
    #[cfg(any(feature = "etcd", feature = "file", feature = "mock"))]
    pub(crate) fn publish(&self, view: &TopicView, events: &EventPublisher) {
        let mut publishers = self.by_topic.get(view.topic()).into_iter().flatten();
        if let Some(first) = publishers.next() {
            events.publish(first, view.clone());
        }
        publishers.for_each(|publisher| {
            publisher.publish(view.clone());
        });
    }

    /// How many watches of a topic are held; clones of a watch count as one.
    #[cfg(feature = "mock")]
    pub(crate) fn count(&self, topic: &Topic) -> usize {
        let publishers = self.by_topic.get(topic).into_iter().flatten();
        publishers.filter(|publisher| !publisher.is_closed()).count()
    }

    /// The topics that are watched.
    #[cfg(any(feature = "etcd", feature = "file", feature = "mock"))]
    pub(crate) fn topics(&mut self) -> Vec<Topic> {
        self.forget_dropped();
        self.by_topic.keys().cloned().collect()
    }

    /// Ends all watches.
    #[cfg(any(feature = "etcd", feature = "file", feature = "mock"))]
    pub(crate) fn clear(&mut self) {
        self.by_topic.clear();
    }

    fn forget_dropped(&mut self) {
        self.by_topic.retain(|_, publishers| {
            publishers.retain(|publisher| !publisher.is_closed());
            !publishers.is_empty()
        });
    }
}
