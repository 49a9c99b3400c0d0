//! Code of the user's that gets the messages which were offered and not stored.

use std::{
    cell::RefCell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

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
/// called within its own call.
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
}

thread_local! {
    /// The producers, by the addresses of their [`Failures`], whose handlers run on this thread now.
    static ACTIVE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

impl Failures {
    pub(crate) fn new(handler: Option<Arc<dyn FailureHandler>>) -> Self {
        Self { handler, has_panicked: AtomicBool::new(false) }
    }

    /// Whether anybody wants the messages.
    pub(crate) fn is_handled(&self) -> bool {
        self.handler.is_some()
    }

    /// Gives the handler the message of an error, unless the handler is what has offered it just now. No lock
    /// may be held.
    #[cold]
    pub(crate) fn tell(&self, mut error: SendError) {
        let (Some(handler), Some(message)) = (&self.handler, error.take_any_message()) else {
            return contain(|| drop(error));
        };
        let this = (&raw const *self).addr();
        if ACTIVE.with_borrow(|active| active.contains(&this)) {
            return contain(|| drop((message, error)));
        }
        ACTIVE.with_borrow_mut(|active| active.push(this));
        let topic = message.topic().clone();
        if let Err(panic) = panics::catch(|| handler.message_failed(FailedMessage { message, error }))
            && !self.has_panicked.swap(true, Ordering::Relaxed)
        {
            contain(|| {
                tracing::warn!(%topic, panic, "the failure handler panicked; further panics are not reported");
            });
        }
        ACTIVE.with_borrow_mut(|active| active.pop());
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failures").field("is_handled", &self.is_handled()).finish_non_exhaustive()
    }
}
