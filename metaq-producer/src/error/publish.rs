//! The error of publishing a topic.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use metaq_discovery::DiscoveryError;
use metaq_protocol::Topic;
use metaq_transport::TransportError;

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

/// The kinds of errors of publishing a topic.
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
    /// There is no tokio runtime to work on: the call was made outside of one, or the one that it was made on
    /// has ended.
    NoRuntime,
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

    pub(crate) fn discovery_ended(topic: &Topic) -> Self {
        let text = "the discovery was closed, or its runtime has ended, before it told a broker".to_owned();
        Self::new(PublishErrorKind::Discovery, topic, text, None)
    }

    pub(crate) fn not_driven(topic: &Topic, limit: Duration) -> Self {
        let text = format!(
            "nothing was heard of it within {limit:?}; the tokio runtime on which it is followed isn't running"
        );
        Self::new(PublishErrorKind::NoRuntime, topic, text, None)
    }

    /// `reason` is what the registry has to say about it.
    pub(crate) fn no_such_topic(topic: &Topic, limit: Duration, reason: Option<String>) -> Self {
        let advice = "check its name, and that a broker has it configured with acceptPublish";
        let text = format!(
            "no broker offers it (waited {limit:?}); {}",
            reason.unwrap_or_else(|| advice.to_owned())
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

    pub(crate) fn no_runtime(topic: &Topic) -> Self {
        let text = "that takes a tokio runtime with timers; call from within one";
        Self::new(PublishErrorKind::NoRuntime, topic, text.to_owned(), None)
    }

    /// The kind of error.
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
