//! A fixed list of brokers.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use metaq_protocol::{BrokerAddr, Topic};
use parking_lot::Mutex;

use crate::{
    Discovery, DiscoveryError, TopicView, TopicWatch, backend::publishers::Publishers, panics::contain,
};

/// A fixed list of brokers that never changes. It has no tasks and needs no runtime.
///
/// ```
/// use metaq_discovery::{BrokerId, StaticDiscovery, Topic, TopicView};
///
/// let orders = TopicView::new("orders".parse()?)
///     .with_broker(BrokerId(0), "meta://10.0.0.1:8123".parse()?, 4)
///     .with_broker(BrokerId(1), "meta://10.0.0.2:8123".parse()?, 2);
/// let discovery = StaticDiscovery::new([orders]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct StaticDiscovery {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    topics: BTreeMap<Topic, TopicView>,
    /// The brokers of every other topic.
    direct: Option<BrokerAddr>,
    /// The publishers that keep the watches open until the discovery is closed.
    publishers: Mutex<Option<Publishers>>,
}

impl StaticDiscovery {
    /// Creates a discovery of exactly these topics; any other topic has no broker.
    pub fn new(views: impl IntoIterator<Item = TopicView>) -> Self {
        let topics = views.into_iter().map(|view| (view.topic().clone(), view)).collect();
        Self::with(topics, None)
    }

    /// Creates a discovery in which this one broker serves every topic and chooses the partitions: Java's
    /// direct mode. The broker's id isn't known, so receipts show -1. The producer's builder has `broker`,
    /// which asks the broker instead.
    #[must_use]
    pub fn direct(broker: BrokerAddr) -> Self {
        Self::with(BTreeMap::new(), Some(broker))
    }

    fn with(topics: BTreeMap<Topic, TopicView>, direct: Option<BrokerAddr>) -> Self {
        Self {
            inner: Arc::new(Inner { topics, direct, publishers: Mutex::new(Some(Publishers::default())) }),
        }
    }
}

#[async_trait]
impl Discovery for StaticDiscovery {
    async fn watch(&self, topic: &Topic) -> Result<TopicWatch, DiscoveryError> {
        let empty = || TopicView::new(topic.clone());
        let view = match (&self.inner.direct, self.inner.topics.get(topic)) {
            (_, Some(view)) => view.clone(),
            (Some(addr), None) => empty().with_address(addr.clone()),
            (None, None) => empty(),
        };
        let mut publishers = self.inner.publishers.lock();
        Ok(publishers.as_mut().ok_or_else(DiscoveryError::closed)?.watch(view))
    }

    async fn topics(&self) -> Result<Vec<Topic>, DiscoveryError> {
        Ok(self.inner.topics.keys().cloned().collect())
    }

    async fn close(&self) {
        let publishers = self.inner.publishers.lock().take();
        // Watches are woken after the lock is released.
        let all = publishers.map(|mut publishers| publishers.take_all()).unwrap_or_default();
        all.into_iter().for_each(|publisher| {
            // Dropping the last handle of a publisher wakes its watches.
            contain(|| {
                publisher.set_end(DiscoveryError::closed());
                drop(publisher);
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metaq_protocol::{BrokerId, Partition};

    #[tokio::test]
    async fn only_the_given_topics_have_brokers() {
        let (known, other) = (Topic::new("known").unwrap(), Topic::new("other").unwrap());
        let addr: BrokerAddr = "meta://h:1".parse().unwrap();
        let discovery =
            StaticDiscovery::new([TopicView::new(known.clone()).with_broker(BrokerId(3), addr, 2)]);
        let watch = discovery.watch(&known).await.unwrap();
        assert_eq!(watch.current().partitions(), [Partition::new(3, 0), Partition::new(3, 1)]);
        assert!(discovery.watch(&other).await.unwrap().current().is_empty());
        assert_eq!(discovery.topics().await.unwrap(), [known]);
    }

    #[tokio::test]
    async fn direct_mode_serves_every_topic_and_closes() {
        let discovery = StaticDiscovery::direct("meta://h:1".parse().unwrap());
        let topic = Topic::new("any").unwrap();
        let mut watch = discovery.watch(&topic).await.unwrap();
        assert_eq!(watch.current().partitions(), [Partition::ANY]);
        discovery.close().await;
        assert_eq!(watch.changed().await.unwrap_err().kind(), crate::DiscoveryErrorKind::Closed);
        assert!(discovery.watch(&topic).await.is_err());
    }
}
