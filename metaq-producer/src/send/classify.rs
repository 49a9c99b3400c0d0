//! The meaning of an attempt's end for the message.

use metaq_protocol::{BooleanCommand, BrokerId, Partition, PutResponse, Response, Status, Topic};
use metaq_transport::{Progress, ReceivedResponse, ResponseBody, TransportError, TransportErrorKind};
use tokio::time::Instant;

use crate::{Outcome, RetryPolicy, SendError, SendErrorKind, route::topic_broker::TopicBroker};

/// The place and time at which a message was stored.
pub(crate) type Stored = (PutResponse, Instant);

/// An attempt that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: SendError,
    again: Retryability,
    pub(crate) blame: Blame,
    /// Whether the broker has the message, and its answer may still come.
    pub(crate) is_late: bool,
}

/// Whether sending the message again can be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retryability {
    Never,
    /// It was not written, or was refused for a reason that passes.
    Safely,
    /// The broker answered 500.
    AfterServerError,
    /// It may be stored.
    AtLeastOnce,
}

/// The part at fault, by what the failure says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    None,
    /// The broker refuses messages for the partition.
    Partition,
    /// The broker is overloaded or doesn't answer.
    Broker,
}

impl Failure {
    /// Whether the message is retried after `attempts` failed attempts, this one included.
    pub(crate) fn is_retried(&self, policy: &RetryPolicy, attempts: u32) -> bool {
        attempts < policy.max_attempts
            && match self.again {
                Retryability::Never => false,
                Retryability::Safely => true,
                Retryability::AfterServerError => policy.server_errors,
                Retryability::AtLeastOnce => policy.at_least_once,
            }
    }
}

/// Judges the outcome of an attempt to store a message of `topic` (rules M-20 to M-28).
///
/// The topic is not that of the topic's broker for messages that go to the brokers of the default topic.
pub(crate) fn classify_attempt(
    topic_broker: &TopicBroker,
    topic: &Topic,
    partition: Partition,
    outcome: Result<ReceivedResponse, TransportError>,
) -> Result<Stored, Box<Failure>> {
    let answer = outcome.map_err(|error| transport_failed(topic_broker, partition, &error))?;
    match answer.body {
        ResponseBody::Stored(place) => Ok((place, answer.received_at)),
        ResponseBody::Other(Response::Boolean(said)) if said.status.is_success() => {
            match PutResponse::parse(&said.body) {
                Ok(place) => Ok((place, answer.received_at)),
                Err(error) => {
                    let text = format!("the broker reported success, but not where: {error}");
                    Err(bad_response(topic_broker, partition, text))
                }
            }
        }
        ResponseBody::Other(Response::Boolean(said)) => Err(refused(topic_broker, topic, partition, &said)),
        _ => {
            let text = "the broker answered with data, as if asked for messages".to_owned();
            Err(bad_response(topic_broker, partition, text))
        }
    }
}

fn failure(error: SendError, again: Retryability, blame: Blame) -> Box<Failure> {
    Box::new(Failure { error, again, blame, is_late: false })
}

fn bad_response(topic_broker: &TopicBroker, partition: Partition, text: String) -> Box<Failure> {
    let error = SendError::new(SendErrorKind::BadResponse, &topic_broker.topic.topic, text);
    failure(error.at(partition, topic_broker.broker.addr.clone()), Retryability::AtLeastOnce, Blame::None)
}

fn refused(
    topic_broker: &TopicBroker,
    topic: &Topic,
    partition: Partition,
    said: &BooleanCommand,
) -> Box<Failure> {
    let (again, blame) = match said.status {
        // It tries that once for each topic: the next message is stored, in this partition as well.
        Status::INTERNAL_SERVER_ERROR if is_unregistered(&said.text(), topic, partition.broker) => {
            (Retryability::Safely, Blame::None)
        }
        Status::FORBIDDEN => (Retryability::Safely, Blame::Partition),
        Status::NOT_FOUND => (Retryability::Safely, Blame::Partition),
        Status::SERVICE_UNAVAILABLE => (Retryability::Safely, Blame::Broker),
        Status::INTERNAL_SERVER_ERROR => (Retryability::AfterServerError, Blame::Partition),
        _ => (Retryability::Never, Blame::None),
    };
    let broker = topic_broker.broker.addr.clone();
    let error = SendError::rejected(&topic_broker.topic.topic, partition, broker, said.status, &said.text());
    failure(error, again, blame)
}

