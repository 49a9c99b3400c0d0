//! Refusals of etcd to let the keys be read: wrong passwords, missing rights.

use std::time::Duration;

use etcd_client::Error;
use tokio::time::Instant;

use crate::{DiscoveryError, DiscoveryErrorKind};

/// The backoff after refusals doubles from the first to the last: each login costs the server a slow hash.
const INITIAL_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The gRPC codes of a call that is not permitted, and of a call without valid authentication.
const PERMISSION_DENIED: i32 = 7;
const UNAUTHENTICATED: i32 = 16;

/// The texts of etcd for calls that fail in the same way until users, roles or settings are changed. The
/// codes of these responses are also used for other failures.
const PERMANENT_ERRORS: [&str; 5] = [
    "authentication failed",
    "authentication is not enabled",
    "permission denied",
    "user name is empty",
    "user name not found",
];

/// The texts of etcd for logins that must be repeated: the token has expired or, for tokens that can't be
/// revoked (JWT), users or roles have changed since.
const STALE_LOGIN: [&str; 2] = ["invalid auth token", "revision of auth store is old"];

/// The refusal of a server to let the keys be read.
#[derive(Debug)]
pub(super) struct AccessRefused {
    pub(super) host: String,
    /// The user name of the request.
    pub(super) user: Option<String>,
    /// The prefix of all keys of the request.
    pub(super) prefix: String,
    /// The server's reason.
    pub(super) reason: String,
}

impl AccessRefused {
    /// Returns true if another login may succeed immediately.
    pub(super) fn is_stale_login(&self) -> bool {
        is_one_of(&STALE_LOGIN, &self.reason)
    }

    pub(super) fn error(&self) -> DiscoveryError {
        let Self { host, user, prefix, reason } = self;
        let user =
            user.as_ref().map_or_else(|| "without credentials".to_owned(), |user| format!("as {user:?}"));
        let mut text = format!("etcd at {host} refuses access {user}: {reason}");
        if reason.contains("permission denied") {
            text.push_str(&format!("; the right to read all keys that begin with {prefix} is needed"));
        }
        DiscoveryError::new(DiscoveryErrorKind::Failed, text)
    }
}

/// The reason of an error that is permanent; `None` for other errors.
pub(super) fn permanent_reason(error: &Error) -> Option<String> {
    let Error::GRpcStatus(status) = error else { return None };
    let denied = [PERMISSION_DENIED, UNAUTHENTICATED].contains(&(status.code() as i32));
    (denied || is_access_error(status.message())).then(|| status.message().to_owned())
}

/// Returns true for the texts with which etcd refuses access.
pub(super) fn is_access_error(reason: &str) -> bool {
    is_one_of(&PERMANENT_ERRORS, reason) || is_one_of(&STALE_LOGIN, reason)
}

fn is_one_of(texts: &[&str], reason: &str) -> bool {
    texts.iter().any(|text| reason.contains(text))
}

/// The last one of consecutive refusals, with the backoff.
#[derive(Clone, Debug)]
pub(super) struct RefusalBackoff {
    pub(super) error: DiscoveryError,
    pub(super) reason: String,
    pub(super) next_attempt: Instant,
    pause: Duration,
}

impl RefusalBackoff {
    /// Creates the state after a refusal; `former` is the refusal before it if nothing was read in between.
    pub(super) fn after(former: Option<&Self>, refused: AccessRefused) -> Self {
        let now = Instant::now();
        // A backoff that was not used lately says nothing about the current rate of requests.
        let recent = former.filter(|former| now < former.next_attempt + 2 * MAX_BACKOFF);
        let pause = recent.map_or(INITIAL_BACKOFF, |former| (former.pause * 2).min(MAX_BACKOFF));
        Self { error: refused.error(), reason: refused.reason, next_attempt: now + pause, pause }
    }

    /// The error for calls during the backoff.
    pub(super) fn active_error(&self) -> Option<DiscoveryError> {
        let left = self.next_attempt.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        let text = format!("{}; next attempt in {} ms", self.error, left.as_millis().max(1));
        Some(DiscoveryError::new(self.error.kind(), text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> AccessRefused {
        AccessRefused {
            host: "h:1".to_owned(),
            user: Some("metaq".to_owned()),
            prefix: "/meta/brokers/".to_owned(),
            reason: "etcdserver: permission denied".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn backoff_grows_to_30_seconds_and_resets_after_a_long_pause() {
        let mut refusal = RefusalBackoff::after(None, refused());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pauses.push((refusal.next_attempt - Instant::now()).as_millis());
            tokio::time::advance(refusal.next_attempt - Instant::now()).await;
            assert!(refusal.active_error().is_none());
            refusal = RefusalBackoff::after(Some(&refusal), refused());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        tokio::time::advance(Duration::from_secs(200)).await;
        refusal = RefusalBackoff::after(Some(&refusal), refused());
        assert_eq!(
            refusal.active_error().unwrap().to_string(),
            "etcd at h:1 refuses access as \"metaq\": etcdserver: permission denied; the right to read all keys \
             that begin with /meta/brokers/ is needed; next attempt in 500 ms"
        );
    }
}
