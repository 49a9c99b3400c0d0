//! The errors of local transactions.

use std::{error::Error as StdError, fmt, time::Duration};

use metaq_protocol::{BrokerAddr, Status, TransactionId};
use metaq_transport::TransportError;

use super::place::{PlacementError, Unsendable};
use crate::branch::{NO_RUNTIME, StepError};

/// The knowledge of a transaction after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a fourth answer would break every caller's logic")]
pub enum TransactionOutcome {
    /// It goes on, and the message is not part of it. It can be committed without the message, or rolled
    /// back.
    Open,
    /// It is over: nothing of it is stored, or ever will be.
    RolledBack,
    /// The commit was sent and not answered: all of it is stored, or nothing. Or the broker failed while it
    /// stored the messages, partition by partition: then a part may be stored. Only the stored messages show
    /// it.
    Unknown,
}

impl TransactionOutcome {
    /// The outcome as a word for machines: `open`, `rolled-back` or `unknown`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::RolledBack => "rolled-back",
            Self::Unknown => "unknown",
        }
    }
}

/// The kinds of errors of a transaction's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransactionErrorKind {
    /// The topic was not published on this producer.
    NotPublished,
    /// The encoded message is larger than consumers can fetch.
    TooLarge,
    /// The selector refused the message, or the topic has no partition on the transaction's broker.
    NoPartition,
    /// No broker of the topic could be reached in time.
    NotConnected,
    /// No answer came in time, or it could not be written in time.
    TimedOut,
    /// The transaction's connection was lost, which ends the transaction. It is not committed, but the broker
    /// keeps what was sent in its memory until the transaction's
    /// [timeout](super::TransactionOptions::with_timeout).
    ConnectionLost,
    /// The broker answered with something other than success.
    Rejected,
    /// The broker's answer can't be understood.
    BadResponse,
    /// The broker does not know the transaction any more: its timeout has passed, or its connection was
    /// replaced.
    Expired,
    /// An earlier error ended the transaction.
    Over,
    /// The producer was closed, and its transactions were rolled back.
    Closed,
    /// It was called outside of a tokio runtime, where nothing can be waited for.
    NoRuntime,
    /// An [interceptor](crate::interceptor::Interceptor) panicked when it saw the message.
    Interceptor,
    /// The operating system provided no random bits, which make the transaction's name unique.
    NoEntropy,
}

impl TransactionErrorKind {
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
            Self::Expired => "expired",
            Self::Over => "over",
            Self::Closed => "closed",
            Self::NoRuntime => "no-runtime",
            Self::Interceptor => "interceptor",
            Self::NoEntropy => "no-entropy",
        }
    }
}

/// A step of a transaction failed.
///
/// Ask [`outcome`](Self::outcome) what became of the transaction.
pub struct TransactionError {
    inner: Box<Failure>,
}

struct Failure {
    kind: TransactionErrorKind,
    outcome: TransactionOutcome,
    /// None before it has begun at a broker.
    place: Option<(TransactionId, BrokerAddr)>,
    status: Option<Status>,
    text: String,
    source: Option<TransportError>,
}

impl TransactionError {
    pub(crate) fn new(
        kind: TransactionErrorKind,
        outcome: TransactionOutcome,
        text: impl Into<String>,
    ) -> Self {
        let text = text.into();
        Self { inner: Box::new(Failure { kind, outcome, place: None, status: None, text, source: None }) }
    }

    /// An error about a message that can't be sent wherever it is to go.
    pub(crate) fn unfit(unfit: Unsendable, outcome: TransactionOutcome) -> Self {
        match unfit {
            Unsendable::Closed => {
                let text = "the producer was closed";
                Self::new(TransactionErrorKind::Closed, TransactionOutcome::RolledBack, text)
            }
            Unsendable::NotPublished => {
                let text = "its topic is not published on this producer; call publish_topic first";
                Self::new(TransactionErrorKind::NotPublished, outcome, text)
            }
            Unsendable::Intercepted(text) => Self::new(TransactionErrorKind::Interceptor, outcome, text),
            Unsendable::TooLarge { size, limit } => {
                let text = format!("its {size} bytes are more than max_message_size, which is {limit}");
                Self::new(TransactionErrorKind::TooLarge, outcome, text)
            }
        }
    }

