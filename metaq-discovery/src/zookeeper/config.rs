//! The settings.

use std::time::Duration;

use crate::{
    Credentials, DiscoveryError,
    backend::deadline::{MAX_DURATION, setting},
};

/// The smallest values of the settings.
const MIN_DURATION: Duration = Duration::from_millis(10);
const MIN_REREAD: Duration = Duration::from_millis(100);
const MIN_SILENCE: Duration = Duration::from_millis(100);
const MIN_SESSION: Duration = Duration::from_secs(1);

/// The protocol stores milliseconds in a signed 32-bit number.
const MAX_SESSION: Duration = Duration::from_millis(i32::MAX as u64);

/// Settings of [`ZooKeeperDiscovery`](super::ZooKeeperDiscovery). A duration of zero is refused. Short ones
/// are raised: `session_timeout` to 1 s, `silence_timeout` and `reread_interval` to 100 ms, the others to 10
/// ms.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ZooKeeperConfig {
    /// The time without contact after which the servers expire the session. Default 30 s, as in the Java
    /// client. The servers may have limits of their own.
    pub session_timeout: Duration,
    /// The limit for connecting, and for reading a topic for the first time. Default 10 s.
    pub connect_timeout: Duration,
    /// The silence after which a server counts as lost and another connection is made; the server is pinged
    /// before that. A false alarm loses nothing, but costs the servers work: with more than about 2,000
    /// nodes, counted per topic and broker, everything is read again. Choose a longer time where a busy
    /// server may pause for longer. Default 4 s; 2/5 of the session timeout if this is more than 3/5 of that.
    pub silence_timeout: Duration,
    /// The time for which a server with outstanding requests may send no response at all before the session
    /// is replaced by another one. Default 5 s.
    pub call_timeout: Duration,
    /// The interval at which everything is read again even if no change was reported. The reads are spread
    /// evenly over this time, with at most 1,000 per second. Default 60 s.
    pub reread_interval: Duration,
    /// The credentials for reading, with the scheme `digest`. Default none, which suffices for nodes that
    /// brokers create: everyone may read those.
    pub credentials: Option<Credentials>,
    /// TLS, for which the servers have a separate port. Each server needs a name of its own then: of a name
    /// with several addresses only the one that comes first is tried. Default none.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::TlsConfig>,
}

impl ZooKeeperConfig {
    /// Checks the settings and limits them to their ranges.
    pub(super) fn checked(mut self) -> Result<Self, DiscoveryError> {
        let limited = |name, value: &mut Duration, shortest, longest| {
            setting(name, *value, shortest, longest).map(|checked| *value = checked)
        };
        limited("session_timeout", &mut self.session_timeout, MIN_SESSION, MAX_SESSION)?;
        limited("connect_timeout", &mut self.connect_timeout, MIN_DURATION, MAX_DURATION)?;
        limited("silence_timeout", &mut self.silence_timeout, MIN_SILENCE, MAX_SESSION)?;
        limited("call_timeout", &mut self.call_timeout, MIN_DURATION, MAX_DURATION)?;
        limited("reread_interval", &mut self.reread_interval, MIN_REREAD, MAX_DURATION)?;
        Ok(self)
    }
}

impl Default for ZooKeeperConfig {
    fn default() -> Self {
        Self {
            session_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(4),
            call_timeout: Duration::from_secs(5),
            reread_interval: Duration::from_secs(60),
            credentials: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}
