//! The settings.

use std::time::Duration;

use crate::{
    Credentials, DiscoveryError,
    backend::deadline::{MAX_DURATION, setting},
};

/// The least that settings are taken as.
const MIN_DURATION: Duration = Duration::from_millis(10);
const MIN_REREAD: Duration = Duration::from_millis(100);
const MIN_SILENCE: Duration = Duration::from_millis(100);
const MIN_SESSION: Duration = Duration::from_secs(1);

/// The protocol has milliseconds in 32 bits with a sign.
const MAX_SESSION: Duration = Duration::from_millis(i32::MAX as u64);

/// Settings of [`ZooKeeperDiscovery`](super::ZooKeeperDiscovery). A duration of zero is refused. Shorter ones than these are
/// taken as these: 1 s for `session_timeout`, 100 ms for `silence_timeout` and `reread_interval`, 10 ms for the others.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ZooKeeperConfig {
    /// After how long without contact the servers end the session. Default 30 s, as the Java client. The
    /// servers may have limits of their own.
    pub session_timeout: Duration,
    /// The time that connecting, and reading a topic for the first time, may take. Default 10 s.
    pub connect_timeout: Duration,
    /// A server that is silent for so long is taken for lost, and another connection is made; it is asked whether it is
    /// there before. Nothing is lost by a false alarm, but it costs the servers work: with more than about 2,000 nodes,
    /// those of topics on brokers, everything is read anew. Where a busy server may pause for longer, choose a longer one.
    /// Default 4 s; 2/5 of the session timeout where this is more than 3/5 of that.
    pub silence_timeout: Duration,
    /// The time for which a server that owes answers may answer nothing at all before the session is left for another one.
    /// Default 5 s.
    pub call_timeout: Duration,
    /// The interval at which everything is read again even if no change was reported. The reads are spread evenly over this
    /// time, and are never more than 1,000 in a second. Default 60 s.
    pub reread_interval: Duration,
    /// The credentials to read with, by the scheme `digest`. Default none, which is enough for what brokers make: everybody may
    /// read that.
    pub credentials: Option<Credentials>,
    /// TLS, on which the servers have another port. Default none.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::TlsConfig>,
}

impl ZooKeeperConfig {
    /// The settings within their limits.
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
