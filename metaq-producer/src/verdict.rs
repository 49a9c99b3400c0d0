//! What the end of an attempt means for the message.

use metaq_protocol::{BooleanCommand, Partition, PutAnswer, Response, Status};
use metaq_transport::{Answer, AnswerBody, Progress, TransportError, TransportErrorKind};
use tokio::time::Instant;

use crate::{Outcome, SendError, SendErrorKind, lane::Lane, retry::RetryPolicy};

/// Where and when a message was stored.
pub(crate) type Stored = (PutAnswer, Instant);

/// An attempt that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: SendError,
    again: Again,
    pub(crate) trouble: Trouble,
    /// Whether the broker has the message, and its answer may still come.
    pub(crate) is_late: bool,
}

/// Whether sending the message again can be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Never,
    /// It was not written, or was refused for a reason that passes.
    Safely,
    /// The broker answered 500.
    AfterServerError,
    /// It may be stored.
    AtLeastOnce,
}

/// What the failure says about where the message was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// The broker refuses messages for the partition.
    Partition,
    /// The broker is overloaded or doesn't answer.
    Broker,
}

impl Failure {
    /// Whether the message is to be sent again, after `attempts` failed, this one included.
    pub(crate) fn is_retried(&self, policy: &RetryPolicy, attempts: u32) -> bool {
        attempts < policy.max_attempts
            && match self.again {
                Again::Never => false,
                Again::Safely => true,
                Again::AfterServerError => policy.server_errors,
                Again::AtLeastOnce => policy.at_least_once,
            }
    }
}

/// Judges the outcome of an attempt (rules M-20 to M-28).
pub(crate) fn judge(
    lane: &Lane,
    partition: Partition,
    outcome: Result<Answer, TransportError>,
) -> Result<Stored, Box<Failure>> {
    let answer = outcome.map_err(|error| transport_failed(lane, partition, &error))?;
    match answer.body {
        AnswerBody::Stored(place) => Ok((place, answer.received_at)),
        AnswerBody::Other(Response::Boolean(said)) if said.status.is_success() => {
            match PutAnswer::parse(&said.body) {
                Ok(place) => Ok((place, answer.received_at)),
                Err(error) => {
                    let text = format!("the broker reported success, but not where: {error}");
                    Err(bad_answer(lane, partition, text))
                }
            }
        }
        AnswerBody::Other(Response::Boolean(said)) => Err(refused(lane, partition, &said)),
        _ => {
            let text = "the broker answered with data, as if asked for messages".to_owned();
            Err(bad_answer(lane, partition, text))
        }
    }
}

fn failure(error: SendError, again: Again, trouble: Trouble) -> Box<Failure> {
    Box::new(Failure { error, again, trouble, is_late: false })
}

fn bad_answer(lane: &Lane, partition: Partition, text: String) -> Box<Failure> {
    let error = SendError::new(SendErrorKind::BadAnswer, &lane.topic.topic, text);
    failure(error.at(partition, lane.broker.addr.clone()), Again::AtLeastOnce, Trouble::None)
}

fn refused(lane: &Lane, partition: Partition, said: &BooleanCommand) -> Box<Failure> {
    let (again, trouble) = match said.status {
        Status::FORBIDDEN => (Again::Safely, Trouble::Partition),
        Status::NOT_FOUND => (Again::Safely, Trouble::Partition),
        Status::SERVICE_UNAVAILABLE => (Again::Safely, Trouble::Broker),
        Status::INTERNAL_SERVER_ERROR => (Again::AfterServerError, Trouble::Partition),
        _ => (Again::Never, Trouble::None),
    };
    let broker = lane.broker.addr.clone();
    let error = SendError::rejected(&lane.topic.topic, partition, broker, said.status, &said.text());
    failure(error, again, trouble)
}

fn transport_failed(lane: &Lane, partition: Partition, error: &TransportError) -> Box<Failure> {
    let again = match (error.progress(), error.kind()) {
        // Also if the attempt's share of the time was up: whether the message has time left is seen there.
        (Progress::NotWritten, _) => Again::Safely,
        (Progress::Written, _) => Again::AtLeastOnce,
    };
    let trouble = match error.kind() {
        TransportErrorKind::TimedOut => Trouble::Broker,
        _ => Trouble::None,
    };
    let is_late = error.kind() == TransportErrorKind::TimedOut && error.progress() == Progress::Written;
    let error = SendError::transport(&lane.topic.topic, partition, error);
    debug_assert!(error.outcome() != Outcome::Rejected);
    let mut failure = failure(error, again, trouble);
    failure.is_late = is_late;
    failure
}
