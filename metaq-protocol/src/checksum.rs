//! The checksum of a message's data.

use core::fmt;

/// CRC-32 of the data with the top bit cleared, or [`NONE`](Self::NONE).
///
/// It covers the attribute block and the payload, not the flag and not the message id.
///
/// ```text
/// put test 1 5 0 907060870 1\r\nhello
///                ^ of "hello"
/// ```
///
/// ```
/// use metaq_protocol::Checksum;
///
/// assert_eq!(Checksum::of(b"123456789"), Checksum(1274296614));
/// assert!(Checksum::NONE.matches(b"anything"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a plain number with a name")]
pub struct Checksum(pub i32);

impl Checksum {
    /// "Do not check": the value for layouts before 1.4.4. A real checksum is never negative.
    pub const NONE: Self = Self(-1);

    /// The checksum of `data`.
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        Self::of_parts([data])
    }

    /// The checksum of the concatenation of `parts`.
    #[must_use]
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        for part in parts {
            hasher.update(part);
        }
        Self((hasher.finalize() & 0x7fff_ffff).cast_signed())
    }

    /// Returns true if a broker would accept `data` with this checksum: it is [`NONE`](Self::NONE) or
    /// correct.
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
