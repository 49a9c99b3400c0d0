//! Settings of a producer.
//!
//! Here are the settings and their limits; `retry` is the policy of retries, `partition_set` the configured
//! partitions of a topic. `file` reads TOML, `options`
//! sets single settings by name and from the environment, `text_forms` has the forms of sizes, the default
//! topic and the settings of connections in text, and `size` those of sizes.

use std::{collections::BTreeMap, time::Duration};

use metaq_protocol::{MAX_BODY_LEN, MAX_READABLE_DATA, Topic};
use metaq_transport::ConnectionConfig;

use crate::BuildError;

#[cfg(feature = "config")]
mod file;
#[cfg(feature = "config")]
mod options;
mod partition_set;
mod retry;
#[cfg(any(feature = "config", feature = "serde"))]
mod size;
#[cfg(feature = "serde")]
mod text_forms;

#[cfg(feature = "config")]
pub use file::ConfigError;

pub use partition_set::{InvalidPartitionSet, PartitionSet};
pub use retry::{Jitter, RetryPolicy};

/// The default limits of messages and of bytes that are unacknowledged.
const DEFAULT_MAX_IN_FLIGHT: usize = 16 * 1024;
const DEFAULT_MAX_IN_FLIGHT_BYTES: usize = 64 * 1024 * 1024;
const _: () = assert!(
    DEFAULT_MAX_IN_FLIGHT_BYTES > 2 * MAX_READABLE_DATA,
    "half of it, which one broker may have, holds the largest message"
);

