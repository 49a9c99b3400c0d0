//! The topics that are published on a producer.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use metaq_discovery::Discovery;
use metaq_protocol::Topic;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::{
    PartitionSelector, PublishError,
    config::PartitionSet,
    deadline,
    health::EventSender,
    panics::contain,
    route::{
        PublishObserver, RouteObserver,
        auto_publish::{FailedAttempts, LONGEST_PAUSE, Start},
        followed::{Followed, FollowerParts, Progress, PublishLimits},
        pool::Pool,
        topic_state::TopicState,
        wait_queue::WaitQueues,
    },
    stats::counts::Counts,
};

type TopicMap = HashMap<Topic, Arc<PublishedTopic>, foldhash::fast::RandomState>;

/// The settings of topics.
pub(crate) struct TopicOptions {
    /// The selector of topics that have none of their own.
    pub(crate) selector: Arc<dyn PartitionSelector>,
    /// The configured partitions of topics that have some.
    pub(crate) partition_sets: BTreeMap<Topic, PartitionSet>,
    pub(crate) ordered: bool,
    /// The time of a message, of which the pause before it publishes its topic takes a part.
    pub(crate) send_timeout: Duration,
}

/// The topics that are published, how often, and their routes. Senders look topics up without a lock.
pub(crate) struct Topics {
    parts: Arc<FollowerParts>,
    options: TopicOptions,
    observer: Arc<dyn RouteObserver>,
    pub(crate) counts: Counts,
    lookup: ArcSwap<TopicMap>,
    holders: Mutex<Holders>,
}

/// Up to this number of topics, a linear search is faster than the map.
const FEW: usize = 4;

/// The interval at which a publisher checks that the task that follows the topic still runs.
const LOOK: Duration = Duration::from_millis(100);

/// The topics at one moment.
pub(crate) struct Lookup {
    topics: arc_swap::Guard<Arc<TopicMap>>,
}

impl Lookup {
    pub(crate) fn find(&self, topic: &Topic) -> Option<&Arc<TopicState>> {
        let known = if self.topics.len() <= FEW { self.find_same(topic) } else { None };
        known.or_else(|| self.topics.get(topic)).map(|published| &published.state)
    }

    /// The topic whose name is the very text that was published, as most senders use it: its letters need no
    /// look.
    #[inline]
    fn find_same(&self, topic: &Topic) -> Option<&Arc<PublishedTopic>> {
        self.topics.iter().find(|(name, _)| name.ptr_eq(topic)).map(|(_, published)| published)
    }
}

/// A publisher of a topic. Each takes back only its own publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Publisher {
    /// The program.
    Program,
    /// An [`XaProducer`](crate::xa::XaProducer).
    Xa,
}

/// The number of publishers that hold each topic.
#[derive(Default)]
struct Holders {
    counts: HashMap<Topic, HolderCounts>,
    /// The messages that wait, of topics that are or were published.
    waits: HashMap<Topic, Weak<WaitQueues>>,
    failures: FailedAttempts,
    closed: bool,
}

#[derive(Default)]
pub(super) struct HolderCounts {
    /// The publisher whose publishing is under way.
    pending: usize,
    program: usize,
    xa: usize,
    /// Whether it is held since a message was sent to it.
    pub(super) auto: bool,
}

impl HolderCounts {
    fn of(&mut self, publisher: Publisher) -> &mut usize {
        match publisher {
            Publisher::Program => &mut self.program,
            Publisher::Xa => &mut self.xa,
        }
    }

    fn is_empty(&self) -> bool {
        self.pending + self.program + self.xa == 0 && !self.auto
    }
}

/// The reason why a topic is not held.
pub(super) enum NotHeld {
    Closed,
    TooMany,
}

/// A topic that is published, or being published for the first time.
pub(crate) struct PublishedTopic {
    pub(crate) state: Arc<TopicState>,
    observer: Arc<dyn RouteObserver>,
}

impl PublishedTopic {
    fn progress(&self) -> Progress {
        self.state.followed().progress().borrow().clone()
    }

    /// Stops following, lets go of the connections, and ends messages that wait for one.
    fn withdraw(&self) {
        self.state.withdraw();
        Arc::clone(&self.observer).route_changed(&self.state);
    }
}

impl Drop for PublishedTopic {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// The hold of one whose publishing is under way; given back with it.
struct Pending<'a> {
    topics: &'a Topics,
    topic: &'a Topic,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.topics.give_back(self.topic, |counts| {
            counts.pending = counts.pending.saturating_sub(1);
            true
        });
    }
}

