//! The error of a message: what happened, what it means for the message, and what to do.

use std::{error::Error as StdError, fmt, time::Duration};

use metaq_protocol::{BrokerAddr, MAX_READABLE_DATA, Partition, Status, Topic};
use metaq_transport::{Progress, TransportError, TransportErrorKind};

use crate::{
    Message,
    error::{PublishError, PublishErrorKind},
};

/// The knowledge of a message that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a fourth answer would break every caller's logic")]
pub enum Outcome {
    /// It is certainly not stored, and can be sent again: no attempt wrote it, or a broker refused each
    /// attempt that did.
    NotSent,
    /// A broker refused it: it is certainly not stored.
    Rejected,
    /// It was written, and no usable answer came: it may be stored. Sent again, it may be stored twice.
    Unknown,
}

/// The kinds of errors of sending a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// The topic was not published on this producer; or, with
    /// [`auto_publish`](crate::ProducerConfig::auto_publish), no broker offers it.
    NotPublished,
    /// The encoded message is larger than consumers can fetch.
    TooLarge,
    /// The selector refused the message, or panicked, or chose a partition that its connected broker doesn't
    /// have, or whose broker the registry doesn't name.
    NoPartition,
    /// No broker of the topic, or not the chosen one, could be reached in time.
    NotConnected,
    /// No answer came in time, or it could not be written, or had to wait for its turn, until its deadline.
    TimedOut,
    /// The connection was lost before the answer came, or before the message was written.
    ConnectionLost,
    /// The broker answered with something other than success.
    Rejected,
    /// The broker's answer can't be understood.
    BadResponse,
    /// There was no capacity for it: the producer, or the one broker that it can go to, has too many messages
    /// without an outcome; or, with [`ordered`](crate::ProducerConfig::ordered), others are before it in its
    /// partition.
    Full,
    /// The producer was closed.
    Closed,
    /// An [interceptor](crate::interceptor::Interceptor) panicked when it saw the message.
    Interceptor,
    /// It was taken back by [`purge`](crate::Producer::purge).
    Purged,
    /// There was no tokio runtime to send or wait on: the call was made outside of one, or the one that
    /// served the producer has ended.
    NoRuntime,
}

impl SendErrorKind {
    /// The kind as a word for machines, such as `timed-out`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotPublished => "not-published",
            Self::TooLarge => "too-large",
            Self::NoPartition => "no-partition",
            Self::NotConnected => "not-connected",
            Self::TimedOut => "timed-out",
            Self::ConnectionLost => "connection-lost",
            Self::Rejected => "rejected",
            Self::BadResponse => "bad-response",
            Self::Full => "full",
            Self::Closed => "closed",
            Self::Interceptor => "interceptor",
            Self::Purged => "purged",
            Self::NoRuntime => "no-runtime",
        }
    }
}

impl Outcome {
    /// The outcome as a word for machines: `not-sent`, `rejected` or `unknown`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not-sent",
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }
}

/// A message was not acknowledged.
///
/// Ask [`outcome`](Self::outcome) whether it may be stored all the same.
pub struct SendError {
    inner: Box<SendFailure>,
}

struct SendFailure {
    kind: SendErrorKind,
    outcome: Outcome,
    topic: Topic,
    partition: Option<Partition>,
    broker: Option<BrokerAddr>,
    status: Option<Status>,
    text: String,
    source: Option<TransportError>,
    attempts: Vec<FailedAttempt>,
    message: Option<Message>,
    /// The same of a message that may be stored, kept for the failure handler.
    uncertain: Option<Message>,
}

/// One attempt to send a message that was followed by another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedAttempt {
    /// The time from when the message was offered to this failure.
    pub after: Duration,
    /// The partition that was chosen for the message.
    pub partition: Partition,
    /// The broker of that partition.
    pub broker: BrokerAddr,
    /// The knowledge of the message as far as this attempt is concerned.
    pub outcome: Outcome,
    /// The reason of the failure.
    pub cause: String,
}

impl FailedAttempt {
    /// Whether the message may be stored by this attempt.
    pub(crate) fn may_be_stored(&self) -> bool {
        self.outcome == Outcome::Unknown
    }
}

impl SendError {
    pub(crate) fn new(kind: SendErrorKind, topic: &Topic, text: impl Into<String>) -> Self {
        let outcome = match kind {
            SendErrorKind::Rejected => Outcome::Rejected,
            SendErrorKind::BadResponse => Outcome::Unknown,
            _ => Outcome::NotSent,
        };
        Self {
            inner: Box::new(SendFailure {
                kind,
                outcome,
                topic: topic.clone(),
                partition: None,
                broker: None,
                status: None,
                text: text.into(),
                source: None,
                attempts: Vec::new(),
                message: None,
                uncertain: None,
            }),
        }
    }

    pub(crate) fn not_published(topic: &Topic) -> Self {
        let text = "it is not published on this producer; call publish_topic first";
        Self::new(SendErrorKind::NotPublished, topic, text)
    }