/// Settings of a [`Producer`](crate::Producer). Begin with the default and change single fields.
///
/// With the feature `serde` they can be a part of a program's own settings, with `config` they are read from
/// TOML (`from_toml`), from the environment (`with_environment`), and set by name (`set`).
///
/// ```
/// use std::time::Duration;
/// use metaq_producer::{Producer, ProducerConfig};
///
/// let mut config = ProducerConfig::default();
/// config.send_timeout = Duration::from_secs(10);
/// let producer = Producer::builder()
///     .broker("meta://127.0.0.1:8123".parse()?)
///     .config(config)
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ProducerConfig {
    /// The time from when a message is offered to its acknowledgement, everything included: waiting for
    /// capacity and for a broker, writing, the answer, and further attempts. Default 3 s, as the Java
    /// client. Too short, and messages that a busy broker stores end with an unknown outcome; too long, and
    /// a program learns late that nothing works.
    #[cfg_attr(feature = "serde", serde(with = "text_forms::duration"))]
    pub send_timeout: Duration,
    /// The time that publishing a topic may take until its first broker is connected. Default 10 s.
    #[cfg_attr(feature = "serde", serde(with = "text_forms::duration"))]
    pub publish_timeout: Duration,
    /// The time that publishing waits for a broker that offers the topic, when the registry knows none.
    /// Default 3 s. Some brokers register a topic again when it is changed, so that for a moment no broker
    /// offers it.
    #[cfg_attr(feature = "serde", serde(with = "text_forms::duration"))]
    pub topic_timeout: Duration,
    /// The largest message that is accepted, in bytes, attribute and its four bytes of length included.
    /// Default 1,048,556: a larger one is stored by a broker with the shipped settings, can't be fetched by
    /// any consumer, and hides everything behind it in its partition. Raise it only where the brokers'
    /// `maxTransferSize` is larger.
    #[cfg_attr(feature = "serde", serde(with = "text_forms::size"))]
    pub max_message_size: usize,
    /// The producer's capacity: the most messages that are accepted and have no outcome yet, whether they
    /// wait or are in flight on a connection. One broker can have half of them, hence at most 131,072 for
    /// each of `connections_per_broker`, and a quarter may wait for a broker that is away or has its half,
    /// so that others find capacity. Default 16,384. Too few, and the network is idle between answers; many
    /// take memory, and as many are unknown when a broker dies.
    pub max_in_flight: usize,
    /// The most bytes of those messages, of which one broker can have as much; a larger message may go alone.
    /// Default 64 MiB, at most 4 GiB.
    #[cfg_attr(feature = "serde", serde(with = "text_forms::size"))]
    pub max_in_flight_bytes: usize,
    /// The number of connections to each broker, at most 64. Default 1, which is enough to keep a broker
    /// busy: its answers come in any order. More help where one connection can't fill a long line.
    pub connections_per_broker: usize,
    /// Whether there is one message in flight in each partition at a time, so that messages are stored in
    /// each partition in the order in which they were accepted, across all callers. Default `false`: a broker
    /// reorders what is in flight at the same time. Each partition then stores one message a round trip.
    ///
    /// A message is decided for a partition when it is accepted: where the selector leaves the choice, for
    /// one whose turn is free, else for the one with the shortest line of a few. It waits for that partition
    /// alone, also while its broker is away: other partitions don't notice. After a timeout the next message
    /// of the partition waits for the late answer, the end of the connection, or 5 s, because the broker may
    /// still store the one before. A message that the broker refuses because the partition is closed (403,
    /// 404) goes to another one if the selector agrees, and counts as newly accepted there; if the selector
    /// insists, it is tried again in its place, and those behind it wait.
    pub ordered: bool,
    /// The topic whose brokers get messages to topics that are not published. Default
    /// none: such messages are refused. Publish it like any other.
    #[cfg_attr(
        feature = "serde",
        serde(with = "text_forms::topic", skip_serializing_if = "Option::is_none")
    )]
    pub default_topic: Option<Topic>,
    /// Whether a topic is published by the first message that is sent to it. Default `false`: such messages
    /// are refused, so that a misspelt name is noticed at once.
    ///
    /// [`send`](crate::Producer::send) and [`enqueue`](crate::Producer::enqueue) begin to publish it, and the
    /// message waits within its own timeout as for a broker that is away. All messages to the topic wait for
    /// the same attempt, which takes [`publish_timeout`](Self::publish_timeout) at most, and goes on when
    /// they have gone. It waits for a broker that offers the topic for [`topic_timeout`](Self::topic_timeout)
    /// or half of [`send_timeout`](Self::send_timeout), whichever is shorter. If it fails, they end with its
    /// reason: [`NotPublished`](crate::SendErrorKind::NotPublished) when no broker offers the topic,
    /// [`NotConnected`](crate::SendErrorKind::NotConnected) when registry or brokers can't be reached. The
    /// next message begins anew, after a pause that it waits for, too: 100 ms after the first failed attempt,
    /// twice as long after each further one, up to 1 s or a third of `send_timeout`. A failure is forgotten
    /// after 10 s, and [`publish_topic`](crate::Producer::publish_topic) begins at once.
    /// [`try_send`](crate::Producer::try_send) begins as well, and fails with `NotConnected` until the topic
    /// is published. Messages of transactions publish nothing, nor does one that is [too
    /// large](Self::max_message_size).
    ///
    /// With a [`default_topic`](Self::default_topic) that one alone is published so: it takes the messages to
    /// all topics that are not published. [`unpublish_topic`](crate::Producer::unpublish_topic) takes it
    /// back.
    pub auto_publish: bool,
    /// The most topics that are published so at a time. Messages to further ones are refused. Default 256.
    pub max_auto_topics: usize,
    /// The partitions that selectors choose from, by topic, in place of those of the brokers that are
    /// connected: a chosen one that is away has its message wait, and no key moves when a broker dies.
    /// Default none. In a file a table, or as in a variable one text such as `orders=0:4;1:4
    /// payments=ever-named`.
    ///
    /// Within transactions selectors choose from the partitions of the transaction's broker all the same.
    #[cfg_attr(
        feature = "serde",
        serde(with = "text_forms::partitions", skip_serializing_if = "BTreeMap::is_empty")
    )]
    pub partitions: BTreeMap<Topic, PartitionSet>,
    /// Whether each message has a `tracing` span of its own, `metaq.send`, from when it is accepted to its
    /// outcome. Default `false`, which costs nothing.
    ///
    /// Its parent is the span that is current where the message is offered, its target `metaq_producer`, its
    /// level `INFO`. It is never entered. Its fields are `topic`, and at the end `partition`, `attempts`, and
    /// `outcome`: `acknowledged`, `not-sent`, `rejected` or `unknown`. A message that is refused when it was
    /// about to be accepted may have one, too. Messages of transactions have none.
    pub span_per_send: bool,
    /// The policy of retries.
    pub retry: RetryPolicy,
    /// The settings of connections, if the producer makes its own transport; its limits of what is in flight
    /// are set by those above.
    #[cfg_attr(feature = "serde", serde(with = "text_forms::connection"))]
    pub connection: ConnectionConfig,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            send_timeout: Duration::from_secs(3),
            publish_timeout: Duration::from_secs(10),
            topic_timeout: Duration::from_secs(3),
            max_message_size: MAX_READABLE_DATA,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            max_in_flight_bytes: DEFAULT_MAX_IN_FLIGHT_BYTES,
            connections_per_broker: 1,
            ordered: false,
            default_topic: None,
            auto_publish: false,
            max_auto_topics: 256,
            partitions: BTreeMap::new(),
            span_per_send: false,
            retry: RetryPolicy::default(),
            connection: ConnectionConfig::default(),
        }
    }
}

/// The most connections to one broker.
const MOST_CONNECTIONS: usize = 64;

/// The most bytes that can be counted of what is in flight.
const MOST_BYTES: usize = u32::MAX as usize;

/// The most requests that one connection can distinguish.
const MOST_REQUESTS: usize = 1 << 16;

