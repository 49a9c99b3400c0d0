//! The state shared by the handles of a discovery, its watches, and the task that follows the registry.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metaq_protocol::Topic;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};

use super::{
    ZooKeeperConfig,
    connector::{ConnectError, Connector},
};
use crate::{
    DiscoveryError, EventPublisher, TopicView, TopicWatch,
    backend::{
        bad_entries::BadEntryReports, notices::Notices, publishers::Publishers, registry::Layout,
        task::TaskSlot,
    },
    view::ViewSource,
};

/// The backoff after refusals doubles from the first to the last.
const INITIAL_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

pub(super) type Reply<T> = oneshot::Sender<Result<T, DiscoveryError>>;

/// A request to the task that follows the registry.
#[derive(Debug)]
pub(super) enum Request {
    Watch(Topic, Reply<TopicWatch>),
    Topics(Reply<Vec<Topic>>),
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(super) connector: Connector,
    pub(super) layout: Layout,
    pub(super) config: ZooKeeperConfig,
    pub(super) events: EventPublisher,
    pub(super) notices: Notices,
    pub(super) reports: Mutex<BadEntryReports<Topic>>,
    pub(super) shared: Mutex<Shared>,
    /// Wakes the task after a request, or when a watch or a handle was dropped.
    pub(super) wake: Notify,
    /// The task that follows the registry.
    pub(super) task: TaskSlot,
    pub(super) closed: watch::Sender<bool>,
    /// Set while a handle of the discovery exists.
    is_held: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) requests: VecDeque<Request>,
    pub(super) publishers: Publishers,
    /// The number of watches of each topic; clones of a watch count as one.
    watches: BTreeMap<Topic, usize>,
    /// The topics whose last watch was dropped.
    pub(super) dropped: Vec<Topic>,
    /// The number of waiting calls.
    waiting: usize,
    /// Set while a session is open.
    pub(super) is_open: bool,
    /// Set once a session was opened.
    pub(super) was_open: bool,
    /// The reason why there is no session.
    pub(super) connect_error: Option<ConnectError>,
    refusal: Option<RefusalBackoff>,
}

/// The servers' refusal of the settings, with the backoff.
#[derive(Debug)]
struct RefusalBackoff {
    error: DiscoveryError,
    next_attempt: Instant,
    pause: Duration,
}

impl Inner {
    pub(super) fn new(hosts: &[String], layout: Layout, config: ZooKeeperConfig) -> Self {
        Self {
            connector: Connector::new(hosts, &config),
            layout,
            config,
            events: EventPublisher::default(),
            notices: Notices::default(),
            reports: Mutex::default(),
            shared: Mutex::default(),
            wake: Notify::new(),
            task: TaskSlot::default(),
            closed: watch::Sender::new(false),
            is_held: AtomicBool::new(true),
        }
    }

    /// Returns true if the registry must be followed. Once a session was needed, it is kept as long as the
    /// discovery is held.
    pub(super) fn is_needed(&self) -> bool {
        let shared = self.shared.lock();
        let is_kept = shared.was_open && self.is_held.load(Ordering::Acquire);
        !*self.closed.borrow() && (shared.waiting > 0 || !shared.watches.is_empty() || is_kept)
    }

    /// Starts the task that follows the registry unless it runs.
    pub(super) fn ensure_followed(self: Arc<Self>) -> Result<watch::Receiver<bool>, DiscoveryError> {
        if *self.closed.borrow() {
            return Err(DiscoveryError::closed());
        }
        let inner = Arc::clone(&self);
        let follow = move || Arc::clone(&self).follow();
        let needed = Arc::clone(&inner);
        inner.task.ensure_running("ZooKeeper follower", follow, |_| {}, move || needed.is_needed())
    }

