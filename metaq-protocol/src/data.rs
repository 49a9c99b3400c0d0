//! The data of a message: attribute and payload.

use alloc::{sync::Arc, vec::Vec};
use core::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Checksum, encode::NO_BODY};

mod split;

pub use split::{InvalidAttribute, SplitData};

/// The number of bytes of an attribute's length.
const LENGTH: usize = 4;

/// The largest [`PutData`] that a consumer can fetch from a broker with its default settings: a `get` never
/// returns more than 1 MiB, message header included. A larger message is stored with status 200, and blocks
/// its partition for every consumer.
pub const MAX_READABLE_DATA: usize = 1_048_556;

/// The flag of a message: 32 bits, of which MetaQ uses the lowest.
///
/// The broker stores the other bits and returns them unchanged.
///
/// ```text
/// put test 1 13 1 1264772380 1\r\n\x00\x00\x00\x04attrhello
///               ^ flag: the data starts with an attribute
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a plain number with a name")]
pub struct Flag(pub i32);

impl Flag {
    /// No bit set: the data is the payload.
    pub const EMPTY: Self = Self(0);
    /// Bit 0: the data starts with an attribute.
    pub const ATTRIBUTE: Self = Self(1);

    /// Returns true if the data starts with an attribute.
    #[must_use]
    pub const fn has_attribute(self) -> bool {
        self.0 & Self::ATTRIBUTE.0 != 0
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The data of a `put`: an attribute block, which is usually empty, and the payload. The two are stored
/// separately so that a large payload is never copied.
///
/// ```text
/// no attribute     68 65 6c 6c 6f                               payload "hello", flag 0
/// attribute "attr" 00 00 00 04 61 74 74 72 68 65 6c 6c 6f       length, "attr", "hello", flag 1
/// attribute ""     00 00 00 00 68 65 6c 6c 6f                   length, "hello", flag 1
/// ```
///
/// Two values are equal when their bytes on the wire are equal.
#[derive(Clone, Default)]
pub struct PutData {
    /// Behind a pointer, because most messages have no attribute, and many messages are held at a time.
    attribute: Option<Arc<Bytes>>,
    payload: Bytes,
}

impl PutData {
    /// Creates the data of a message. An empty attribute differs from none: it arrives as an empty one.
    ///
    /// The wire format stores the length of the data as an `i32`. Longer data, attribute included, is refused
    /// by [`PutCommand::check`](crate::PutCommand::check) and never written; see [`MAX_READABLE_DATA`] for
    /// the limit that matters in practice.
    #[must_use]
    #[inline]
    pub fn new(payload: Bytes, attribute: Option<&str>) -> Self {
        Self { attribute: attribute.map(attribute_block), payload }
    }

    /// The number of bytes on the wire.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.attribute_block().len() + self.payload.len()
    }

    /// Returns true if there are no bytes on the wire.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Attribute block and payload, in the order in which they are written.
    ///
    /// Data created from raw bytes is all in the second part, independent of its flag.
    #[must_use]
    #[inline]
    pub fn parts(&self) -> (&Bytes, &Bytes) {
        (self.attribute_block(), &self.payload)
    }

    /// The attribute block: length and attribute. Empty when there is none.
    #[must_use]
    #[inline]
    pub fn attribute_block(&self) -> &Bytes {
        self.attribute.as_deref().unwrap_or(&NO_BODY)
    }

    /// The part after the attribute block.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Takes the payload, and leaves an empty one.
    #[must_use]
    #[inline]
    pub fn take_payload(&mut self) -> Bytes {
        core::mem::take(&mut self.payload)
    }

    /// All bytes in one buffer: a copy when there is an attribute block, otherwise shared.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let Some(attribute) = &self.attribute else {
            return self.payload.clone();
        };
        let mut bytes = Vec::with_capacity(self.len());
        bytes.extend_from_slice(attribute);
        bytes.extend_from_slice(&self.payload);
        bytes.into()
    }

    /// The checksum of the data.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        match &self.attribute {
            None => Checksum::of(&self.payload),
            Some(attribute) => Checksum::of_parts([&***attribute, &*self.payload]),
        }
    }
}

/// Creates the attribute block: length and attribute.
fn attribute_block(attribute: &str) -> Arc<Bytes> {
    let mut block = BytesMut::with_capacity(LENGTH + attribute.len());
    // A length beyond an `i32` exceeds every frame that is written.
    block.put_u32(u32::try_from(attribute.len()).unwrap_or(u32::MAX));
    block.put_slice(attribute.as_bytes());
    Arc::new(block.freeze())
}

/// Wraps raw data from the wire, including an attribute block.
impl From<Bytes> for PutData {
    fn from(data: Bytes) -> Self {
        Self { attribute: None, payload: data }
    }
}

impl PartialEq for PutData {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && (self.attribute_block().iter().chain(&self.payload))
                .eq(other.attribute_block().iter().chain(&other.payload))
    }
}

impl Eq for PutData {}

impl fmt::Debug for PutData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PutData({} bytes)", self.len())
    }
}
