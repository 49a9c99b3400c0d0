//! The errors of connections and of the requests on them.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use metaq_protocol::BrokerAddr;

use crate::panics::Panicked;

type Cause = Arc<dyn StdError + Send + Sync>;

/// A failure of one connection, or of one request on it.
///
/// Cheap to clone: when a connection is lost, all its outstanding requests share the cause.
#[derive(Clone)]
pub struct TransportError {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: TransportErrorKind,
    broker: BrokerAddr,
    progress: Progress,
    cause: Option<Cause>,
}

/// The kind of error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// No connection to the broker is established at the moment. It is being dialled.
    NotConnected,
    /// The broker has been silent for too long while responses are outstanding. Nothing more is sent until it
    /// answers again.
    Stalled,
    /// The limit of requests in flight, or of their bytes, is reached.
    Full,
    /// The connection was closed on this side.
    Closed,
    /// The connection was lost, or given up because the broker broke the protocol, fell silent, or answered
    /// on a new stream only.
    Lost,
    /// No response came before the request's deadline.
    TimedOut,
    /// There is no tokio runtime where one is needed, or one without timers.
    NoRuntime,
    /// The connection's settings can't be used; the cause names the option.
    InvalidConfig,
    /// The request's body is longer than a frame can carry; the cause has both lengths. It was not written.
    TooLarge,
}

/// The progress of a request at its failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a third variant would break every caller's logic")]
pub enum Progress {
    /// None of its bytes was handed to the operating system: the broker can't have seen it.
    NotWritten,
    /// Some or all of its bytes may have reached the broker, which may have executed it.
    Written,
}

impl TransportError {
    /// Creates an error of `kind` that concerns `broker`, for a request that was not written.
    ///
    /// For one that may have been written, set that with [`with_progress`](Self::with_progress).
    #[must_use]
    pub fn new(kind: TransportErrorKind, broker: BrokerAddr) -> Self {
        Self { inner: Arc::new(Inner { kind, broker, progress: Progress::NotWritten, cause: None }) }
    }

    /// Returns the same error with `cause`.
    #[must_use]
    pub fn with_cause(self, cause: impl StdError + Send + Sync + 'static) -> Self {
        self.with_shared_cause(Some(Arc::new(cause)))
    }

    pub(crate) fn with_shared_cause(self, cause: Option<Cause>) -> Self {
        Self { inner: Arc::new(Inner { cause, ..Arc::unwrap_or_clone(self.inner) }) }
    }

    /// Returns the same error for a request with this progress.
    #[must_use]
    pub fn with_progress(self, progress: Progress) -> Self {
        if self.inner.progress == progress {
            return self;
        }
        Self { inner: Arc::new(Inner { progress, ..Arc::unwrap_or_clone(self.inner) }) }
    }

    /// Returns the kind of error.
    #[must_use]
    pub fn kind(&self) -> TransportErrorKind {
        self.inner.kind
    }

    /// Returns whether both share one allocation: clones of one error, not merely equal ones.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Returns the broker at the other end.
    #[must_use]
    pub fn broker(&self) -> &BrokerAddr {
        &self.inner.broker
    }

    /// Returns whether the broker may have seen the request.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.inner.progress
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broker = &self.inner.broker;
        match self.inner.kind {
            TransportErrorKind::NotConnected => write!(f, "not connected to broker {broker}"),
            TransportErrorKind::Stalled => write!(f, "broker {broker} is silent and owes answers"),
            TransportErrorKind::Full => {
                write!(f, "too many unanswered requests on the connection to broker {broker}")
            }
            TransportErrorKind::Closed => {
                write!(f, "the connection to broker {broker} was closed on this side")
            }
            TransportErrorKind::Lost => write!(f, "the connection to broker {broker} was lost"),
            TransportErrorKind::TimedOut => write!(f, "broker {broker} did not answer in time"),
            TransportErrorKind::NoRuntime => write!(
                f,
                "the connection to broker {broker} needs a tokio runtime here; call it within one that has time and I/O \
                 enabled, e.g. #[tokio::main], or enter one with Handle::enter"
            ),
            TransportErrorKind::InvalidConfig => {
                write!(f, "the connection to broker {broker} can't be made with these settings")
            }
            TransportErrorKind::TooLarge => {
                write!(f, "the request to broker {broker} is too large to be written; send less at a time")
            }
        }
    }
}

impl fmt::Debug for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportError")
            .field("kind", &self.inner.kind)
            .field("broker", &self.inner.broker)
            .field("progress", &self.inner.progress)
            .field("cause", &self.inner.cause)
            .finish()
    }
}

impl StdError for TransportError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

/// The reason why a stream was given up.
#[derive(Debug)]
pub(crate) enum LossReason {
    ClosedByBroker,
    Read(std::io::Error),
    Write(std::io::Error),
    Garbage(metaq_protocol::DecodeError),
    Silent(Duration),
    Replaced(Duration),
    HandshakeTimeout(Duration),
    Panicked(Panicked),
    RuntimeEnded,
    NotDriven,
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClosedByBroker => f.write_str("the broker closed the connection"),
            Self::Read(error) => write!(f, "reading failed: {error}"),
            Self::Write(error) => write!(f, "writing failed: {error}"),
            Self::Garbage(error) => write!(f, "the broker sent bytes that are no answer: {error}"),
            Self::Silent(time) => {
                write!(f, "the broker was silent for {time:?} and did not answer a heartbeat")
            }
            Self::Replaced(time) => write!(
                f,
                "the broker was silent for {time:?} on this connection, and answered on a new one"
            ),
            Self::HandshakeTimeout(time) => write!(
                f,
                "the broker accepted the connection but did not answer a first request within {time:?}"
            ),
            Self::Panicked(panicked) => {
                write!(f, "code that runs on the connection's task panicked: {panicked}")
            }
            Self::RuntimeEnded => f.write_str(
                "the tokio runtime that the connection was made on has ended; connect anew on one that is running, \
                 or keep that one for as long as the connection is used",
            ),
            Self::NotDriven => f.write_str(
                "the task of the connection has not run; the tokio runtime that the connection was made on exists, \
                 and has to be driven as long as it does",
            ),
        }
    }
}

impl StdError for LossReason {}

impl LossReason {
    /// Returns whether nothing more can be read from the stream.
    pub(crate) fn is_end_of_input(&self) -> bool {
        matches!(self, Self::ClosedByBroker | Self::Read(_) | Self::Garbage(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_pointer_wide_and_can_cross_threads() {
        fn check<T: Send + Sync + Clone>() {}
        check::<TransportError>();
        assert_eq!(size_of::<TransportError>(), size_of::<usize>());
    }
}