    /// Creates a watch of a topic that begins with `first`.
    pub(super) fn new_watch(self: &Arc<Self>, first: TopicView) -> TopicWatch {
        let topic = first.topic().clone();
        let mut shared = self.shared.lock();
        *shared.watches.entry(topic.clone()).or_default() += 1;
        let watch = shared.publishers.watch(first);
        drop(shared);
        watch.with_source(Arc::new(WatchSource { inner: Arc::clone(self), topic }))
    }
}

impl Request {
    /// Returns true if the caller no longer waits.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Watch(_, reply) => reply.is_closed(),
            Self::Topics(reply) => reply.is_closed(),
        }
    }
}

impl Shared {
    /// Queues a request, and removes those of callers that have gone: while no server can be reached, the
    /// task doesn't take requests.
    pub(super) fn request(&mut self, request: Request) {
        if self.requests.len() > 2 * self.waiting + 16 {
            self.requests.retain(|request| !request.is_closed());
        }
        self.requests.push_back(request);
    }

    pub(super) fn is_watched(&self, topic: &Topic) -> bool {
        self.watches.contains_key(topic)
    }

    /// The watched topics.
    pub(super) fn topics(&self) -> VecDeque<Topic> {
        self.watches.keys().cloned().collect()
    }

    /// Records that the servers refuse the settings, and increases the backoff. Returns true if the error is
    /// new.
    pub(super) fn refuse(&mut self, error: DiscoveryError) -> bool {
        let former = self.refusal.take();
        let pause = former.as_ref().map_or(INITIAL_BACKOFF, |former| (former.pause * 2).min(MAX_BACKOFF));
        let is_new = former.is_none_or(|former| former.error.to_string() != error.to_string());
        self.refusal = Some(RefusalBackoff { error, next_attempt: Instant::now() + pause, pause });
        is_new
    }

    /// The time at which the servers may be asked again.
    pub(super) fn next_attempt(&self) -> Option<Instant> {
        self.refusal.as_ref().map(|refusal| refusal.next_attempt)
    }

    /// Records that a session was opened.
    pub(super) fn open(&mut self) {
        (self.is_open, self.was_open) = (true, true);
        (self.connect_error, self.refusal) = (None, None);
    }
}

/// The handles of a discovery: shared by all clones.
#[derive(Debug)]
pub(super) struct Handle(Arc<Inner>);

impl Handle {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self(inner)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.is_held.store(false, Ordering::Release);
        self.0.wake.notify_one();
    }
}

/// A call that waits for a reply.
#[derive(Debug)]
pub(super) struct WaitingCall<'a>(&'a Inner);

impl<'a> WaitingCall<'a> {
    /// # Errors
    /// The last refusal, during its backoff.
    pub(super) fn begin(inner: &'a Inner) -> Result<Self, DiscoveryError> {
        let mut shared = inner.shared.lock();
        if let Some(refusal) = shared.refusal.as_ref().filter(|refusal| refusal.next_attempt > Instant::now())
        {
            return Err(refusal.error.clone());
        }
        shared.waiting += 1;
        Ok(Self(inner))
    }
}

impl Drop for WaitingCall<'_> {
    fn drop(&mut self) {
        self.0.shared.lock().waiting -= 1;
        self.0.wake.notify_one();
    }
}

/// The state that a watch and its clones share.
struct WatchSource {
    inner: Arc<Inner>,
    topic: Topic,
}

impl ViewSource for WatchSource {
    fn ensure_followed(self: Arc<Self>) -> Result<watch::Receiver<bool>, DiscoveryError> {
        Arc::clone(&self.inner).ensure_followed()
    }
}

impl Drop for WatchSource {
    fn drop(&mut self) {
        let mut shared = self.inner.shared.lock();
        let Some(watches) = shared.watches.get_mut(&self.topic) else { return };
        *watches -= 1;
        if *watches > 0 {
            return;
        }
        shared.watches.remove(&self.topic);
        let publishers = shared.publishers.take(&self.topic);
        shared.dropped.push(self.topic.clone());
        drop(shared);
        drop(publishers);
        self.inner.wake.notify_one();
    }
}
