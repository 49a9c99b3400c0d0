//! The numbers of the protocol: opaques, statuses, flags and checksums.

use core::fmt;

/// The number that links an answer to its request; the last token of nearly every header line (wire rule 1.1).
///
/// Any 32-bit number will do, negative ones included; the broker sends it back unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a plain number with a name")]
pub struct Opaque(pub i32);

impl Opaque {
    /// What requests without an opaque stand for, and are answered with: 2147483647.
    pub const NONE: Self = Self(i32::MAX);
}

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a broker answers: the second token of a `result` (wire rule 4). An open set: numbers that have no name here
/// are kept and shown as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a plain number with a name")]
pub struct Status(pub i32);

impl Status {
    /// 200: done.
    pub const SUCCESS: Self = Self(200);
    /// 301: the body says at which offset to go on.
    pub const MOVED: Self = Self(301);
    /// 400: the request makes no sense.
    pub const BAD_REQUEST: Self = Self(400);
    /// 401: never sent by a 1.4.6.2 broker.
    pub const UNAUTHORIZED: Self = Self(401);
    /// 403: the partition is closed, or the broker is recovering.
    pub const FORBIDDEN: Self = Self(403);
    /// 404: nothing is stored there.
    pub const NOT_FOUND: Self = Self(404);
    /// 500: the broker refused or failed; the body says why.
    pub const INTERNAL_SERVER_ERROR: Self = Self(500);
    /// 503: the broker is too busy, or doesn't know the command.
    pub const SERVICE_UNAVAILABLE: Self = Self(503);
    /// 504: made up inside the Java client, for a missing answer.
    pub const GATEWAY_TIMEOUT: Self = Self(504);

    /// Whether it is 200; everything else is a failure to a producer.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::SUCCESS
    }

    /// The name that Java gives to the number, if it has one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
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

/// What the data of a put is made of (wire rule 5). Bits without a meaning are stored and given back unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a plain number with a name")]
pub struct Flag(pub i32);

impl Flag {
    /// The data is the payload and nothing else.
    pub const NONE: Self = Self(0);
    /// The data starts with an attribute.
    pub const ATTRIBUTE: Self = Self(1);

    /// Whether the data starts with an attribute.
    #[must_use]
    pub fn has_attribute(self) -> bool {
        self.0 & Self::ATTRIBUTE.0 != 0
    }
}

/// The checksum of a put's data: CRC-32 with the top bit cleared (wire rule 6).
///
/// ```
/// use metaq_protocol::Checksum;
///
/// assert_eq!(Checksum::of(b"123456789"), Checksum(1_274_296_614));
/// assert_eq!(Checksum::of(b""), Checksum(0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a plain number with a name")]
pub struct Checksum(pub i32);

impl Checksum {
    /// -1: the broker does not check.
    pub const NONE: Self = Self(-1);

    /// The checksum of `data`.
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        Self::of_parts([data])
    }

    /// The checksum of several parts, one behind the other.
    #[must_use]
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        parts.into_iter().for_each(|part| hasher.update(part));
        Self((hasher.finalize() & 0x7fff_ffff) as i32)
    }

    /// Whether a broker takes `data` under this checksum: it is none, or right.
    #[must_use]
    pub fn matches(self, data: &[u8]) -> bool {
        self == Self::NONE || self == Self::of(data)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn statuses_are_an_open_set() {
        assert_eq!(Status(500).to_string(), "500 InternalServerError");
        assert_eq!(Status(999).to_string(), "999");
        assert_eq!(Status(-1).name(), None);
    }

    #[test]
    fn checksums_are_those_of_the_golden_transcripts() {
        for (data, sum) in [("x", 215_750_275), ("hello", 907_060_870), ("", 0), ("m0", 928_200_633)] {
            assert_eq!(Checksum::of(data.as_bytes()), Checksum(sum), "G-5");
        }
        assert_eq!(Checksum::of_parts([&b"he"[..], b"llo"]), Checksum::of(b"hello"));
        assert!(Checksum::NONE.matches(b"anything"));
        assert!(!Checksum(1).matches(b"hello"));
    }
}
