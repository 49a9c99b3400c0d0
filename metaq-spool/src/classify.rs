//! What becomes of a message that could not be sent.

use metaq_producer::{Outcome, SendError, SendErrorKind, Status};

use crate::options::SpoolOptions;

/// The meaning of an error for the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The message is not stored, and what prevented that passes.
    Passing,
    /// The broker answered 500, or 401 in replay: the reason may pass or not.
    ServerError,
    /// The message may be stored.
    Unknown,
    /// Sending it again does not help, or the program doesn't want it to be sent.
    Final,
}

/// Judges the error of a message.
///
/// `is_pinned` says that the message names its partition, `is_declared` that its topic was given to
/// [`publish_topic`](crate::SpoolingProducer::publish_topic).
pub(crate) fn classify(error: &SendError, is_pinned: bool, is_declared: bool) -> Failure {
    use SendErrorKind as Kind;
    if error.outcome() == Outcome::Unknown {
        return Failure::Unknown;
    }
    match error.kind() {
        Kind::NotConnected | Kind::TimedOut | Kind::ConnectionLost | Kind::Full => Failure::Passing,
        Kind::Closed | Kind::NoRuntime => Failure::Passing,
        // Its broker may come back to the registry; a selector that refuses a message refuses it again.
        Kind::NoPartition if is_pinned => Failure::Passing,
        Kind::NotPublished if is_declared => Failure::Passing,
        Kind::Rejected => match error.status() {
            Some(Status::FORBIDDEN | Status::NOT_FOUND | Status::SERVICE_UNAVAILABLE) => Failure::Passing,
            Some(Status::INTERNAL_SERVER_ERROR) => Failure::ServerError,
            _ => Failure::Final,
        },
        _ => Failure::Final,
    }
}

/// Whether a live message with such an error is spooled.
pub(crate) fn is_spooled(failure: Failure, options: &SpoolOptions) -> bool {
    match failure {
        Failure::Passing => true,
        Failure::ServerError => options.spool_server_errors,
        Failure::Unknown => options.spool_unknown,
        Failure::Final => false,
    }
}

/// Judges the error of a spooled message, whose topic counts as declared. A refusal for want of authorization
/// says nothing about the message.
pub(crate) fn classify_replayed(error: &SendError, is_pinned: bool) -> Failure {
    match error.status() {
        Some(Status::UNAUTHORIZED) => Failure::ServerError,
        _ => classify(error, is_pinned, true),
    }
}
