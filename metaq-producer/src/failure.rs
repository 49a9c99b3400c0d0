//! Code of the user's that gets the messages which were offered and not stored.

use std::{
    cell::Cell,
    collections::{BTreeSet, VecDeque},
    fmt,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    Message, Outcome, SendError,
    panics::{self, contain},
};

/// Gets every [offered](crate::Producer::offer) message that the producer could not take, or took and could
/// not send, so that a caller that must neither wait nor fail loses nothing unseen.
///
/// It is called once for each such message, without a lock: on the thread that offers the message if it is
/// not taken, else on one that reads answers or keeps time, at about the time of the outcome. It should be
/// quick, and hand what takes long to a thread or task of its own. It may call the producer, for instance to
/// send the message to another topic by [`try_send`](crate::Producer::try_send), which gives back what it
/// can't take. What the handler itself offers and is not taken is dropped and counted: the handler is not
/// called within its own call. It gets messages that end by what it calls, such as
/// [`unpublish_topic`](crate::Producer::unpublish_topic), when it has returned.
///
/// [`flush`](crate::Producer::flush) returns when the handler has returned for all messages that have failed;
/// [`close`](crate::Producer::close) waits for it no longer than for messages.
///
/// A handler that holds a clone of its own producer keeps it from being dropped. Close such a producer, or
/// have the handler hold a `Weak` of an `Arc<Producer>`.
///
/// A panic is contained, and the first one is logged as a warning.
///
/// A closure is one, and [`DropCounter`] another.
///
/// ```
/// use std::sync::mpsc;
/// use metaq_producer::{Outcome, Producer, failure::FailedMessage};
///
/// let (failed, _to_store) = mpsc::sync_channel(10_000);
/// let producer = Producer::builder()
///     .broker("meta://127.0.0.1:8123".parse()?)
///     .failure_handler(move |FailedMessage { message, error, .. }: FailedMessage| {
///         // One that may be stored would be stored twice.
///         if error.outcome() != Outcome::Unknown && failed.try_send(message).is_err() {
///             eprintln!("lost: {error}");
///         }
///     })
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait FailureHandler: Send + Sync {
    /// A message is not acknowledged, and nothing more is done for it.
    fn message_failed(&self, failed: FailedMessage);
}

impl<F: Fn(FailedMessage) + Send + Sync> FailureHandler for F {
    fn message_failed(&self, failed: FailedMessage) {
        self(failed);
    }
}

/// A message that was offered and not acknowledged.
#[derive(Debug)]
#[non_exhaustive]
pub struct FailedMessage {
    /// The message, whatever its outcome is.
    pub message: Message,
    /// The reason. Its [outcome](SendError::outcome) says whether the message may be stored; the message
    /// itself is not in it.
    pub error: SendError,
}

/// Drops what it gets, and counts it. Clones share the counts.
///
/// ```
/// use metaq_producer::{Message, Outcome, Producer, Topic, failure::DropCounter};
///
/// let dropped = DropCounter::new();
/// let producer = Producer::builder()
///     .broker("meta://127.0.0.1:8123".parse()?)
///     .failure_handler(dropped.clone())
///     .build()?;
/// // The topic isn't published.
/// assert!(!producer.offer(Message::new(Topic::new("orders")?, "one coffee")));
/// assert_eq!((dropped.count(Outcome::NotSent), dropped.total()), (1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct DropCounter {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    not_sent: AtomicU64,
    rejected: AtomicU64,
    unknown: AtomicU64,
}

impl DropCounter {
    /// A handler that has dropped nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of messages that were dropped with this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.of(outcome).load(Ordering::Relaxed)
    }

    /// The number of all messages that were dropped.
    #[must_use]
    pub fn total(&self) -> u64 {
        [Outcome::NotSent, Outcome::Rejected, Outcome::Unknown]
            .map(|outcome| self.count(outcome))
            .iter()
            .sum()
    }

    fn of(&self, outcome: Outcome) -> &AtomicU64 {
        let Counts { not_sent, rejected, unknown } = &*self.counts;
        match outcome {
            Outcome::NotSent => not_sent,
            Outcome::Rejected => rejected,
            Outcome::Unknown => unknown,
        }
    }
}

impl FailureHandler for DropCounter {
    fn message_failed(&self, failed: FailedMessage) {
        self.of(failed.error.outcome()).fetch_add(1, Ordering::Relaxed);
    }
}

/// The failure handler of a producer, if it has one, whose panics stay with the message that it was called
/// for.
#[derive(Default)]
pub(crate) struct Failures {
    handler: Option<Arc<dyn FailureHandler>>,
    /// Whether a panic was logged.
    has_panicked: AtomicBool,
    outstanding: Mutex<Outstanding>,
    delivered: Notify,
}

