//! The topics that are published on a producer.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use metaq_discovery::Discovery;
use metaq_protocol::Topic;
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    PublishError,
    counts::Counts,
    dispatcher::{Dispatcher, Event},
    follower::{Follower, Progress, PublishLimits},
    launcher::Launcher,
    pool::Pool,
    route::TopicState,
};

type TopicMap = HashMap<Topic, Arc<PublishedTopic>, foldhash::fast::RandomState>;

/// Which topics are published, how often, and their routes. Senders look topics up without a lock.
pub(crate) struct Topics {
    discovery: Arc<dyn Discovery>,
    pool: Arc<Pool>,
    launcher: Arc<Launcher>,
    limits: PublishLimits,
    ordered: bool,
    pub(crate) counts: Counts,
    lookup: ArcSwap<TopicMap>,
    holders: Mutex<Holders>,
}

/// So many topics are sooner looked through than one is found by its name.
const FEW: usize = 4;

/// The topics at one moment.
pub(crate) struct Lookup {
    topics: arc_swap::Guard<Arc<TopicMap>>,
}

impl Lookup {
    pub(crate) fn find(&self, topic: &Topic) -> Option<&Arc<TopicState>> {
        let known = if self.topics.len() <= FEW { self.find_same(topic) } else { None };
        known.or_else(|| self.topics.get(topic)).map(|published| &published.state)
    }

    /// The topic whose name is the very text that was published, as most senders use it: its letters need no look.
    #[inline]
    fn find_same(&self, topic: &Topic) -> Option<&Arc<PublishedTopic>> {
        self.topics.iter().find(|(name, _)| name.ptr_eq(topic)).map(|(_, published)| published)
    }
}

/// How many publishers hold each topic.
struct Holders {
    counts: HashMap<Topic, usize>,
    closed: bool,
    /// What the dispatcher will hear, until it runs.
    events: Option<tokio::sync::mpsc::UnboundedReceiver<Event>>,
}

/// A topic that is published, or being published for the first time.
pub(crate) struct PublishedTopic {
    pub(crate) state: Arc<TopicState>,
    progress: watch::Receiver<Progress>,
    follower: JoinHandle<()>,
    launcher: Arc<Launcher>,
}

impl PublishedTopic {
    /// Stops following, lets go of the connections, and ends messages that wait for one.
    fn withdraw(&self) {
        self.follower.abort();
        self.state.withdraw();
        self.launcher.flights.inbox.route_changed(&self.state);
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
    pub(crate) fn new(
        discovery: Arc<dyn Discovery>,
        pool: Arc<Pool>,
        launcher: Arc<Launcher>,
        limits: PublishLimits,
        ordered: bool,
        events: tokio::sync::mpsc::UnboundedReceiver<Event>,
    ) -> Self {
        let holders = Holders { counts: HashMap::new(), closed: false, events: Some(events) };
        Self {
            discovery,
            pool,
            launcher,
            limits,
            ordered,
            counts: Counts::default(),
            lookup: ArcSwap::default(),
            holders: Mutex::new(holders),
        }
    }

    /// All topics that are published or being published now.
    pub(crate) fn lookup(&self) -> Lookup {
        Lookup { topics: self.lookup.load() }
    }

    fn get(&self, topic: &Topic) -> Option<Arc<PublishedTopic>> {
        self.lookup.load().get(topic).cloned()
    }

    /// Adds a hold on `topic` and waits until it is ready. All who publish it at the same time share one attempt;
    /// when that fails, or the caller goes away, the hold is given back.
    pub(crate) async fn publish(&self, topic: &Topic) -> Result<(), PublishError> {
        let (published, mut hold) = self.hold(topic).ok_or_else(|| PublishError::closed(topic))?;
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

    fn hold<'a>(&'a self, topic: &'a Topic) -> Option<(Arc<PublishedTopic>, Hold<'a>)> {
        let mut holders = self.holders.lock();
        if holders.closed {
            return None;
        }
        if let Some(events) = holders.events.take() {
            // Only here is it sure that there is a runtime, and nothing waits before.
            tokio::spawn(Dispatcher::new(Arc::clone(&self.launcher), events).run());
        }
        let failed = |published: &PublishedTopic| matches!(*published.progress.borrow(), Progress::Failed(_));
        let published = match self.get(topic).filter(|published| !failed(published)) {
            Some(published) => published,
            None => {
                let published = Arc::new(self.start(topic));
                self.change(|map| map.insert(topic.clone(), Arc::clone(&published)));
                published
            }
        };
        *holders.counts.entry(topic.clone()).or_default() += 1;
        Some((published, Hold { topics: self, topic, kept: false }))
    }

    fn start(&self, topic: &Topic) -> PublishedTopic {
        let shared = self.launcher.selector();
        let selector = shared.for_topic(topic).map_or_else(|| Arc::clone(shared), Arc::from);
        let state = TopicState::new(topic.clone(), self.counts.topic(topic), selector, self.ordered);
        let state = Arc::new(state);
        let inbox = self.launcher.flights.inbox.clone();
        let follower = Follower::new(Arc::clone(&state), Arc::clone(&self.pool), inbox);
        let (sender, progress) = watch::channel(Progress::Starting);
        let follower = tokio::spawn(follower.run(Arc::clone(&self.discovery), self.limits, sender));
        PublishedTopic { state, progress, follower, launcher: Arc::clone(&self.launcher) }
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
                if matches!(*published.progress.borrow(), Progress::Ready) {
                    tracing::info!(%topic, "topic unpublished");
                }
                published.withdraw();
            }
        }
        true
    }

    /// Refuses new holds.
    pub(crate) fn refuse(&self) {
        self.holders.lock().closed = true;
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
