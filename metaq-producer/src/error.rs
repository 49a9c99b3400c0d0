//! What can go wrong, what it means for the message, and what to do.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use metaq_discovery::DiscoveryError;
use metaq_protocol::{BrokerAddr, MAX_READABLE_DATA, Partition, Status, Topic};
use metaq_transport::{Progress, TransportError, TransportErrorKind};

use crate::Message;

/// What is known of a message that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a fourth answer would break every caller's logic")]
pub enum Outcome {
    /// It never left this process: it is certainly not stored, and can be sent again.
    NotSent,
    /// A broker refused it: it is certainly not stored.
    Rejected,
    /// It was sent, but no answer came: it may be stored. Sent again, it may be stored twice.
    Unknown,
}

/// Why a message was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// The topic was not published on this producer.
    NotPublished,
    /// The encoded message is larger than consumers can fetch.
    TooLarge,
    /// The selector refused the message, or chose a partition that the topic doesn't have.
    NoPartition,
    /// No broker of the topic, or not the chosen one, could be reached in time.
    NotConnected,
    /// No answer came in time.
    TimedOut,
    /// The connection was lost before the answer came.
    ConnectionLost,
    /// The broker answered with something other than success.
    Rejected,
    /// The broker's answer can't be understood.
    BadAnswer,
    /// The producer was closed.
    Closed,
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
            Self::BadAnswer => "bad-answer",
            Self::Closed => "closed",
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
    message: Option<Message>,
}

impl SendError {
    pub(crate) fn new(kind: SendErrorKind, topic: &Topic, text: impl Into<String>) -> Self {
        let outcome = match kind {
            SendErrorKind::Rejected => Outcome::Rejected,
            SendErrorKind::BadAnswer => Outcome::Unknown,
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
                message: None,
            }),
        }
    }

    pub(crate) fn not_published(topic: &Topic) -> Self {
        let text = "it is not published on this producer; call publish_topic first";
        Self::new(SendErrorKind::NotPublished, topic, text)
    }

    pub(crate) fn too_large(topic: &Topic, size: usize) -> Self {
        let text = format!(
            "its {size} bytes (attribute included) are more than the {MAX_READABLE_DATA} that consumers can fetch \
             from a broker with the shipped settings; make it smaller, or raise max_message_size if the brokers' \
             maxTransferSize is larger"
        );
        Self::new(SendErrorKind::TooLarge, topic, text)
    }

    pub(crate) fn closed(topic: &Topic) -> Self {
        Self::new(SendErrorKind::Closed, topic, "the producer was closed")
    }

    pub(crate) fn transport(topic: &Topic, partition: Partition, error: TransportError) -> Self {
        let written = error.progress() == Progress::Written;
        let (kind, text) = match error.kind() {
            TransportErrorKind::NotConnected => (SendErrorKind::NotConnected, "the broker is not connected"),
            TransportErrorKind::Closed => (SendErrorKind::Closed, "the connection was closed"),
            TransportErrorKind::Lost => {
                (SendErrorKind::ConnectionLost, "the connection was lost before the answer came")
            }
            TransportErrorKind::TimedOut if written => (SendErrorKind::TimedOut, "no answer came in time"),
            _ => (SendErrorKind::TimedOut, "it could not be written in time"),
        };
        let mut this = Self::new(kind, topic, text);
        this.inner.outcome = if written { Outcome::Unknown } else { Outcome::NotSent };
        this.inner.source = Some(error.clone());
        this.at(partition, error.broker().clone())
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

    pub(crate) fn with_source(mut self, source: Option<TransportError>) -> Self {
        self.inner.source = source;
        self
    }

    pub(crate) fn with_message(mut self, message: Message) -> Self {
        if self.inner.outcome == Outcome::NotSent {
            self.inner.message = Some(message);
        }
        self
    }

    /// Whether the message may be stored.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.inner.outcome
    }

    /// Why the message was not acknowledged.
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

    /// The message itself, when it was not sent.
    #[must_use]
    pub fn into_message(self) -> Option<Message> {
        self.inner.message
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SendFailure { topic, partition, broker, text, outcome, .. } = &*self.inner;
        write!(f, "message to topic {topic}")?;
        if let (Some(partition), Some(broker)) = (partition, broker) {
            write!(f, ", partition {partition} of broker {broker}")?;
        }
        match outcome {
            Outcome::NotSent => write!(f, " was not sent: {text}"),
            Outcome::Rejected => write!(f, " was rejected: {text}"),
            Outcome::Unknown => write!(f, " may or may not be stored: {text}"),
        }
    }
}

