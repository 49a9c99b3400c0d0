//! Data split into attribute and payload (protocol §5).

use alloc::borrow::Cow;
use core::fmt;

use bytes::{Buf as _, Bytes};

use super::{Flag, PutData};
use crate::text;

/// The attribute and the payload of a message, separated by [`PutData::split`].
///
/// Both share the memory of the original data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SplitData {
    /// The attribute as it was on the wire, which should be UTF-8. `None` when the flag announces none, which
    /// differs from an empty one.
    pub attribute: Option<Bytes>,
    /// The payload.
    pub payload: Bytes,
}

impl SplitData {
    /// The attribute as text. As in the Java client, invalid UTF-8 becomes U+FFFD.
    #[must_use]
    pub fn attribute_text(&self) -> Option<Cow<'_, str>> {
        self.attribute.as_deref().map(text::from_utf8_lossy)
    }
}

/// The error of data without a valid attribute although the flag announces one.
///
/// A broker doesn't look inside the data, so it stores such a message and confirms it; consumers fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidAttribute {
    /// The data is shorter than the four bytes of the attribute's length.
    Missing {
        /// The length of the data in bytes, below 4.
        available: usize,
    },
    /// The length of the attribute is negative, or exceeds the bytes that follow it.
    Length {
        /// The length in the data, in bytes.
        length: i32,
        /// The number of bytes that follow the length.
        available: usize,
    },
}

impl fmt::Display for InvalidAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { available } => write!(
                f,
                "the flag announces an attribute, and the data of {available} bytes has no room for the attribute's length"
            ),
            Self::Length { length, available } => write!(
                f,
                "the attribute of {length} bytes doesn't fit into the {available} bytes behind its length"
            ),
        }
    }
}

impl core::error::Error for InvalidAttribute {}

impl PutData {
    /// Separates attribute and payload according to `flag`. Use it for data of raw bytes, such as that of a
    /// received [`PutCommand`](crate::PutCommand); it works for data with a separate attribute block, too.
    ///
    /// Copies nothing, unless the data was created with an attribute and the flag announces none.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use metaq_protocol::{Flag, InvalidAttribute, PutData};
    ///
    /// let data = PutData::from(Bytes::from_static(b"\x00\x00\x00\x04attrhello"));
    /// let split = data.split(Flag::ATTRIBUTE)?;
    /// assert_eq!(split.attribute_text().as_deref(), Some("attr"));
    /// assert_eq!(split.payload, "hello");
    ///
    /// // Without the flag everything is payload.
    /// assert_eq!(data.split(Flag::EMPTY)?.payload, data.to_bytes());
    ///
    /// let data = PutData::from(Bytes::from_static(b"\x00\x00\x00\x09attr"));
    /// assert_eq!(data.split(Flag::ATTRIBUTE), Err(InvalidAttribute::Length { length: 9, available: 4 }));
    /// # Ok::<(), InvalidAttribute>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidAttribute`] when the flag announces an attribute, and the data doesn't begin with a valid
    /// one.
    pub fn split(&self, flag: Flag) -> Result<SplitData, InvalidAttribute> {
        if !flag.has_attribute() {
            return Ok(SplitData { attribute: None, payload: self.to_bytes() });
        }
        let mut payload = self.payload.clone();
        if let Some(block) = &self.attribute {
            return Ok(SplitData { attribute: Some(block.slice(super::LENGTH..)), payload });
        }
        let available = payload.len();
        let length = payload.try_get_i32().map_err(|_| InvalidAttribute::Missing { available })?;
        match usize::try_from(length) {
            Ok(bytes) if bytes <= payload.len() => {
                Ok(SplitData { attribute: Some(payload.split_to(bytes)), payload })
            }
            _ => Err(InvalidAttribute::Length { length, available: payload.len() }),
        }
    }
}
