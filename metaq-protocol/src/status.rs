//! The status of a response.

use core::fmt;

/// The code of a `result`. The set is open: any `i32` may occur.
///
/// ```text
/// result 404 47 53\r\nThe topic `test` in partition `3` is not exists
///        ^ status
/// ```
///
/// ```
/// use metaq_protocol::Status;
///
/// assert!(Status::SUCCESS.is_success());
/// assert_eq!(Status(500).to_string(), "500 InternalServerError");
/// assert_eq!(Status(418).to_string(), "418");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a plain number with a name")]
pub struct Status(pub i32);

impl Status {
    /// Success. `result 200 24 1\r\n-5468924307537133568 0 0`
    pub const SUCCESS: Self = Self(200);
    /// A `get` must continue at the offset in the body. `result 301 2 42\r\n45`
    pub const MOVED: Self = Self(301);
    /// A `get` asked for no bytes. `result 400 29 31\r\nBad request,invalid max size:0`
    pub const BAD_REQUEST: Self = Self(400);
    /// Known to Java, never sent by a broker.
    pub const UNAUTHORIZED: Self = Self(401);
    /// The partition is closed, or the broker is recovering.
    pub const FORBIDDEN: Self = Self(403);
    /// Nothing is stored at that offset, or in that partition.
    pub const NOT_FOUND: Self = Self(404);
    /// Any other failure; the body contains the reason.
    pub const INTERNAL_SERVER_ERROR: Self = Self(500);
    /// A thread pool is full, or the broker doesn't handle this command.
    pub const SERVICE_UNAVAILABLE: Self = Self(503);
    /// No response arrived in time. Generated inside a client, never sent.
    pub const GATEWAY_TIMEOUT: Self = Self(504);

    /// Returns true for [`SUCCESS`](Self::SUCCESS) only.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 == Self::SUCCESS.0
    }

    /// The name of the status in Java, if it has one.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::SUCCESS => "Success",
            Self::MOVED => "Moved",
            Self::BAD_REQUEST => "BadRequest",
            Self::UNAUTHORIZED => "Unauthorized",
            Self::FORBIDDEN => "Forbidden",
            Self::NOT_FOUND => "NotFound",
            Self::INTERNAL_SERVER_ERROR => "InternalServerError",
            Self::SERVICE_UNAVAILABLE => "ServiceUnavailable",
            Self::GATEWAY_TIMEOUT => "GatewayTimeout",
            _ => return None,
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} {name}", self.0),
            None => self.0.fmt(f),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({self})")
    }
}
