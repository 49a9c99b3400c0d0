//! Settings of connections.

use std::time::Duration;

use crate::{deadline::FAR, slots::MAX_SLOTS};

/// The least duration of settings; shorter ones count as this.
const SHORTEST: Duration = Duration::from_millis(1);

/// Settings of the connections of a transport, whatever they run over. With the feature `serde` they are read and written with
/// durations as texts such as `3s`.
///
/// Durations below a millisecond count as one, those above thirty years as thirty years.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ConnectionConfig {
    /// The time that one attempt to connect may take: name resolution, all addresses of the name, a TLS handshake, and the
    /// answer to a first request, by which the broker proves to be one and to be alive. Default 3 s. Too short, and a distant
    /// broker is never reached. An attempt that isn't answered holds up no other: after 250 ms a second one is made beside it,
    /// and again whenever that has had as much time.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub connect_timeout: Duration,
    /// The upper bound of the backoff before the second attempt to connect; it doubles with each further failure. The
    /// backoff itself is drawn at random between zero and that. Default 50 ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub initial_backoff: Duration,
    /// The limit of that upper bound. Default 500 ms, so that a broker that comes back is used within a second, however
    /// long it was away. Longer, and it is used later; much shorter, and many clients crowd it.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub max_backoff: Duration,
    /// The time for which a broker that owes answers may be silent before nothing more is sent to it until it speaks again;
    /// what was not written then ends with [`Stalled`](crate::TransportErrorKind::Stalled), so that it can go elsewhere. A second
    /// connection is dialled then beside the silent one. If the broker answers on that one alone, it replaces the silent one,
    /// whose requests end with [`Lost`](crate::TransportErrorKind::Lost); if it speaks on the silent one first, or within a
    /// quarter of this time (250 ms at most) after the new one was answered, that is kept. Default 1 s. Too short, and a broker
    /// is avoided whose disk or garbage collector takes a break; too long, and more messages are sent to a dead one.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub stall_after: Duration,
    /// After how long without a byte from the broker it is sent a heartbeat. Default 10 s, as the Java client.
    /// The broker closes connections that are idle for 300 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub heartbeat_after: Duration,
    /// The time that the broker has to answer a heartbeat, or anything else, before the connection is given up and made
    /// anew, also if no other one was answered meanwhile. Default 5 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub heartbeat_timeout: Duration,
    /// The most unanswered requests on a connection, from 1 to 65,536. Default 16,384.
    pub max_in_flight: usize,
    /// The most bytes of unanswered requests on a connection, from 1 to 4,294,967,295. One request may be larger if it is
    /// alone. Default 64 MiB.
    pub max_in_flight_bytes: usize,
    /// The time for which a connection waits for its outstanding answers, late ones included, when its last handle is dropped.
    /// Default 5 s.
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
    /// When a limit is zero, or more than is possible. Nothing is cut to what is possible silently.
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

    /// The same with durations that a connection can live with.
    pub(crate) fn with_usable_durations(mut self) -> Self {
        for duration in [
            &mut self.connect_timeout,
            &mut self.initial_backoff,
            &mut self.max_backoff,
            &mut self.stall_after,
            &mut self.heartbeat_after,
            &mut self.heartbeat_timeout,
        ] {
            *duration = (*duration).clamp(SHORTEST, FAR);
        }
        self.drain_timeout = self.drain_timeout.min(FAR);
        self
    }
}

/// A limit of a [`ConnectionConfig`] that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option} is {value}, but a connection can have from 1 to {limit}")]
pub struct InvalidConnectionConfig {
    option: &'static str,
    value: usize,
    limit: usize,
}

impl InvalidConnectionConfig {
    /// The name of the option.
    #[must_use]
    pub fn option(&self) -> &'static str {
        self.option
    }
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_with_durations_as_texts_and_unknown_ones_are_named() {
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
