//! Messages in the form in which a broker stores them.

use alloc::{borrow::Cow, string::String};
use core::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{Checksum, Flag, InvalidAttribute, PutData};

/// The length of the fixed part of a stored message.
const HEADER_LEN: usize = 20;

/// One message of a partition's log.
///
/// ```text
/// 0000000d 4b62e51c b41a7b7cae800000 00000001 00000004 61747472 68656c6c6f
/// length   checksum message id       flag     attr len "attr"   "hello"
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredMessage {
    /// The id that the broker assigned. Not covered by the checksum.
    pub id: i64,
    /// The flag of the put. Not covered by the checksum.
    pub flag: Flag,
    /// The attribute, if the flag announces one. Invalid UTF-8 became U+FFFD.
    pub attribute: Option<String>,
    /// The payload.
    pub payload: Bytes,
    /// The start of the next message, counted from the beginning of the `value` body.
    pub next_offset: usize,
}

/// Appends a message in stored form, which is also its form in a `value`: twenty bytes of header, and its
/// data with the attribute block. The checksum is that of the data.
///
/// The stored form holds the length of the data as an `i32`. Data longer than
/// [`MAX_BODY_LEN`](crate::MAX_BODY_LEN), which no `put` can carry, has no stored form: nothing is appended.
pub fn encode_stored_message(dst: &mut BytesMut, id: i64, flag: Flag, data: &[u8]) {
    let Ok(length) = i32::try_from(data.len()) else {
        return;
    };
    dst.reserve(HEADER_LEN + data.len());
    dst.put_i32(length);
    dst.put_i32(Checksum::of(data).0);
    dst.put_i64(id);
    dst.put_i32(flag.0);
    dst.put_slice(data);
}

/// Iterates over the messages of a `value` body.
///
/// ```text
/// << value 40 1\r\n │ message │ message │ beginning of a message
/// ```
///
/// The iteration ends in one of three ways: no bytes are left, [`truncated`](Self::truncated) returns the
/// position of an incomplete last message (request it again from there), or the last item is a
/// [`CorruptMessage`].
///
/// ```
/// use bytes::{Bytes, BytesMut};
/// use metaq_protocol::{Flag, PutData, StoredMessages, encode_stored_message};
///
/// let mut body = BytesMut::new();
/// let data = PutData::new(Bytes::from_static(b"hello"), Some("attr")).to_bytes();
/// encode_stored_message(&mut body, 7, Flag::ATTRIBUTE, &data);
/// encode_stored_message(&mut body, 8, Flag::ATTRIBUTE, &data);
/// body.truncate(50);
///
/// let mut messages = StoredMessages::new(body);
/// let message = messages.next().expect("one is whole")?;
/// assert_eq!((message.id, &message.payload[..], message.next_offset), (7, &b"hello"[..], 33));
/// assert!(messages.next().is_none());
/// assert_eq!(messages.truncated().map(|tail| tail.offset), Some(33));
/// # Ok::<(), metaq_protocol::CorruptMessage>(())
/// ```
#[derive(Clone, Debug)]
pub struct StoredMessages {
    body: Bytes,
    offset: usize,
    max_len: usize,
    failed: bool,
}

impl StoredMessages {
    /// The default limit for the data of a message: that of the Java consumer.
    pub const DEFAULT_MAX_LEN: usize = 2_097_152;