    /// The topic could not be published while the message waited for it.
    pub(crate) fn publishing(topic: &Topic, error: &PublishError) -> Self {
        let kind = match error.kind() {
            PublishErrorKind::NoSuchTopic => SendErrorKind::NotPublished,
            PublishErrorKind::Discovery | PublishErrorKind::Unreachable => SendErrorKind::NotConnected,
            PublishErrorKind::Closed => SendErrorKind::Closed,
            PublishErrorKind::NoRuntime => SendErrorKind::NoRuntime,
        };
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::new(kind, topic, format!("{error}{cause}"))
    }

    pub(crate) fn too_many_topics(topic: &Topic, limit: usize) -> Self {
        let text = format!(
            "it is not published, and auto_publish has published {limit} topics, which is max_auto_topics; call \
             publish_topic first, or unpublish_topic for one that isn't needed, or raise the limit"
        );
        Self::new(SendErrorKind::NotPublished, topic, text)
    }

    pub(crate) fn too_large(topic: &Topic, size: usize, limit: usize) -> Self {
        let text = format!(
            "its {size} bytes (attribute included) are more than max_message_size, which is {limit}; consumers can fetch \
             {MAX_READABLE_DATA} from a broker with the shipped settings; make it smaller, or raise the limit if the \
             brokers' maxTransferSize is larger"
        );
        Self::new(SendErrorKind::TooLarge, topic, text)
    }

    pub(crate) fn full(topic: &Topic, limits: &str) -> Self {
        let text = format!(
            "there is no capacity for it: {limits}; wait with enqueue or send, or raise max_in_flight and max_in_flight_bytes"
        );
        Self::new(SendErrorKind::Full, topic, text)
    }

    pub(crate) fn closed(topic: &Topic) -> Self {
        Self::new(SendErrorKind::Closed, topic, "the producer was closed")
    }

    pub(crate) fn purged(topic: &Topic) -> Self {
        let text = "it was taken back by purge while it waited";
        Self::new(SendErrorKind::Purged, topic, text)
    }

    pub(crate) fn no_runtime(topic: &Topic) -> Self {
        let text = "it has to wait, which takes a tokio runtime with timers; call from within one";
        Self::new(SendErrorKind::NoRuntime, topic, text)
    }

    pub(crate) fn runtime_ended(topic: &Topic) -> Self {
        let text = "the tokio runtime on which it waited has ended; send it again from another one";
        Self::new(SendErrorKind::NoRuntime, topic, text)
    }

    pub(crate) fn transport(topic: &Topic, partition: Partition, error: &TransportError) -> Self {
        let written = error.progress() == Progress::Written;
        let (kind, text) = match error.kind() {
            TransportErrorKind::NotConnected => (SendErrorKind::NotConnected, "the broker is not connected"),
            TransportErrorKind::Stalled => (SendErrorKind::NotConnected, "the broker has fallen silent"),
            TransportErrorKind::Closed if written => (
                SendErrorKind::ConnectionLost,
                "the connection was closed on this side before the answer came",
            ),
            TransportErrorKind::Closed => {
                (SendErrorKind::NotConnected, "the connection was closed on this side before it was written")
            }
            TransportErrorKind::Lost if written => {
                (SendErrorKind::ConnectionLost, "the connection was lost before the answer came")
            }
            TransportErrorKind::Lost => {
                (SendErrorKind::ConnectionLost, "the connection was lost before it was written")
            }
            TransportErrorKind::TimedOut if written => (SendErrorKind::TimedOut, "no answer came in time"),
            _ => (SendErrorKind::TimedOut, "it could not be written in time"),
        };
        let mut this = Self::new(kind, topic, text);
        this.inner.outcome = if written { Outcome::Unknown } else { Outcome::NotSent };
        this.inner.source = Some(error.clone());
        this.at(partition, error.broker().clone())
    }

    /// The same of a producer that was closed: a connection that was closed on this side was closed with it.
    pub(crate) fn of_closed_producer(mut self) -> Self {
        let closed = TransportErrorKind::Closed;
        if self.inner.source.as_ref().is_some_and(|source| source.kind() == closed) {
            self.inner.kind = SendErrorKind::Closed;
        }
        self
    }

    pub(crate) fn rejected(
        topic: &Topic,
        partition: Partition,
        broker: BrokerAddr,
        status: Status,
        answer: &str,
    ) -> Self {
        let answer = if answer.is_empty() { "no reason given" } else { answer };
        let mut this =
            Self::new(SendErrorKind::Rejected, topic, format!("the broker answered {status}: {answer}"));
        this.inner.status = Some(status);
        this.at(partition, broker)
    }

    pub(crate) fn at(mut self, partition: Partition, broker: BrokerAddr) -> Self {
        self.inner.partition = Some(partition);
        self.inner.broker = Some(broker);
        self
    }

    /// The attempts before the last one.
    pub(crate) fn with_attempts(mut self, attempts: Vec<FailedAttempt>) -> Self {
        self.inner.attempts = attempts;
        self
    }

