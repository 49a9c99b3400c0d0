//! The error of looking at a cluster.

use std::{error::Error as StdError, fmt, sync::Arc};

use metaq_discovery::{DiscoveryError, DiscoveryErrorKind};
use metaq_protocol::{BrokerAddr, Status, Topic};
use metaq_transport::{TransportError, TransportErrorKind};

/// The registry or a broker could not be asked, or did not answer as asked. Cheap to clone.
#[derive(Clone)]
pub struct InspectError {
    inner: Arc<Inner>,
}

struct Inner {
    kind: InspectErrorKind,
    text: String,
    status: Option<Status>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kinds of errors of looking at a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InspectErrorKind {
    /// The registry could not be read.
    Discovery,
    /// The registry has no such topic.
    NoSuchTopic,
    /// No connection to the broker could be established, or it was lost.
    Unreachable,
    /// The broker is connected, and did not answer in time.
    TimedOut,
    /// The broker answered with a status that is no success; see [`status`](InspectError::status).
    Refused,
    /// The broker's answer is not what the protocol provides for.
    InvalidResponse,
    /// The log holds bytes that are no message, and the messages behind them can't be found.
    Corrupt,
    /// There is no tokio runtime with timers here.
    NoRuntime,
}

impl InspectError {
    pub(super) fn new(kind: InspectErrorKind, text: impl Into<String>) -> Self {
        Self { inner: Arc::new(Inner { kind, text: text.into(), status: None, source: None }) }
    }

    pub(super) fn discovery(error: DiscoveryError) -> Self {
        let kind = match error.kind() {
            DiscoveryErrorKind::NoRuntime => InspectErrorKind::NoRuntime,
            _ => InspectErrorKind::Discovery,
        };
        let text = "the registry could not be read".to_owned();
        Self { inner: Arc::new(Inner { kind, text, status: None, source: Some(Box::new(error)) }) }
    }

    pub(super) fn no_such_topic(topic: &Topic, reason: Option<String>) -> Self {
        let advice = "check its name, and that a broker has it configured with acceptPublish";
        let reason = reason.unwrap_or_else(|| advice.to_owned());
        let text = format!("no broker offers topic {topic}; {reason}");
        Self::new(InspectErrorKind::NoSuchTopic, text)
    }

    pub(super) fn transport(action: &str, error: TransportError) -> Self {
        let kind = match error.kind() {
            TransportErrorKind::TimedOut | TransportErrorKind::Stalled => InspectErrorKind::TimedOut,
            TransportErrorKind::NoRuntime => InspectErrorKind::NoRuntime,
            _ => InspectErrorKind::Unreachable,
        };
        let text = format!("{action} failed");
        Self { inner: Arc::new(Inner { kind, text, status: None, source: Some(Box::new(error)) }) }
    }

    pub(super) fn refused(action: &str, broker: &BrokerAddr, status: Status, text: &str) -> Self {
        let text = format!("{action} failed: broker {broker} answered {status}: {text}");
        let kind = InspectErrorKind::Refused;
        Self { inner: Arc::new(Inner { kind, text, status: Some(status), source: None }) }
    }

    pub(super) fn invalid_response(action: &str, broker: &BrokerAddr, reason: &str) -> Self {
        let text = format!("{action} failed: the answer of broker {broker} {reason}");
        Self::new(InspectErrorKind::InvalidResponse, text)
    }

    pub(super) fn no_runtime() -> Self {
        let text = "that takes a tokio runtime with timers; call from a task, or within Runtime::block_on";
        Self::new(InspectErrorKind::NoRuntime, text)
    }

    /// The kind of error.
    #[must_use]
    pub fn kind(&self) -> InspectErrorKind {
        self.inner.kind
    }

    /// The status with which the broker refused, if that is the reason.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.inner.status
    }

    /// Returns true if the same call may succeed soon: the broker is restarting, recovering or busy.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.inner.kind {
            InspectErrorKind::Unreachable | InspectErrorKind::TimedOut => true,
            InspectErrorKind::Refused => {
                matches!(self.inner.status, Some(Status::FORBIDDEN | Status::SERVICE_UNAVAILABLE))
            }
            _ => false,
        }
    }
}

impl fmt::Display for InspectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.text)
    }
}

impl fmt::Debug for InspectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InspectError")
            .field("kind", &self.inner.kind)
            .field("text", &self.inner.text)
            .field("source", &self.inner.source)
            .finish()
    }
}

impl StdError for InspectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}