    /// Begins at the start of `body`. Payloads share its memory.
    #[must_use]
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), offset: 0, max_len: Self::DEFAULT_MAX_LEN, failed: false }
    }

    /// Sets the limit for the data of a message.
    #[must_use]
    pub fn with_max_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes;
        self
    }

    /// The position of the iteration: the start of the next message, or of the incomplete or corrupt one.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The rest, if it is an incomplete message.
    #[must_use]
    pub fn truncated(&self) -> Option<Truncated> {
        let rest = &self.body[self.offset..];
        if rest.is_empty() || self.failed {
            return None;
        }
        let needed = match Head::read(rest) {
            None => HEADER_LEN,
            Some(head) => HEADER_LEN.saturating_add(usize::try_from(head.length).ok()?),
        };
        (needed > rest.len()).then_some(Truncated { offset: self.offset, available: rest.len(), needed })
    }

    fn read(&self, head: &Head) -> Result<Option<StoredMessage>, CorruptMessageKind> {
        let Ok(length) = usize::try_from(head.length) else {
            return Err(CorruptMessageKind::NegativeLength { length: head.length });
        };
        let start = self.offset + HEADER_LEN;
        if self.body.len() - start < length {
            return Ok(None);
        }
        let next_offset = start + length;
        let data = self.body.slice(start..next_offset);
        let found = Checksum::of(&data);
        if found != head.checksum {
            return Err(CorruptMessageKind::Checksum { stored: head.checksum, found });
        }
        if length > self.max_len {
            return Err(CorruptMessageKind::TooLong { length, limit: self.max_len });
        }
        let split = PutData::from(data).split(head.flag).map_err(CorruptMessageKind::Attribute)?;
        let attribute = split.attribute_text().map(Cow::into_owned);
        let payload = split.payload;
        Ok(Some(StoredMessage { id: head.id, flag: head.flag, attribute, payload, next_offset }))
    }
}

impl Iterator for StoredMessages {
    type Item = Result<StoredMessage, CorruptMessage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let head = Head::read(&self.body[self.offset..])?;
        match self.read(&head) {
            Ok(message) => {
                let message = message?;
                self.offset = message.next_offset;
                Some(Ok(message))
            }
            Err(kind) => {
                self.failed = true;
                Some(Err(CorruptMessage { offset: self.offset, kind }))
            }
        }
    }
}

impl core::iter::FusedIterator for StoredMessages {}

struct Head {
    length: i32,
    checksum: Checksum,
    id: i64,
    flag: Flag,
}

impl Head {
    fn read(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_LEN {
            return None;
        }
        Some(Self {
            length: bytes.get_i32(),
            checksum: Checksum(bytes.get_i32()),
            id: bytes.get_i64(),
            flag: Flag(bytes.get_i32()),
        })
    }
}

/// An incomplete message at the end of a `value` body, where the broker cut it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Truncated {
    /// The start of the message. A `get` from there returns it completely, if `max_size` allows.
    pub offset: usize,
    /// The number of its bytes that are present.
    pub available: usize,
    /// The number of bytes that it needs; the length of the header if the message's length is missing.
    pub needed: usize,
}

/// The error of an invalid stored message. The messages after it can't be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorruptMessage {
    offset: usize,
    kind: CorruptMessageKind,
}

impl fmt::Display for CorruptMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, kind } = self;
        write!(f, "the stored message at offset {offset} is corrupt: {kind}")
    }
}

impl core::error::Error for CorruptMessage {}

impl CorruptMessage {
    /// The start of the message.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The reason.
    #[must_use]
    pub fn kind(&self) -> CorruptMessageKind {
        self.kind
    }
}

/// The reasons of a [`CorruptMessage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are in the messages")]
pub enum CorruptMessageKind {
    /// The length of its data is negative.
    NegativeLength { length: i32 },
    /// The data doesn't match its checksum.
    Checksum { stored: Checksum, found: Checksum },
    /// The data is longer than the limit.
    TooLong { length: usize, limit: usize },
    /// The flag announces an attribute, and the data has no valid one.
    Attribute(InvalidAttribute),
}

impl fmt::Display for CorruptMessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NegativeLength { length } => write!(f, "its length {length} is negative"),
            Self::Checksum { stored, found } => {
                write!(f, "its checksum is {stored}, but that of its data is {found}")
            }
            Self::TooLong { length, limit } => {
                write!(f, "its data of {length} bytes is longer than the limit of {limit}")
            }
            Self::Attribute(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for CorruptMessageKind {}