    /// The error as one attempt of several.
    pub(crate) fn into_attempt(
        self,
        after: Duration,
        partition: Partition,
        broker: BrokerAddr,
    ) -> FailedAttempt {
        let SendFailure { outcome, text: cause, .. } = *self.inner;
        FailedAttempt { after, partition, broker, outcome, cause }
    }

    /// The same error with this outcome: an earlier attempt may have stored the message.
    pub(crate) fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.inner.outcome = outcome;
        self
    }

    pub(crate) fn with_source(mut self, source: Option<TransportError>) -> Self {
        self.inner.source = source;
        self
    }

    pub(crate) fn with_message(mut self, message: Message) -> Self {
        if self.inner.outcome != Outcome::Unknown {
            self.inner.message = Some(message);
        }
        self
    }

    /// The same with the message for the failure handler, although it may be stored.
    pub(crate) fn with_any_message(mut self, message: Message) -> Self {
        self.inner.uncertain = Some(message);
        self
    }

    /// Takes what only the failure handler is given.
    pub(crate) fn take_uncertain(&mut self) -> Option<Message> {
        self.inner.uncertain.take()
    }

    /// The message, whatever its outcome is.
    pub(crate) fn take_any_message(&mut self) -> Option<Message> {
        self.inner.message.take().or_else(|| self.inner.uncertain.take())
    }

    /// Whether its message is returned by the call that took it back.
    pub(crate) fn is_taken_back(&self) -> bool {
        self.inner.kind == SendErrorKind::Purged && self.inner.outcome == Outcome::NotSent
    }

    /// Whether the message may be stored.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.inner.outcome
    }

    /// The kind of error.
    #[must_use]
    pub fn kind(&self) -> SendErrorKind {
        self.inner.kind
    }

    /// The message's topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.inner.topic
    }

    /// The partition that was chosen, if it came to that.
    #[must_use]
    pub fn partition(&self) -> Option<Partition> {
        self.inner.partition
    }

    /// The broker of that partition.
    #[must_use]
    pub fn broker(&self) -> Option<&BrokerAddr> {
        self.inner.broker.as_ref()
    }

    /// The status that the broker answered with, if it rejected the message.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.inner.status
    }

    /// The attempts that were made before the last one, in order. Empty unless the message was sent again.
    #[must_use]
    pub fn attempts(&self) -> &[FailedAttempt] {
        &self.inner.attempts
    }

    /// The message itself, when it is certainly not stored.
    #[must_use]
    pub fn message(&self) -> Option<&Message> {
        self.inner.message.as_ref()
    }

    /// Gives the message back, when it is certainly not stored.
    #[must_use]
    pub fn into_message(self) -> Option<Message> {
        self.inner.message
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SendFailure { topic, partition, broker, text, outcome, attempts, .. } = &*self.inner;
        write!(f, "message to topic {topic}")?;
        if let (Some(partition), Some(broker)) = (partition, broker) {
            write!(f, ", partition {partition} of broker {broker}")?;
        }
        match outcome {
            Outcome::NotSent => write!(f, " was not sent: {text}")?,
            Outcome::Rejected => write!(f, " was rejected: {text}")?,
            Outcome::Unknown => write!(f, " may or may not be stored: {text}")?,
        }
        match attempts.as_slice() {
            [] => Ok(()),
            [only] => write!(f, " (tried before: {})", only.cause),
            [.., last] => {
                write!(f, " (tried {} times before, the last time: {})", attempts.len(), last.cause)
            }
        }
    }
}

impl fmt::Debug for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("kind", &self.inner.kind)
            .field("outcome", &self.inner.outcome)
            .field("text", &self.to_string())
            .field("attempts", &self.inner.attempts)
            .field("source", &self.inner.source)
            .finish()
    }
}

impl StdError for SendError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_ref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_pointer_wide_and_can_cross_threads() {
        fn check<T: Send + Sync>() {}
        check::<SendError>();
        assert_eq!(size_of::<SendError>(), size_of::<usize>());
    }

    #[test]
    fn says_what_it_means_for_the_message() {
        let topic = Topic::new("t").unwrap();
        let broker = BrokerAddr::new("h", 1).unwrap();
        let lost = |progress| {
            let error = TransportError::new(TransportErrorKind::Lost, broker.clone()).with_progress(progress);
            SendError::transport(&topic, Partition::new(0, 1), &error)
                .with_message(Message::new(topic.clone(), "x"))
        };
        let unknown = lost(Progress::Written);
        assert_eq!(unknown.outcome(), Outcome::Unknown, "M-26");
        assert_eq!(
            unknown.to_string(),
            "message to topic t, partition 0-1 of broker meta://h:1 may or may not be stored: \
             the connection was lost before the answer came"
        );
        assert!(unknown.into_message().is_none());
        let not_sent = lost(Progress::NotWritten);
        assert_eq!(not_sent.outcome(), Outcome::NotSent);
        assert_eq!(not_sent.into_message().unwrap().payload(), &b"x"[..]);
    }
}