/// Whether a broker refused a message because it could not enter the topic in ZooKeeper: its own entry is
/// still there, of the session that it had before it was killed and started again.
///
/// A broker enters the topic when it gets the first message to it, before it looks for a place to store that,
/// and only entering it uses ZooKeeper: a message that is refused with this error is certainly not stored.
/// The whole text is compared, because any other error with status 500 may come from writing.
fn is_unregistered(text: &str, topic: &Topic, broker: BrokerId) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let seen = || {
        let (addr, rest) = text.strip_prefix("Put message to [broker '")?.split_once("'] [partition '")?;
        let (partition, path) =
            rest.strip_prefix(topic.as_str())?.strip_prefix('-')?.split_once(NOT_REGISTERED)?;
        let (root, node) = path.split_once("/brokers/topics")?;
        let node = ["-pub/", "-sub/", "/"].iter().find_map(|folder| node.strip_prefix(folder))?;
        let id = node.strip_prefix(topic.as_str())?.strip_prefix('/')?.strip_suffix("-m")?;
        // Without a registry the broker's id is not known.
        let is_its_own = if broker == BrokerId::UNKNOWN { is_number(id) } else { id == broker.to_string() };
        let is_root = root.is_empty() || root.starts_with('/');
        let is_one_line = !text.contains(['\r', '\n']) && !addr.contains('\'');
        Some(is_its_own && is_root && is_one_line && is_number(partition))
    };
    seen().unwrap_or(false)
}

/// Between the partition that was not written and the node that was not made.
const NOT_REGISTERED: &str = "'] failed.Detail:org.apache.zookeeper.KeeperException$NodeExistsException: \
                              KeeperErrorCode = NodeExists for ";

fn transport_failed(
    topic_broker: &TopicBroker,
    partition: Partition,
    error: &TransportError,
) -> Box<Failure> {
    let again = match (error.progress(), error.kind()) {
        // Also if the attempt's share of the time was up: whether the message has time left is seen there.
        (Progress::NotWritten, _) => Retryability::Safely,
        (Progress::Written, _) => Retryability::AtLeastOnce,
    };
    let blame = match error.kind() {
        TransportErrorKind::TimedOut => Blame::Broker,
        _ => Blame::None,
    };
    let is_late = error.kind() == TransportErrorKind::TimedOut && error.progress() == Progress::Written;
    let error = SendError::transport(&topic_broker.topic.topic, partition, error);
    debug_assert!(error.outcome() != Outcome::Rejected);
    let mut failure = failure(error, again, blame);
    failure.is_late = is_late;
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of a real broker.
    const ANSWER: &str = "Put message to [broker 'meta://127.0.0.1:17713'] [partition 't0-1'] failed.Detail:\
                          org.apache.zookeeper.KeeperException$NodeExistsException: KeeperErrorCode = NodeExists for \
                          /meta/brokers/topics/t0/1-m";

    fn recognized(text: &str) -> bool {
        is_unregistered(text, &Topic::new("t0").unwrap(), BrokerId(1))
    }

    #[test]
    fn a_broker_that_can_not_register_the_topic_is_recognized() {
        assert!(recognized(ANSWER));
        for (old, new) in [
            ("/topics/", "/topics-pub/"),
            ("/topics/", "/topics-sub/"),
            ("/meta/brokers", "/brokers"),
            ("/meta/brokers", "/a/b/brokers"),
            ("t0-1", "t0-12"),
            ("meta://127.0.0.1:17713", "meta://[::1]:1?slaveId=0"),
        ] {
            assert!(recognized(&ANSWER.replace(old, new)), "{new}");
        }
        let topic = Topic::new("t0").unwrap();
        assert!(is_unregistered(ANSWER, &topic, BrokerId::UNKNOWN), "without a registry");
    }

    #[test]
    fn nothing_else_is_taken_for_it() {
        for (old, new) in [
            // Another topic's, another broker's, or another entry.
            ("topics/t0", "topics/t1"),
            ("topics/t0", "topics/t0/t0"),
            ("topics/t0", "topics/xt0"),
            ("'t0-1'", "'t1-1'"),
            ("'t0-1'", "'t0-x-1'"),
            ("'t0-1'", "'t0-'"),
            ("1-m", "2-m"),
            ("1-m", "11-m"),
            ("1-m", "1-s0"),
            ("1-m", "1-m/x"),
            ("1-m", "1-m\n"),
            ("/brokers/topics/t0/1-m", "/brokers/ids/1/master"),
            ("/brokers/topics/", "/brokers/topics-other/"),
            ("/meta/brokers", "meta/brokers"),
            // Another error, or more than that.
            ("NodeExists for", "NoNode for"),
            ("KeeperException$NodeExistsException", "KeeperException$ConnectionLossException"),
            ("Detail:org", "Detail:java.io.IOException: org"),
            ("Put message", "Retry: Put message"),
            ("Put message", "Append messages"),
            ("failed.", "stored."),
        ] {
            let text = ANSWER.replace(old, new);
            assert_ne!(text, ANSWER);
            assert!(!recognized(&text), "{text}");
        }
        for text in
            ["", "NodeExists", "Put message to [broker '", &ANSWER[..ANSWER.len() - 1], &format!("{ANSWER} ")]
        {
            assert!(!recognized(text), "{text}");
        }
    }
}