impl Topics {
    pub(crate) fn new(
        discovery: Arc<dyn Discovery>,
        pool: Arc<Pool>,
        options: TopicOptions,
        observer: Arc<dyn RouteObserver>,
        limits: PublishLimits,
        events: EventSender,
    ) -> Self {
        let parts = FollowerParts {
            discovery,
            pool,
            observer: Arc::downgrade(&observer),
            publish_observer: OnceLock::new(),
            limits,
            events,
        };
        Self {
            parts: Arc::new(parts),
            options,
            observer,
            counts: Counts::default(),
            lookup: ArcSwap::default(),
            holders: Mutex::default(),
        }
    }

    /// Sets who learns that a topic could not be published.
    pub(crate) fn set_publish_observer(&self, observer: Weak<dyn PublishObserver>) {
        let _ = self.parts.publish_observer.set(observer);
    }

    /// All topics that are published or being published now.
    pub(crate) fn lookup(&self) -> Lookup {
        Lookup { topics: self.lookup.load() }
    }

    pub(super) fn get(&self, topic: &Topic) -> Option<Arc<PublishedTopic>> {
        self.lookup.load().get(topic).cloned()
    }

    /// Adds a hold on `topic` and waits until it is ready. All who publish it at the same time share one
    /// attempt; when that fails, or the caller goes away, the hold is given back.
    pub(crate) async fn publish(&self, topic: &Topic, publisher: Publisher) -> Result<(), PublishError> {
        if deadline::runtime().is_none() {
            return Err(PublishError::no_runtime(topic));
        }
        let pending = self.hold(topic).ok_or_else(|| PublishError::closed(topic))?;
        let limit = self.parts.limits.total;
        let patience = deadline::at(deadline::after(limit), 2 * LOOK);
        let mut is_anew = false;
        loop {
            let Some(published) = self.get(topic) else { return Err(PublishError::closed(topic)) };
            // The task that followed it may have ended with its runtime.
            is_anew |= published.state.ensure_followed();
            let state = Arc::clone(&published.state);
            let mut progress = state.followed().progress();
            drop(published);
            let look = deadline::after(LOOK).min(patience);
            let settled = async {
                let settled = progress.wait_for(|progress| !matches!(progress, Progress::Starting)).await;
                settled.as_deref().ok().cloned()
            };
            match timeout_at(look, settled).await {
                Ok(Some(Progress::Failed(error))) => return Err(error),
                Ok(Some(_)) => {
                    if is_anew && !state.is_reachable() {
                        // Connections have ended with the runtime as well.
                        if Instant::now() >= patience {
                            let (brokers, last) = state.route().unreachable();
                            return Err(PublishError::unreachable(topic, &brokers, limit, last));
                        }
                        let _ = timeout_at(look, state.route_changed()).await;
                        continue;
                    }
                    self.keep(topic, publisher);
                    drop(pending);
                    return Ok(());
                }
                Ok(None) => return Err(PublishError::closed(topic)),
                Err(_) if look >= patience => return Err(PublishError::not_driven(topic, limit)),
                Err(_) => {}
            }
        }
    }

    /// The states of all topics that are published or being published, sorted by name.
    pub(crate) fn states(&self) -> Vec<Arc<TopicState>> {
        let lookup = self.lookup.load();
        let mut states: Vec<_> = lookup.values().map(|published| Arc::clone(&published.state)).collect();
        states.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
        states
    }

    /// Has the topics followed on that were followed on a runtime that has ended, and waits for their
    /// connections.
    pub(crate) async fn revive(&self, deadline: Instant) {
        let revived: Vec<_> = self.states().into_iter().filter(|topic| topic.ensure_followed()).collect();
        for topic in revived {
            loop {
                let mut changed = pin!(topic.route_changed());
                changed.as_mut().enable();
                if topic.is_reachable() || timeout_at(deadline, changed).await.is_err() {
                    break;
                }
            }
        }
    }

    fn hold<'a>(&'a self, topic: &'a Topic) -> Option<Pending<'a>> {
        let held = self.hold_with(topic, false, |counts| {
            counts.entry(topic.clone()).or_default().pending += 1;
            true
        });
        // The program doesn't wait for the pause of a message.
        held.iter().for_each(|published| published.state.followed().begin_now());
        held.ok().map(|_| Pending { topics: self, topic })
    }

