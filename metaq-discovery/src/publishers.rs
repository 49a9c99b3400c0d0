//! The watches of several topics, for backends that hold them all in one place.

use std::{collections::BTreeMap, sync::Arc};

use metaq_protocol::Topic;

use crate::{TopicView, TopicWatch, ViewPublisher};

/// The publishers of the topics that are watched.
#[derive(Debug, Default)]
pub(crate) struct Publishers {
    by_topic: BTreeMap<Topic, Vec<Arc<ViewPublisher>>>,
    /// How many were added since those that were dropped were forgotten.
    added: usize,
}

impl Publishers {
    /// A watch that begins with `first`.
    pub(crate) fn watch(&mut self, first: TopicView) -> TopicWatch {
        self.added += 1;
        // Not at each: then many would take time that grows with their square.
        if self.added > self.by_topic.len() {
            self.forget_dropped();
        }
        let topic = first.topic().clone();
        let (publisher, watch) = TopicWatch::channel(first);
        self.by_topic.entry(topic).or_default().push(Arc::new(publisher));
        watch
    }

    /// The publishers of all who watch a topic.
    #[cfg(any(feature = "etcd", feature = "file", feature = "mock"))]
    pub(crate) fn of(&self, topic: &Topic) -> Vec<Arc<ViewPublisher>> {
        self.by_topic.get(topic).cloned().unwrap_or_default()
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

    /// Takes all publishers out, to end their watches.
    pub(crate) fn take_all(&mut self) -> Vec<Arc<ViewPublisher>> {
        std::mem::take(&mut self.by_topic).into_values().flatten().collect()
    }

    fn forget_dropped(&mut self) {
        self.added = 0;
        self.by_topic.retain(|_, publishers| {
            publishers.retain(|publisher| !publisher.is_closed());
            !publishers.is_empty()
        });
    }
}
