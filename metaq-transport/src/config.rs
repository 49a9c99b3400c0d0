//! The settings of connections.

use std::{fmt, time::Duration};

use crate::{connection::MAX_SLOTS, deadline::FAR};

/// The smallest duration of a setting. Shorter ones count as this one.
const MIN_DURATION: Duration = Duration::from_millis(1);

/// The settings of a transport's connections, over any kind of stream.
///
/// With the feature `serde`, durations are read and written as texts such as `3s`.
///
/// Durations below a millisecond count as one, those above thirty years as thirty years.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ConnectionConfig {
    /// The time that one attempt to connect may take. Default 3 s.
    ///
    /// It covers name resolution, all addresses of the name, a TLS handshake, and the response to a first
    /// request, by which the broker proves to be one and to be alive. If it is too short, a distant broker is
    /// never reached. An attempt that is not answered delays no other: after 250 ms a second one is made
    /// beside it, and again whenever that one has had as much time.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub connect_timeout: Duration,
    /// The upper bound of the backoff before the second attempt to connect. Default 50 ms.
    ///
    /// It doubles with each further failure. The backoff itself is drawn at random between zero and that.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub initial_backoff: Duration,
    /// The limit of that upper bound. Default 500 ms.
    ///
    /// With the default, a broker that comes back is used within a second, however long it was away. If it is
    /// longer, the broker is used later; if it is much shorter, many clients crowd the broker.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub max_backoff: Duration,
    /// The time for which a broker may be silent while responses are outstanding, before the connection
    /// stalls. Default 1 s.
    ///
    /// Nothing more is sent on a stalled connection until the broker answers on it again. Requests that were
    /// not written fail with [`Stalled`](crate::TransportErrorKind::Stalled), so that they can be sent to
    /// another broker. A second stream is dialled beside the silent one. If the broker answers on the second
    /// one alone, it replaces the silent one, whose requests fail with
    /// [`Lost`](crate::TransportErrorKind::Lost). If the broker answers on the silent one first, or within a
    /// quarter of this time (at most 250 ms) after it answered on the second one, the silent one is kept.
    ///
    /// If it is too short, a broker whose disk or garbage collector pauses is avoided; if it is too long,
    /// more messages are sent to a dead broker.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub stall_after: Duration,
    /// After how long without a byte from the broker it is sent a heartbeat. Default 10 s, as the Java
    /// client. The broker closes connections that are idle for 300 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub heartbeat_after: Duration,
    /// The time within which the broker has to send anything after a heartbeat. Default 5 s.
    ///
    /// After it the stream is given up and the broker is dialled again, even if no second stream was answered
    /// meanwhile.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub heartbeat_timeout: Duration,
    /// The number of requests that may be in flight on a connection, from 1 to 65,536. Default 16,384.
    pub max_in_flight: usize,
    /// The number of bytes that may be in flight on a connection, from 1 to 4,294,967,295. Default 64 MiB.
    ///
    /// A larger request may be sent when no other is in flight.
    pub max_in_flight_bytes: usize,
    /// The time for which a connection waits for outstanding responses, late ones included, when its last
    /// handle is dropped. Default 5 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub drain_timeout: Duration,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            initial_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_millis(500),
            stall_after: Duration::from_secs(1),
            heartbeat_after: Duration::from_secs(10),
            heartbeat_timeout: Duration::from_secs(5),
            max_in_flight: 16 * 1024,
            max_in_flight_bytes: 64 * 1024 * 1024,
            drain_timeout: Duration::from_secs(5),
        }
    }
}

impl ConnectionConfig {
    /// Checks the limits, as [`Transport::connect`](crate::Transport::connect) does.
    ///
    /// # Errors
    /// When a limit is zero, or larger than a connection can have. Such limits are never clamped silently.
    pub fn validate(&self) -> Result<(), InvalidConnectionConfig> {
        let limits = [
            ("max_in_flight", self.max_in_flight, MAX_SLOTS),
            ("max_in_flight_bytes", self.max_in_flight_bytes, u32::MAX as usize),
        ];
        for (option, value, limit) in limits {
            if value == 0 || value > limit {
                return Err(InvalidConnectionConfig { option, value, limit });
            }
        }
        Ok(())
    }

    /// Returns the same settings with durations clamped to what timers can handle.
    pub(crate) fn with_usable_durations(mut self) -> Self {
        for duration in [
            &mut self.connect_timeout,
            &mut self.initial_backoff,
            &mut self.max_backoff,
            &mut self.stall_after,
            &mut self.heartbeat_after,
            &mut self.heartbeat_timeout,
        ] {
            *duration = (*duration).clamp(MIN_DURATION, FAR);
        }
        self.drain_timeout = self.drain_timeout.min(FAR);
        self
    }
}

/// A limit of a [`ConnectionConfig`] that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidConnectionConfig {
    option: &'static str,
    value: usize,
    limit: usize,
}

impl fmt::Display for InvalidConnectionConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { option, value, limit } = self;
        write!(f, "{option} is {value}, but a connection can have from 1 to {limit}")
    }
}

impl std::error::Error for InvalidConnectionConfig {}

impl InvalidConnectionConfig {
    /// Returns the name of the option.
    #[must_use]
    pub fn option(&self) -> &'static str {
        self.option
    }
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    use super::*;

    #[test]
    fn settings_take_durations_as_text_and_name_unknown_ones() {
        let read = |text: &str| serde_json::from_str::<ConnectionConfig>(text);
        let config = read(r#"{"stall_after": "1m 30s", "max_in_flight": 7}"#).unwrap();
        assert_eq!((config.stall_after, config.max_in_flight), (Duration::from_secs(90), 7));
        assert_eq!(config.drain_timeout, ConnectionConfig::default().drain_timeout);
        let again = read(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{config:?}"));
        let error = read(r#"{"stall_before": "3s"}"#).unwrap_err().to_string();
        assert!(error.contains("stall_before") && error.contains("`stall_after`"), "{error}");
        let error = read(r#"{"stall_after": "3 sacks"}"#).unwrap_err().to_string();
        assert!(error.contains("3 sacks") && error.contains("duration"), "{error}");
    }
}
