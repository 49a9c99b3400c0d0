//! The state of a spooling producer, shared by its clones, its handles and its tasks.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use metaq_producer::{Message, Producer, SendError, Topic};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use crate::{
    classify::{self, classify},
    error::{SpoolSendError, SpoolSendErrorKind},
    failing::Failing,
    options::SpoolOptions,
    pace::Pace,
    places::Places,
    stats::{QueueStats, SpoolStats},
    storage::Storage,
    unsettled::{Half, Unsettled},
};

pub(crate) struct Shared {
    pub(crate) producer: Producer,
    pub(crate) options: SpoolOptions,
    pub(crate) storage: Storage,
    pub(crate) live: LiveCounts,
    pub(crate) topics: Topics,
    /// Asks for replay of all queues, also of those that failed a moment ago.
    pub(crate) replay_now: Notify,
    pub(crate) is_closed: AtomicBool,
    /// Whether every broker of every topic was connected when that was looked at last. Then messages are
    /// given to the producer without a look.
    pub(crate) is_healthy: AtomicBool,
    /// Set when nothing stands between messages and the producer but its health.
    pub(crate) is_plain: bool,
    /// Set when replay and publishing are to end.
    pub(crate) closing: watch::Sender<bool>,
    /// Set when the task of replay has ended.
    pub(crate) replay_ended: watch::Sender<bool>,
    /// Takes handles that were dropped before their outcome.
    pub(crate) orphans: mpsc::UnboundedSender<Orphan>,
    /// The messages that tasks of the spool take to their outcome.
    pub(crate) driven: Unsettled,
    /// The messages whose handles were polled, and are to be polled again.
    pub(crate) awaited: Unsettled,
    pub(crate) pace: Pace,
    /// The places of queues that are replayed.
    pub(crate) places: Places,
    /// Why queues could not be replayed the last time.
    pub(crate) failing: Failing,
}

/// A handle that was dropped before its outcome, which counts that.
pub(crate) type Orphan = BoxFuture<'static, ()>;

/// Counts of messages that were offered.
#[derive(Debug, Default)]
pub(crate) struct LiveCounts {
    pub(crate) offered: AtomicU64,
    pub(crate) stored: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// The topics that the program has published, or that the spool holds messages of.
pub(crate) struct Topics {
    declared: Mutex<HashSet<Topic>>,
    /// Topics to be published in the background.
    pub(crate) publish: mpsc::UnboundedSender<Topic>,
}

impl Topics {
    pub(crate) fn new(declared: HashSet<Topic>, publish: mpsc::UnboundedSender<Topic>) -> Self {
        Self { declared: Mutex::new(declared), publish }
    }

    /// Remembers a topic; false when it was known.
    pub(crate) fn declare(&self, topic: &Topic) -> bool {
        self.declared.lock().insert(topic.clone())
    }

    pub(crate) fn is_declared(&self, topic: &Topic) -> bool {
        self.declared.lock().contains(topic)
    }
}

/// Waits until the spool is being closed.
pub(crate) async fn closed(closing: &mut watch::Receiver<bool>) {
    // The sender lives as long as its tasks.
    drop(closing.wait_for(|closing| *closing).await);
}

/// One message that a task works on, until this is dropped.
pub(crate) struct Driving(Arc<Shared>, Half);

impl Driving {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::clone(shared), shared.driven.begin())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.driven.end(self.1);
    }
}

impl Shared {
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    pub(crate) fn closed(message: Message) -> SpoolSendError {
        SpoolSendError::new(SpoolSendErrorKind::Closed, "the spool was closed", message)
    }

    #[inline]
    pub(crate) fn is_healthy(&self) -> bool {
        self.is_healthy.load(Ordering::Acquire)
    }

    /// Looks at the brokers again.
    pub(crate) fn update_health(&self) {
        let health = self.producer.health();
        let is_healthy = health.topics.iter().all(|topic| topic.partitions > 0 && topic.missing.is_empty());
        self.is_healthy.store(is_healthy, Ordering::Release);
    }

    /// Whether a message would find its broker connected. A mistake costs it the producer's timeout.
    pub(crate) fn is_reachable(&self, message: &Message) -> bool {
        if self.is_healthy() {
            return true;
        }
        match message.partition() {
            None => self.producer.ready([message.topic()]).is_ok(),
            Some(partition) => self.producer.partitions(message.topic()).contains(&partition),
        }
    }

    /// Has the storage write what comes, without waiting for its interval, until `done` is.
    pub(crate) async fn write_until(&self, done: impl Future<Output = ()>) {
        let mut done = std::pin::pin!(done);
        loop {
            tokio::select! {
                biased;
                () = &mut done => return,
                () = async {
                    self.storage.flush().await;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                } => {}
            }
        }
    }

    /// The message of an error, if it is to be spooled: the one that was kept, or the one that the error
    /// gives back.
    pub(crate) fn to_spool(
        &self,
        error: SendError,
        kept: Option<Message>,
    ) -> Result<(Message, SendError), SpoolSendError> {
        // Others find out before they wait.
        self.is_healthy.store(false, Ordering::Release);
        let Some(message) = kept.or_else(|| error.message().cloned()) else {
            return Err(SpoolSendError::send(error));
        };
        let is_declared = self.topics.is_declared(error.topic());
        let failure = classify(&error, message.partition().is_some(), is_declared);
        if classify::is_spooled(failure, &self.options) {
            Ok((message, error))
        } else {
            Err(SpoolSendError::send(error))
        }
    }

    /// Counts a message that a broker has stored. What was handed to the storage is counted there.
    pub(crate) fn count_stored(&self) {
        self.live.stored.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message that was neither stored nor handed to the storage.
    pub(crate) fn count_failed(&self) {
        self.live.failed.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn count_offered(&self) {
        self.live.offered.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts since the spool was opened.
    pub(crate) fn stats(&self) -> SpoolStats {
        let common = &self.storage.common;
        // What has ended is read first, so that nothing has ended that was not offered.
        let live = &self.live;
        let (stored, failed) = (live.stored.load(Ordering::Acquire), live.failed.load(Ordering::Acquire));
        let counts = common.ledger.counts();
        let offered = live.offered.load(Ordering::Acquire);
        let queues = common.index.filled().into_iter().map(|queue| QueueStats {
            topic: queue.key.topic.clone(),
            partition: queue.key.partition,
            waiting: queue.held(),
            failing: self.failing.reason(queue.id),
        });
        let failed = failed + counts.unwritten;
        SpoolStats {
            offered,
            stored,
            spooled: counts.spooled,
            failed,
            in_flight: offered.saturating_sub(stored + failed + counts.spooled),
            recovered: counts.recovered,
            replayed: counts.replayed,
            waiting: counts.waiting,
            waiting_bytes: counts.waiting_bytes,
            set_aside: counts.set_aside,
            dropped: counts.dropped,
            damaged: counts.damaged,
            held_aside: counts.held_aside,
            held_aside_bytes: counts.held_aside_bytes,
            maybe_duplicates: counts.maybe_duplicates,
            unknown_attempts: counts.unknown_attempts,
            files_set_aside: counts.files_set_aside,
            was_closed: common.was_closed,
            queues: queues.collect(),
        }
    }
}