    /// Adds a hold of this kind unless that isn't allowed, and the topic if it is not there or has failed;
    /// for a message, with a pause if it has failed lately.
    pub(super) fn hold_with(
        &self,
        topic: &Topic,
        is_by_message: bool,
        hold: impl FnOnce(&mut HashMap<Topic, HolderCounts>) -> bool,
    ) -> Result<Arc<PublishedTopic>, NotHeld> {
        let is_failed = |published: &Arc<PublishedTopic>| matches!(published.progress(), Progress::Failed(_));
        // Before anything is changed or locked: it is anybody's code.
        let mut selector = match self.get(topic) {
            Some(published) if !is_failed(&published) => None,
            _ => Some(self.selector(topic)),
        };
        let (held, failed) = {
            let mut holders = self.holders.lock();
            if holders.closed {
                return Err(NotHeld::Closed);
            }
            if !hold(&mut holders.counts) {
                return Err(NotHeld::TooMany);
            }
            match self.get(topic) {
                Some(published) if !is_failed(&published) => (published, None),
                failed => {
                    // Another one may have published it, and taken it back, in the meantime.
                    let selector = selector.take().unwrap_or_else(|| Arc::clone(&self.options.selector));
                    let start = match is_by_message {
                        true => {
                            let start = failed.as_ref().map(|failed| failed.state.followed().start());
                            holders.failures.next(topic, start, self.longest_pause())
                        }
                        false => Start::default(),
                    };
                    let new = self.new_topic(topic, selector, start, &mut holders);
                    self.change(|map| map.insert(topic.clone(), Arc::clone(&new)));
                    (new, failed)
                }
            }
        };
        // What it lets go of may run anybody's code.
        drop(failed);
        Ok(held)
    }

    /// The longest pause before an attempt of a message: one that waits for it has time for the attempt, too.
    fn longest_pause(&self) -> Duration {
        LONGEST_PAUSE.min(self.options.send_timeout / 3)
    }

    /// Notes that an attempt to publish a topic has failed.
    pub(super) fn note_failure(&self, topic: &Topic, start: Start) {
        self.holders.lock().failures.add(topic, start, Instant::now());
    }

    /// The topic's own selector, or the producer's.
    fn selector(&self, topic: &Topic) -> Arc<dyn PartitionSelector> {
        let selector = &self.options.selector;
        selector.for_topic(topic).map_or_else(|| Arc::clone(selector), Arc::from)
    }

    fn new_topic(
        &self,
        topic: &Topic,
        selector: Arc<dyn PartitionSelector>,
        start: Start,
        holders: &mut Holders,
    ) -> Arc<PublishedTopic> {
        let known = holders.waits.get(topic).and_then(Weak::upgrade);
        // Messages that are still under way go on keeping their turns.
        let waits = known.unwrap_or_default();
        holders.waits.retain(|_, waits| waits.strong_count() > 0);
        holders.waits.insert(topic.clone(), Arc::downgrade(&waits));
        let followed = Followed::new(Arc::clone(&self.parts), start);
        let counts = self.counts.topic(topic);
        let TopicOptions { partition_sets, ordered, .. } = &self.options;
        let set = partition_sets.get(topic).cloned();
        let state = TopicState::new(topic.clone(), counts, selector, set, *ordered, waits, followed);
        Arc::new(PublishedTopic { state: Arc::new(state), observer: Arc::clone(&self.observer) })
    }

    fn keep(&self, topic: &Topic, publisher: Publisher) {
        let mut holders = self.holders.lock();
        holders.failures.remove(topic);
        if let Some(counts) = holders.counts.get_mut(topic) {
            *counts.of(publisher) += 1;
        }
    }

    /// Gives one hold back; with the last one the topic is no longer followed. False when there was none.
    pub(crate) fn release(&self, topic: &Topic, publisher: Publisher) -> bool {
        // Failures before it was published say nothing about the next attempt.
        self.holders.lock().failures.remove(topic);
        self.give_back(topic, |counts| {
            let held = counts.of(publisher);
            let had_one = *held > 0;
            *held = held.saturating_sub(1);
            let was_auto = publisher == Publisher::Program && counts.program == 0 && counts.auto;
            counts.auto &= !was_auto;
            had_one || was_auto
        })
    }

    pub(super) fn give_back(&self, topic: &Topic, give: impl FnOnce(&mut HolderCounts) -> bool) -> bool {
        let (given, withdrawn) = {
            let mut holders = self.holders.lock();
            let Some(counts) = holders.counts.get_mut(topic) else { return false };
            let given = give(counts);
            if counts.is_empty() {
                holders.counts.remove(topic);
                (given, self.change(|map| map.remove(topic)))
            } else {
                (given, None)
            }
        };
        if let Some(published) = withdrawn {
            if matches!(published.progress(), Progress::Ready) {
                contain(|| tracing::info!(%topic, "topic unpublished"));
            }
            published.withdraw();
        }
        given
    }

    /// Refuses new holds.
    pub(crate) fn refuse(&self) {
        self.holders.lock().closed = true;
    }

    /// Gives all holds back and refuses new ones.
    pub(crate) fn close(&self) {
        let published = {
            let mut holders = self.holders.lock();
            holders.closed = true;
            holders.counts.clear();
            self.change(std::mem::take)
        };
        published.values().for_each(|published| published.withdraw());
    }

    fn change<R>(&self, change: impl FnOnce(&mut TopicMap) -> R) -> R {
        let mut map = TopicMap::clone(&self.lookup.load());
        let result = change(&mut map);
        self.lookup.store(Arc::new(map));
        result
    }
}
