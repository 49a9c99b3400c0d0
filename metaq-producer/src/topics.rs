//! The topics that are published on a producer.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use metaq_discovery::Discovery;
use metaq_protocol::Topic;
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    PartitionSelector, PublishError,
    pool::Pool,
    route::{Follower, Progress, PublishLimits, RouteCell},
};

type TopicMap = HashMap<Topic, Arc<PublishedTopic>>;

/// Which topics are published, how often, and their routes. Senders look topics up without a lock.
pub(crate) struct Topics {
    discovery: Arc<dyn Discovery>,
    pool: Arc<Pool>,
    limits: PublishLimits,
    lookup: ArcSwap<TopicMap>,
    holders: Mutex<Holders>,
}

/// How many publishers hold each topic.
#[derive(Default)]
struct Holders {
    counts: HashMap<Topic, usize>,
    closed: bool,
}

/// A topic that is published, or being published for the first time.
pub(crate) struct PublishedTopic {
    pub(crate) route: Arc<RouteCell>,
    /// The topic's own selector, if the producer's has one for each topic.
    pub(crate) selector: Option<Box<dyn PartitionSelector>>,
    progress: watch::Receiver<Progress>,
    follower: JoinHandle<()>,
    withdrawn: AtomicBool,
}

impl PublishedTopic {
    /// Whether the topic was unpublished; senders may still hold it then.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }

    /// Stops following, lets go of the connections, and tells senders that wait for one.
    fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Release);
        self.follower.abort();
        self.route.clear();
    }
}

impl Drop for PublishedTopic {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// Gives a publisher's hold back unless it is kept.
struct Hold<'a> {
    topics: &'a Topics,
    topic: &'a Topic,
    kept: bool,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.topics.release(self.topic);
        }
    }
}

impl Topics {
    pub(crate) fn new(discovery: Arc<dyn Discovery>, pool: Arc<Pool>, limits: PublishLimits) -> Self {
        Self { discovery, pool, limits, lookup: ArcSwap::default(), holders: Mutex::default() }
    }

    /// The topic, if it is published or being published.
    pub(crate) fn get(&self, topic: &Topic) -> Option<Arc<PublishedTopic>> {
        self.lookup.load().get(topic).cloned()
    }

    /// Adds a hold on `topic` and waits until it is ready. All who publish it at the same time share one attempt;
    /// when that fails, or the caller goes away, the hold is given back.
    pub(crate) async fn publish(
        &self,
        topic: &Topic,
        selector: &dyn PartitionSelector,
    ) -> Result<(), PublishError> {
        let (published, mut hold) = self.hold(topic, selector).ok_or_else(|| PublishError::closed(topic))?;
        let mut progress = published.progress.clone();
        drop(published);
        let end = progress.wait_for(|progress| !matches!(progress, Progress::Starting)).await;
        match end.as_deref() {
            Ok(Progress::Ready) => {
                hold.kept = true;
                Ok(())
            }
            Ok(Progress::Failed(error)) => Err(error.clone()),
            Ok(Progress::Starting) | Err(_) => Err(PublishError::closed(topic)),
        }
    }

    fn hold<'a>(
        &'a self,
        topic: &'a Topic,
        selector: &dyn PartitionSelector,
    ) -> Option<(Arc<PublishedTopic>, Hold<'a>)> {
        let mut holders = self.holders.lock();
        if holders.closed {
            return None;
        }
        let failed = |published: &PublishedTopic| matches!(*published.progress.borrow(), Progress::Failed(_));
        let published = match self.get(topic).filter(|published| !failed(published)) {
            Some(published) => published,
            None => {
                let published = Arc::new(self.start(topic, selector));
                self.change(|map| map.insert(topic.clone(), Arc::clone(&published)));
                published
            }
        };
        *holders.counts.entry(topic.clone()).or_default() += 1;
        Some((published, Hold { topics: self, topic, kept: false }))
    }

    fn start(&self, topic: &Topic, selector: &dyn PartitionSelector) -> PublishedTopic {
        let (follower, route) = Follower::new(topic.clone(), Arc::clone(&self.pool));
        let (sender, progress) = watch::channel(Progress::Starting);
        let follower = tokio::spawn(follower.run(Arc::clone(&self.discovery), self.limits, sender));
        let withdrawn = AtomicBool::new(false);
        PublishedTopic { route, selector: selector.for_topic(topic), progress, follower, withdrawn }
    }

    /// Gives one hold back; with the last one the topic is no longer followed. False when there was none.
    pub(crate) fn release(&self, topic: &Topic) -> bool {
        let mut holders = self.holders.lock();
        let Some(count) = holders.counts.get_mut(topic) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            holders.counts.remove(topic);
            if let Some(published) = self.change(|map| map.remove(topic)) {
                published.withdraw();
            }
        }
        true
    }

    /// Gives all holds back and refuses new ones.
    pub(crate) fn close(&self) {
        let mut holders = self.holders.lock();
        holders.closed = true;
        holders.counts.clear();
        self.change(std::mem::take).values().for_each(|published| published.withdraw());
    }

    fn change<R>(&self, change: impl FnOnce(&mut TopicMap) -> R) -> R {
        let mut map = TopicMap::clone(&self.lookup.load());
        let result = change(&mut map);
        self.lookup.store(Arc::new(map));
        result
    }
}
