//! Code of the user's that sees every message before it is accepted, and every outcome.

use std::{
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metaq_protocol::{Partition, Topic};

use crate::{
    Message, Outcome,
    panics::{self, contain},
};

/// Sees every message before it is accepted, for instance to add an attribute, and learns how each accepted
/// message ended.
///
/// A producer may have [several](crate::ProducerBuilder::interceptor), which are called in the order in which
/// they were added. They are called on the threads that send and that read answers, without a lock, so they
/// may call the producer, and should be quick. What they send is seen as well: there has to be an end to
/// that.
///
/// ```
/// use metaq_producer::{interceptor::Interceptor, Message, Producer};
///
/// /// Tells consumers which host a message is from.
/// struct Origin(String);
///
/// impl Interceptor for Origin {
///     fn before_send(&self, message: &mut Message) {
///         if message.attribute().is_none() {
///             message.set_attribute(&self.0);
///         }
///     }
/// }
///
/// let producer = Producer::builder()
///     .broker("meta://127.0.0.1:8123".parse()?)
///     .interceptor(Origin("host-7".to_owned()))
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Interceptor: Send + Sync {
    /// Looks at a message that is offered, and may change it, above all its attribute. Called once for each
    /// call that offers it, also within transactions: a message that comes back in an error and is offered
    /// again is seen again, as it was changed. It is checked, and its capacity and its partition are found,
    /// afterwards.
    ///
    /// If this panics, the message is not sent: the call fails with an error of kind
    /// [`Interceptor`](crate::SendErrorKind::Interceptor), which gives the message back as it was offered.
    fn before_send(&self, message: &mut Message) {
        let _ = message;
    }

    /// Learns how a message ended: once for each message that was accepted, whether its handle is there or
    /// not, at about the time at which the handle has the outcome. A message that was not accepted is the
    /// error of its call, and is not reported here; neither are messages of transactions, whose outcome is
    /// that of the transaction. On several threads, [`flush`](crate::Producer::flush) and
    /// [`close`](crate::Producer::close) may return a moment before the last calls.
    ///
    /// A panic is contained, and the first one is logged as a warning.
    fn after_outcome(&self, send: &CompletedSend) {
        let _ = send;
    }
}

/// The outcome of an accepted message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompletedSend {
    /// The message's topic.
    pub topic: Topic,
    /// The partition that it is stored in, or that its last attempt was for. None if it was handed to no
    /// connection.
    pub partition: Option<Partition>,
    /// Whether it was acknowledged, or what is known of it otherwise.
    pub outcome: Result<(), Outcome>,
    /// The number of times that it was handed to a connection.
    pub attempts: u32,
    /// The time from when it was offered to its outcome.
    pub elapsed: Duration,
}

/// The interceptors of a producer, whose panics stay with the message that they were called for.
pub(crate) struct Interceptors {
    list: Box<[Arc<dyn Interceptor>]>,
    /// Whether a panic of `after_outcome` was logged.
    has_panicked: AtomicBool,
}

impl Interceptors {
    pub(crate) fn new(list: Vec<Arc<dyn Interceptor>>) -> Self {
        Self { list: list.into(), has_panicked: AtomicBool::new(false) }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Shows a message that is offered to all.
    ///
    /// # Errors
    /// Which one panicked, and with what. The message is as it was then.
    #[inline]
    pub(crate) fn before(&self, message: &mut Message) -> Result<(), String> {
        if self.is_empty() { Ok(()) } else { self.call_before(message) }
    }

    #[cold]
    #[inline(never)]
    fn call_before(&self, message: &mut Message) -> Result<(), String> {
        let offered = message.clone();
        for (n, interceptor) in self.list.iter().enumerate() {
            if let Err(panic) = panics::catch(|| interceptor.before_send(message)) {
                let changed = mem::replace(message, offered);
                contain(|| drop(changed));
                return Err(format!("interceptor {n} (counted from 0) panicked in before_send: {panic}"));
            }
        }
        // Its payload may be the last of what was replaced.
        contain(|| drop(offered));
        Ok(())
    }

    /// Tells all how a message ended. No lock may be held.
    pub(crate) fn after(&self, send: &CompletedSend) {
        for (n, interceptor) in self.list.iter().enumerate() {
            if let Err(panic) = panics::catch(|| interceptor.after_outcome(send))
                && !self.has_panicked.swap(true, Ordering::Relaxed)
            {
                contain(|| {
                    tracing::warn!(
                        topic = %send.topic,
                        interceptor = n,
                        panic,
                        "an interceptor panicked in after_outcome; further panics are not reported"
                    );
                });
            }
        }
    }
}

impl fmt::Debug for Interceptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interceptors").field("count", &self.list.len()).finish_non_exhaustive()
    }
}