/// The messages that the handler is about to get.
#[derive(Default)]
struct Outstanding {
    next: u64,
    announced: BTreeSet<u64>,
    /// Messages that failed within the handler's call. The call that ends next passes them on.
    queue: VecDeque<(SendError, Notice)>,
}

/// A message that the handler is about to get: [`Failures::all_delivered`] waits for it.
#[derive(Debug)]
#[must_use = "flushing waits for it for ever"]
pub(crate) struct Notice(u64);

/// The largest number of producers whose handlers are known to run within each other on a thread.
const MOST_ACTIVE: usize = 4;

thread_local! {
    /// The producers, by the addresses of their [`Failures`], whose handlers run on this thread now; 0 for
    /// none. It has no destructor, so that it is there as long as the thread.
    static ACTIVE: Cell<[usize; MOST_ACTIVE]> = const { Cell::new([0; MOST_ACTIVE]) };
}

/// Notes that a handler runs on this thread, as long as it lives.
struct Call(usize);

enum NotEntered {
    /// The handler runs on this thread.
    Active,
    /// It can't be noted.
    Unknown,
}

impl Call {
    fn enter(failures: &Failures) -> Result<Self, NotEntered> {
        let this = (&raw const *failures).addr();
        let entered = ACTIVE.try_with(|active| {
            let mut known = active.get();
            if known.contains(&this) {
                return Err(NotEntered::Active);
            }
            let free = known.iter().position(|known| *known == 0).ok_or(NotEntered::Unknown)?;
            known[free] = this;
            active.set(known);
            Ok(Self(this))
        });
        entered.unwrap_or(Err(NotEntered::Unknown))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let _ = ACTIVE.try_with(|active| {
            active.set(active.get().map(|known| if known == self.0 { 0 } else { known }));
        });
    }
}

impl Failures {
    pub(crate) fn new(handler: Option<Arc<dyn FailureHandler>>) -> Self {
        Self { handler, ..Self::default() }
    }

    /// Whether there is a handler.
    pub(crate) fn is_handled(&self) -> bool {
        self.handler.is_some()
    }

    /// Has those who flush wait until the handler has a message that just failed: called with the lock that
    /// they look under. None without a handler.
    #[cold]
    pub(crate) fn announce(&self) -> Option<Notice> {
        self.handler.as_ref()?;
        let mut outstanding = self.outstanding.lock();
        let id = outstanding.next;
        outstanding.next += 1;
        outstanding.announced.insert(id);
        Some(Notice(id))
    }

    /// Gives the handler the message of an error that was announced; afterwards, if the handler runs on this
    /// thread. No lock may be held.
    #[cold]
    pub(crate) fn deliver(&self, error: SendError, notice: Notice) {
        let call = Call::enter(self);
        if matches!(call, Err(NotEntered::Active)) {
            return self.outstanding.lock().queue.push_back((error, notice));
        }
        self.call(error);
        self.end(notice);
        if call.is_ok() {
            self.deliver_queued();
        }
    }

    /// Gives the handler the message of an error that wasn't accepted, unless the handler is what has offered
    /// it just now. No lock may be held.
    #[cold]
    pub(crate) fn deliver_refused(&self, error: SendError) {
        let Ok(_call) = Call::enter(self) else { return contain(|| drop(error)) };
        self.call(error);
        self.deliver_queued();
    }

    fn deliver_queued(&self) {
        loop {
            let next = self.outstanding.lock().queue.pop_front();
            let Some((error, notice)) = next else { return };
            self.call(error);
            self.end(notice);
        }
    }

    fn call(&self, mut error: SendError) {
        let (Some(handler), Some(message)) = (&self.handler, error.take_any_message()) else {
            return contain(|| drop(error));
        };
        let topic = message.topic().clone();
        if let Err(panic) = panics::catch(|| handler.message_failed(FailedMessage { message, error }))
            && !self.has_panicked.swap(true, Ordering::Relaxed)
        {
            contain(|| {
                tracing::warn!(%topic, panic, "the failure handler panicked; further panics are not reported");
            });
        }
    }

    fn end(&self, notice: Notice) {
        self.outstanding.lock().announced.remove(&notice.0);
        self.delivered.notify_waiters();
    }

    /// Waits until the handler has returned for every message that was announced before, or does nothing
    /// within the handler's own call.
    pub(crate) async fn all_delivered(&self) {
        let next = self.outstanding.lock().next;
        loop {
            let mut delivered = pin!(self.delivered.notified());
            // From here on nothing is missed.
            delivered.as_mut().enable();
            let first = self.outstanding.lock().announced.first().copied();
            if first.is_none_or(|first| first >= next) || self.is_active() {
                return;
            }
            delivered.await;
        }
    }

    /// Whether the handler runs on this thread.
    fn is_active(&self) -> bool {
        matches!(Call::enter(self), Err(NotEntered::Active))
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failures").field("is_handled", &self.is_handled()).finish_non_exhaustive()
    }
}