    /// The error of a step that ended so.
    pub(crate) fn step(step: StepError, outcome: TransactionOutcome) -> Self {
        use metaq_transport::{Progress, TransportErrorKind};
        match step {
            StepError::Refused(status, text) => {
                let text = if text.is_empty() { "no reason given".to_owned() } else { text };
                let text = format!("the broker answered {status}: {text}");
                let mut this = Self::new(TransactionErrorKind::Rejected, outcome, text);
                this.inner.status = Some(status);
                this
            }
            StepError::Odd(text) => Self::new(TransactionErrorKind::BadResponse, outcome, text),
            StepError::NoRuntime => Self::new(TransactionErrorKind::NoRuntime, outcome, NO_RUNTIME),
            StepError::NoAnswer(error) => {
                let written = error.progress() == Progress::Written;
                let (kind, text) = match error.kind() {
                    TransportErrorKind::Closed => (TransactionErrorKind::Closed, "the connection was closed"),
                    TransportErrorKind::Lost => (
                        TransactionErrorKind::ConnectionLost,
                        "the connection was lost before the answer came",
                    ),
                    TransportErrorKind::NotConnected => {
                        (TransactionErrorKind::ConnectionLost, "the connection was lost")
                    }
                    TransportErrorKind::Stalled => {
                        (TransactionErrorKind::NotConnected, "the broker has fallen silent")
                    }
                    _ if written => (TransactionErrorKind::TimedOut, "no answer came in time"),
                    _ => (TransactionErrorKind::TimedOut, "it could not be written in time"),
                };
                let mut this = Self::new(kind, outcome, text);
                this.inner.source = Some(error);
                this
            }
        }
    }

    pub(crate) fn of(mut self, id: &TransactionId, broker: &BrokerAddr) -> Self {
        self.inner.place = Some((id.clone(), broker.clone()));
        self
    }

    /// Says what a broker keeps of a transaction whose connection was lost.
    pub(super) fn left_behind(mut self, timeout: Option<Duration>) -> Self {
        let text = &mut self.inner.text;
        match timeout {
            Some(_) => text.push_str("; the broker drops its messages when the transaction's timeout has passed"),
            None => text.push_str(
                "; the broker keeps its messages in memory until it is restarted, because the transaction has no timeout",
            ),
        }
        self
    }

    pub(crate) fn with_source(mut self, source: Option<TransportError>) -> Self {
        self.inner.source = source;
        self
    }

    /// The outcome of the transaction.
    #[must_use]
    pub fn outcome(&self) -> TransactionOutcome {
        self.inner.outcome
    }

    /// The kind of error.
    #[must_use]
    pub fn kind(&self) -> TransactionErrorKind {
        self.inner.kind
    }

    /// The transaction's name, `TX:…`, once it has begun at a broker.
    #[must_use]
    pub fn transaction(&self) -> Option<&str> {
        self.inner.place.as_ref().map(|(id, _)| id.as_str())
    }

    /// The transaction's broker, once it has one.
    #[must_use]
    pub fn broker(&self) -> Option<&BrokerAddr> {
        self.inner.place.as_ref().map(|(_, broker)| broker)
    }

    /// The status that the broker answered with, if it refused the step.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.inner.status
    }

    /// The reason as text, without what the other methods return.
    pub(crate) fn text(&self) -> &str {
        &self.inner.text
    }
}

impl From<PlacementError> for TransactionError {
    /// The transaction goes on without the message.
    fn from(placement_error: PlacementError) -> Self {
        let (kind, text) = match placement_error {
            PlacementError::NoBroker => {
                (TransactionErrorKind::NotConnected, "no broker of the topic is connected".to_owned())
            }
            PlacementError::Away(text) => (TransactionErrorKind::NotConnected, text),
            PlacementError::Refused(text) => (TransactionErrorKind::NoPartition, text),
        };
        Self::new(kind, TransactionOutcome::Open, text)
    }
}

impl fmt::Display for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { outcome, place, text, .. } = &*self.inner;
        let Some((id, broker)) = place else {
            return write!(f, "no transaction has begun: {text}");
        };
        if *outcome == TransactionOutcome::Open {
            f.write_str("a message is not part of ")?;
        }
        write!(f, "transaction {id} on broker {broker}")?;
        match outcome {
            TransactionOutcome::Open => write!(f, ", which goes on: {text}"),
            TransactionOutcome::RolledBack => write!(f, ": nothing of it is stored: {text}"),
            TransactionOutcome::Unknown => write!(f, " may or may not be committed: {text}"),
        }
    }
}

impl fmt::Debug for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionError")
            .field("kind", &self.inner.kind)
            .field("outcome", &self.inner.outcome)
            .field("text", &self.to_string())
            .field("source", &self.inner.source)
            .finish()
    }
}

impl StdError for TransactionError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_ref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_pointer_wide_and_says_what_it_means() {
        fn check<T: Send + Sync>() {}
        check::<TransactionError>();
        assert_eq!(size_of::<TransactionError>(), size_of::<usize>());
        let broker = BrokerAddr::new("h", 1).unwrap();
        let id = TransactionId::local("s", 1).unwrap();
        let text = |outcome| {
            TransactionError::new(TransactionErrorKind::TimedOut, outcome, "no answer came in time")
                .of(&id, &broker)
                .to_string()
        };
        assert_eq!(
            text(TransactionOutcome::Unknown),
            "transaction TX:s:1 on broker meta://h:1 may or may not be committed: no answer came in time",
            "K-48"
        );
        assert_eq!(
            text(TransactionOutcome::Open),
            "a message is not part of transaction TX:s:1 on broker meta://h:1, which goes on: no answer came in time"
        );
    }
}
