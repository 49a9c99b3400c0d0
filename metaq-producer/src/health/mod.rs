//! The health of a producer: snapshots of its registry, topics and connections, and the events by which they
//! change.

mod events;
mod monitor;

use std::{fmt, time::Duration};

use metaq_discovery::RegistryState;
use metaq_protocol::{BrokerAddr, BrokerId, Topic};
use metaq_transport::TransportError;

pub(crate) use events::EventSender;
pub use events::{EventCounts, ProducerEvent, ProducerEvents};
pub(crate) use monitor::ConnectionRecord;

/// The cause of an error, without the broker that it is about.
pub(crate) fn reason(error: &TransportError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The health of a producer at one moment. Its text form has a line for the registry, each topic and each
/// connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProducerHealth {
    /// Whether the producer was closed, or is being closed.
    pub is_closed: bool,
    /// The registry.
    pub registry: RegistryHealth,
    /// The topics that are published or being published, sorted by name.
    pub topics: Vec<TopicHealth>,
    /// The brokers that are connected or being connected to, sorted by address.
    pub brokers: Vec<BrokerHealth>,
    /// The numbers of events.
    pub events: EventCounts,
}

/// The connection to the registry.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RegistryHealth {
    /// The state as of the latest event. [`Unknown`](RegistryState::Unknown) where the discovery has no
    /// registry, or was not used yet.
    pub state: RegistryState,
    /// The time since that state was entered. None where the discovery reports nothing.
    pub since: Option<Duration>,
}

/// The route of a topic.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopicHealth {
    /// The topic.
    pub topic: Topic,
    /// The number of partitions that messages can go to now.
    pub partitions: usize,
    /// The brokers that are connected, sorted by id.
    pub connected: Vec<BrokerId>,
    /// The brokers that the registry names and that are not connected, or only at a former address.
    pub missing: Vec<BrokerId>,
    /// The time since the registry was read. None before the first time, and while no runtime follows the
    /// topic.
    pub view_age: Option<Duration>,
}

/// A broker, as several topics may use it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BrokerHealth {
    /// The address that the broker listens on.
    pub addr: BrokerAddr,
    /// The ids under which topics know it.
    pub ids: Vec<BrokerId>,
    /// It failed lately, and messages that can go elsewhere do.
    pub cooling_down: bool,
    /// Its connections; one unless [`connections_per_broker`](crate::ProducerConfig::connections_per_broker)
    /// says otherwise.
    pub connections: Vec<ConnectionHealth>,
}

/// A connection to a broker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionHealth {
    /// The current phase.
    pub phase: ConnectionPhase,
    /// The time since that phase was entered.
    pub since: Duration,
    /// The error of the last attempt that failed, or by which it was lost last; it stays after the connection
    /// is established again.
    pub last_error: Option<TransportError>,
    /// Requests that are unanswered.
    pub in_flight: usize,
    /// Bytes of those requests.
    pub in_flight_bytes: usize,
    /// The number of times that it was established again, after it was lost or because it was silent.
    pub reconnects: u64,
}

/// The phases of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionPhase {
    /// It is being established.
    Connecting,
    /// Messages can be sent.
    Ready,
    /// The broker owes answers and is silent.
    Stalled,
    /// The producer is being closed.
    Closing,
    /// It is closed for good.
    Closed,
}

impl ProducerHealth {
    /// Returns true when the producer isn't closed, and a topic is published, and every published topic has a
    /// partition that messages can go to. The registry need not answer for that.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        !self.is_closed && !self.topics.is_empty() && self.topics.iter().all(|topic| topic.partitions > 0)
    }
}

#[cfg(feature = "metrics")]
impl ConnectionPhase {
    pub(crate) const ALL: [Self; 5] =
        [Self::Connecting, Self::Ready, Self::Stalled, Self::Closing, Self::Closed];
}

impl fmt::Display for ConnectionPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Stalled => "stalled",
            Self::Closing => "closing",
            Self::Closed => "closed",
        })
    }
}

impl fmt::Display for ProducerHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_closed {
            f.write_str("closed, ")?;
        }
        write!(f, "registry {}", self.registry.state)?;
        if let Some(since) = self.registry.since {
            write!(f, " for {:.1} s", since.as_secs_f64())?;
        }
        self.topics.iter().try_for_each(|topic| write!(f, "\n{topic}"))?;
        self.brokers.iter().try_for_each(|broker| write!(f, "\n{broker}"))
    }
}

impl fmt::Display for TopicHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, partitions, connected, missing, view_age } = self;
        write!(f, "topic {topic}: {partitions} partitions, {} brokers connected", connected.len())?;
        missing.iter().try_for_each(|id| write!(f, ", broker {id} missing"))?;
        match view_age {
            Some(age) => write!(f, ", view {:.1} s old", age.as_secs_f64()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for BrokerHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, connection) in self.connections.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            let ConnectionHealth { phase, since, last_error, in_flight, reconnects, .. } = connection;
            write!(f, "broker {}", self.addr)?;
            self.ids.iter().try_for_each(|id| write!(f, " (id {id})"))?;
            write!(
                f,
                ": {phase} for {:.1} s, {in_flight} in flight, {reconnects} reconnects",
                since.as_secs_f64()
            )?;
            if self.cooling_down {
                f.write_str(", cooling down")?;
            }
            if let (Some(error), false) = (last_error, *phase == ConnectionPhase::Ready) {
                write!(f, ", last error: {}", reason(error))?;
            }
        }
        Ok(())
    }
}

/// The topics that a producer can't send to, each with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReady {
    pub(crate) reasons: Vec<(Topic, String)>,
    pub(crate) is_closed: bool,
}

impl NotReady {
    /// The topics that can't be sent to, each with the reason.
    pub fn topics(&self) -> impl Iterator<Item = (&Topic, &str)> {
        self.reasons.iter().map(|(topic, reason)| (topic, reason.as_str()))
    }

    /// Returns true when the producer was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_closed {
            return f.write_str("the producer is closed");
        }
        for (n, (topic, reason)) in self.reasons.iter().enumerate() {
            write!(f, "{}topic {topic}: {reason}", if n == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for NotReady {}
