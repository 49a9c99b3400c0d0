//! The response to a stored message.

use alloc::vec::Vec;
use core::fmt;

use bytes::Bytes;

use super::InvalidResponse;
use crate::number::{self, LineBuilder, text_len};

/// The body of a `result 200` to a `put`: the position at which the message was stored.
///
/// ```text
/// << result 200 24 1\r\n-5468924307537133568 0 0
///                       message_id partition offset
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "the three numbers of the response")]
pub struct PutResponse {
    /// The id of the message. It may be negative, and ids of different brokers have no order.
    pub message_id: i64,
    /// The partition within the broker, which differs from the request only if that was -1.
    pub partition: i32,
    /// The position in the partition's log in bytes; -1 inside a transaction.
    pub offset: i64,
}

impl PutResponse {
    /// Creates a response.
    #[must_use]
    pub fn new(message_id: i64, partition: i32, offset: i64) -> Self {
        Self { message_id, partition, offset }
    }

    /// Parses a body. As in the Java client, further words are ignored.
    ///
    /// # Errors
    /// [`InvalidResponse`] when a word is missing or not a number.
    #[inline]
    pub fn parse(body: &[u8]) -> Result<Self, InvalidResponse> {
        Self::plain(body).map_or_else(|| Self::any_spelling(body), Ok)
    }

    /// Parses a body in the form that a real broker writes.
    #[inline(always)]
    pub(crate) fn plain(body: &[u8]) -> Option<Self> {
        let (message_id, rest) = number::leading_i64(body)?;
        let (partition, rest) = number::leading_i64(rest.strip_prefix(b" ")?)?;
        let (offset, rest) = number::leading_i64(rest.strip_prefix(b" ")?)?;
        let partition = i32::try_from(partition).ok()?;
        matches!(rest, [] | [b' ', ..]).then_some(Self { message_id, partition, offset })
    }

    #[cold]
    fn any_spelling(body: &[u8]) -> Result<Self, InvalidResponse> {
        const EXPECTED: &str = "MESSAGE-ID PARTITION OFFSET";
        let mut words = body.split(|&byte| byte == b' ');
        let mut word = || words.next().unwrap_or_default();
        let refused = |field| InvalidResponse::new("put", field, EXPECTED, body);
        Ok(Self {
            message_id: number::parse_i64(word()).ok_or_else(|| refused("message id"))?,
            partition: number::parse_i32(word()).ok_or_else(|| refused("partition"))?,
            offset: number::parse_i64(word()).ok_or_else(|| refused("offset"))?,
        })
    }

    /// The body in wire format.
    #[must_use]
    pub fn to_body(&self) -> Bytes {
        let mut body = Vec::with_capacity(self.encoded_len());
        self.write(&mut body);
        body.into()
    }

    /// Appends the body to `dst`.
    pub fn write(&self, dst: &mut impl Extend<u8>) {
        let mut words = LineBuilder::new();
        words.number(self.offset).number(self.partition).number(self.message_id);
        // The sequence starts with a space that belongs only between words.
        dst.extend(words.as_bytes()[1..].iter().copied());
    }

    fn encoded_len(&self) -> usize {
        text_len(self.message_id) + 1 + text_len(self.partition.into()) + 1 + text_len(self.offset)
    }
}

impl fmt::Display for PutResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.message_id, self.partition, self.offset)
    }
}