impl fmt::Debug for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("kind", &self.inner.kind)
            .field("outcome", &self.inner.outcome)
            .field("text", &self.to_string())
            .field("source", &self.inner.source)
            .finish()
    }
}

impl StdError for SendError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_ref().map(|source| source as _)
    }
}

/// A topic could not be made ready for sending.
///
/// Cheap to clone: all who waited for the same attempt share it.
#[derive(Clone)]
pub struct PublishError {
    inner: Arc<PublishFailure>,
}

struct PublishFailure {
    kind: PublishErrorKind,
    topic: Topic,
    text: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Why a topic could not be made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PublishErrorKind {
    /// The registry could not be read.
    Discovery,
    /// No broker offers the topic.
    NoSuchTopic,
    /// Brokers offer the topic, but none of them could be reached in time.
    Unreachable,
    /// The producer was closed.
    Closed,
}

impl PublishError {
    fn new(
        kind: PublishErrorKind,
        topic: &Topic,
        text: String,
        source: Option<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { inner: Arc::new(PublishFailure { kind, topic: topic.clone(), text, source }) }
    }

    pub(crate) fn discovery(topic: &Topic, error: DiscoveryError) -> Self {
        let text = "its brokers could not be looked up".to_owned();
        Self::new(PublishErrorKind::Discovery, topic, text, Some(Box::new(error)))
    }

    pub(crate) fn discovery_timeout(topic: &Topic, limit: Duration) -> Self {
        let text = format!("its brokers could not be looked up within {limit:?}");
        Self::new(PublishErrorKind::Discovery, topic, text, None)
    }

    pub(crate) fn no_such_topic(topic: &Topic, limit: Duration) -> Self {
        let text = format!(
            "no broker offers it (waited {limit:?}); check its name, and that a broker has it configured with acceptPublish"
        );
        Self::new(PublishErrorKind::NoSuchTopic, topic, text, None)
    }

    pub(crate) fn unreachable(
        topic: &Topic,
        brokers: &str,
        limit: Duration,
        last: Option<TransportError>,
    ) -> Self {
        let text = format!("none of its brokers could be reached within {limit:?}: {brokers}");
        let source = last.map(|error| Box::new(error) as Box<dyn StdError + Send + Sync>);
        Self::new(PublishErrorKind::Unreachable, topic, text, source)
    }

    pub(crate) fn closed(topic: &Topic) -> Self {
        Self::new(PublishErrorKind::Closed, topic, "the producer was closed".to_owned(), None)
    }

    /// Why the topic could not be made ready.
    #[must_use]
    pub fn kind(&self) -> PublishErrorKind {
        self.inner.kind
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.inner.topic
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic {} can't be published: {}", self.inner.topic, self.inner.text)
    }
}

impl fmt::Debug for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishError")
            .field("kind", &self.inner.kind)
            .field("text", &self.to_string())
            .field("source", &self.inner.source)
            .finish()
    }
}

impl StdError for PublishError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_pointer_wide_and_can_cross_threads() {
        fn check<T: Send + Sync>() {}
        check::<SendError>();
        check::<PublishError>();
        assert_eq!(size_of::<SendError>(), size_of::<usize>());
    }

    #[test]
    fn says_what_it_means_for_the_message() {
        let topic = Topic::new("t").unwrap();
        let broker = BrokerAddr::new("h", 1).unwrap();
        let lost = |progress| {
            let error = TransportError::new(TransportErrorKind::Lost, broker.clone()).with_progress(progress);
            SendError::transport(&topic, Partition::new(0, 1), error)
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