impl ProducerConfig {
    /// Whether a producer can work with these settings.
    ///
    /// # Errors
    /// Names the first setting that makes no sense, and what does.
    pub fn validate(&self) -> Result<(), BuildError> {
        for (option, timeout) in [
            ("send_timeout", self.send_timeout),
            ("publish_timeout", self.publish_timeout),
            ("topic_timeout", self.topic_timeout),
            ("connection.connect_timeout", self.connection.connect_timeout),
            ("connection.stall_after", self.connection.stall_after),
            ("connection.heartbeat_after", self.connection.heartbeat_after),
            ("connection.heartbeat_timeout", self.connection.heartbeat_timeout),
        ] {
            if timeout.is_zero() {
                return Err(BuildError::option(option, "is zero: nothing can be done in no time"));
            }
        }
        for (option, number) in [
            ("max_message_size", self.max_message_size),
            ("max_in_flight", self.max_in_flight),
            ("max_in_flight_bytes", self.max_in_flight_bytes),
            ("connections_per_broker", self.connections_per_broker),
            ("retry.max_attempts", self.retry.max_attempts as usize),
        ] {
            if number == 0 {
                return Err(BuildError::option(option, "is 0: nothing could be sent"));
            }
        }
        if self.auto_publish && self.max_auto_topics == 0 {
            return Err(BuildError::option("max_auto_topics", "is 0: auto_publish could publish no topic"));
        }
        if self.connections_per_broker > MOST_CONNECTIONS {
            return Err(BuildError::option("connections_per_broker", "is more than 64"));
        }
        if self.max_in_flight_bytes > MOST_BYTES {
            return Err(BuildError::option("max_in_flight_bytes", "is more than 4,294,967,295 (4 GiB)"));
        }
        if self.max_message_size > MAX_BODY_LEN {
            return Err(BuildError::option("max_message_size", "is more than 2,147,483,647 (2 GiB - 1)"));
        }
        if self.retry.initial_backoff > self.retry.max_backoff {
            return Err(BuildError::option("retry.max_backoff", "is shorter than retry.initial_backoff"));
        }
        Ok(())
    }

    /// The time that publishing waits for a broker that offers the topic. Messages that publish learn within
    /// their own time that there is none.
    pub(crate) fn effective_topic_timeout(&self) -> Duration {
        match self.auto_publish {
            true => self.topic_timeout.min(self.send_timeout / 2),
            false => self.topic_timeout,
        }
    }

    /// Returns the settings of the connections of one broker: those of [`connection`](Self::connection), with
    /// the limits of what is in flight that belong to the producer's. For a program that makes the transport
    /// itself.
    ///
    /// # Errors
    /// When a connection can't have as much in flight.
    pub fn connection_config(&self) -> Result<ConnectionConfig, BuildError> {
        let mut connection = self.connection.clone();
        let half = |all: usize| (all / 2 / self.connections_per_broker).max(1);
        connection.max_in_flight = half(self.max_in_flight);
        connection.max_in_flight_bytes = half(self.max_in_flight_bytes);
        if connection.max_in_flight > MOST_REQUESTS {
            let problem = "is more than 131,072 for each of connections_per_broker: one connection has half of it, and can \
                           tell 65,536 requests apart";
            return Err(BuildError::option("max_in_flight", problem));
        }
        Ok(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!(ProducerConfig::default().validate(), Ok(()));
        let wrong = |change: fn(&mut ProducerConfig)| {
            let mut config = ProducerConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        for (error, option) in [
            (wrong(|config| config.send_timeout = Duration::ZERO), "send_timeout"),
            (wrong(|config| config.max_in_flight = 0), "max_in_flight"),
            (wrong(|config| config.max_in_flight_bytes = 0), "max_in_flight_bytes"),
            (wrong(|config| config.max_in_flight_bytes = 1 << 32), "4 GiB"),
            (wrong(|config| config.connections_per_broker = 65), "connections_per_broker"),
            (wrong(|config| config.retry.max_attempts = 0), "retry.max_attempts"),
            (wrong(|config| config.retry.initial_backoff = Duration::from_secs(9)), "retry.initial_backoff"),
            (wrong(|config| config.connection.stall_after = Duration::ZERO), "connection.stall_after"),
        ] {
            assert!(error.contains(option), "{error}");
        }
    }

    #[test]
    fn a_broker_has_half_of_what_may_be_in_flight() {
        let config = ProducerConfig { connections_per_broker: 2, ..ProducerConfig::default() };
        let connection = config.connection_config().unwrap();
        assert_eq!((connection.max_in_flight, connection.max_in_flight_bytes), (4096, 16 << 20));
        let tiny = ProducerConfig { max_in_flight: 1, max_in_flight_bytes: 1, ..config };
        let tiny = tiny.connection_config().unwrap();
        assert_eq!((tiny.max_in_flight, tiny.max_in_flight_bytes), (1, 1));
    }
}
