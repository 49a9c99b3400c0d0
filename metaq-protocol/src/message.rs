//! What a put carries, and how a broker stores it.

use alloc::{string::String, vec::Vec};

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::{Checksum, Flag, utf8::lossy};

/// The largest data of a put that consumers can read from a broker with the shipped settings: a `get` returns at most
/// 1 MiB, the stored message's header of twenty bytes included. A larger one is stored all the same, and then hides
/// everything behind it in its partition (wire rule 9).
pub const MAX_READABLE_DATA: usize = 1024 * 1024 - STORED_HEADER;

const STORED_HEADER: usize = 20;

/// Java consumers take no longer one (wire rule 8).
const MAX_STORED_DATA: usize = 2 * 1024 * 1024;

/// The data of a put: an attribute block, which may be missing, and the payload (wire rule 5).
///
/// ```text
/// payload "hello":                       68656c6c6f
/// payload "hello", attribute "attr":     00000004 61747472 68656c6c6f
/// ```
///
/// The two parts are kept apart so that a payload is never copied. Data is compared as a whole: how it is cut into
/// parts doesn't matter.
#[derive(Clone, Debug, Default)]
pub struct PutData {
    attribute_block: Bytes,
    payload: Bytes,
}

impl PutData {
    /// The data of a message. An empty attribute is not the same as none.
    #[must_use]
    pub fn new(payload: Bytes, attribute: Option<&str>) -> Self {
        let attribute_block = attribute.map_or_else(Bytes::new, |attribute| {
            let mut block = Vec::with_capacity(4 + attribute.len());
            block.put_u32(attribute.len() as u32);
            block.put_slice(attribute.as_bytes());
            block.into()
        });
        Self { attribute_block, payload }
    }

    /// The attribute's length and the attribute, or nothing.
    #[must_use]
    pub fn attribute_block(&self) -> &Bytes {
        &self.attribute_block
    }

    /// The payload; for data that was read from the wire, all of it.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Both parts, in the order in which they go out.
    #[must_use]
    pub fn parts(&self) -> [&[u8]; 2] {
        [&self.attribute_block, &self.payload]
    }

    /// How many bytes it is in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.attribute_block.len() + self.payload.len()
    }

    /// Whether it is no byte at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its checksum.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        Checksum::of_parts(self.parts())
    }

    /// All of it in one piece; copied only where there are two parts.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match self.parts() {
            [[], _] => self.payload.clone(),
            [_, []] => self.attribute_block.clone(),
            parts => parts.concat().into(),
        }
    }
}

impl From<Bytes> for PutData {
    fn from(data: Bytes) -> Self {
        Self { attribute_block: Bytes::new(), payload: data }
    }
}

impl PartialEq for PutData {
    fn eq(&self, other: &Self) -> bool {
        self.parts().into_iter().flatten().eq(other.parts().into_iter().flatten())
    }
}

impl Eq for PutData {}

/// A message as a broker stores it, and as `get` returns it (wire rule 8).
///
/// ```text
/// length:4  checksum:4  id:8  flag:4  data:length
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredMessage {
    /// The id that the broker gave it.
    pub id: i64,
    /// What the data is made of.
    pub flag: Flag,
    /// The attribute, if there is one; what is no UTF-8 in it is replaced.
    pub attribute: Option<String>,
    /// The payload.
    pub payload: Bytes,
    /// Where the next message begins in the bytes that are read.
    pub next_offset: usize,
}

/// Appends a message as a broker stores it.
pub fn encode_stored_message(dst: &mut BytesMut, id: i64, flag: Flag, data: &[u8]) {
    dst.reserve(STORED_HEADER + data.len());
    dst.put_u32(data.len() as u32);
    dst.put_i32(Checksum::of(data).0);
    dst.put_i64(id);
    dst.put_i32(flag.0);
    dst.put_slice(data);
}

/// Goes through the messages of a [`DataCommand`](crate::DataCommand).
///
/// Ends before a message that is cut off, where the next `get` has to begin: at [`offset`](Self::offset). Ends after the first
/// message that is corrupt.
#[derive(Clone, Debug)]
pub struct StoredMessages {
    data: Bytes,
    offset: usize,
    failed: bool,
}

impl StoredMessages {
    /// Begins at the start of `data`, which must be the start of a message.
    #[must_use]
    pub fn new(data: Bytes) -> Self {
        Self { data, offset: 0, failed: false }
    }

    /// How many bytes were read; after an error, where the corrupt message begins.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Reads the message at the current offset: its header, and the data if all of it is there.
    fn read(&self) -> Result<Option<StoredMessage>, CorruptMessage> {
        let corrupt = |problem| CorruptMessage { offset: self.offset, problem };
        let rest = &self.data[self.offset..];
        let Some((header, rest)) = rest.split_first_chunk::<STORED_HEADER>() else {
            return Ok(None);
        };
        let int =
            |at: usize| i32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = usize::try_from(int(0)).map_err(|_| corrupt("its length is negative"))?;
        if rest.len() < length {
            return Ok(None);
        }
        let from = self.offset + STORED_HEADER;
        let mut data = self.data.slice(from..from + length);
        if Checksum::of(&data) != Checksum(int(4)) {
            return Err(corrupt("its checksum is wrong"));
        }
        if length > MAX_STORED_DATA {
            return Err(corrupt("it is longer than any consumer takes"));
        }
        let id = (i64::from(int(8)) << 32) | i64::from(int(12) as u32);
        let flag = Flag(int(16));
        let mut attribute = None;
        if flag.has_attribute() {
            let too_long = || corrupt("its attribute is longer than the message");
            let (length, _) = data.split_first_chunk::<4>().ok_or_else(too_long)?;
            let end =
                usize::try_from(i32::from_be_bytes(*length)).ok().and_then(|length| length.checked_add(4));
            let end = end.filter(|end| *end <= data.len()).ok_or_else(too_long)?;
            attribute = Some(lossy(&data[4..end]).into_owned());
            data = data.slice(end..);
        }
        Ok(Some(StoredMessage { id, flag, attribute, payload: data, next_offset: from + length }))
    }
}

impl Iterator for StoredMessages {
    type Item = Result<StoredMessage, CorruptMessage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match self.read() {
            Ok(Some(message)) => {
                self.offset = message.next_offset;
                Some(Ok(message))
            }
            Ok(None) => None,
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

/// A stored message that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored message at byte {offset} is corrupt: {problem}")]
pub struct CorruptMessage {
    offset: usize,
    problem: &'static str,
}

impl CorruptMessage {
    /// Where it begins in the bytes that were read.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_attributes_as_the_golden_transcripts_show() {
        let data = PutData::new("d".into(), Some("attr"));
        assert_eq!(data.to_bytes(), &b"\x00\x00\x00\x04attrd"[..]);
        assert_eq!(data.checksum(), Checksum(968_442_167), "G-2");
        let empty = PutData::new("d".into(), Some(""));
        assert_eq!(empty.to_bytes(), &b"\x00\x00\x00\x00d"[..]);
        assert_eq!(empty.checksum(), Checksum(217_928_284), "G-3");
        assert_eq!(PutData::new(Bytes::new(), None).len(), 0);
        assert_eq!(data, PutData::from(data.to_bytes()));
    }

    #[test]
    fn reads_what_a_real_broker_stored() {
        // wire rule 8
        let bytes: Vec<u8> = [
            0x0d_u32.to_be_bytes().to_vec(),
            0x4b62_e51c_u32.to_be_bytes().to_vec(),
            0xb41a_7b7c_ae80_0000_u64.to_be_bytes().to_vec(),
            1_u32.to_be_bytes().to_vec(),
            b"\x00\x00\x00\x04attrhello".to_vec(),
        ]
        .concat();
        let message = StoredMessages::new(bytes.clone().into()).next().unwrap().unwrap();
        assert_eq!(message.id, -5_468_923_022_054_260_736);
        assert_eq!(message.attribute.as_deref(), Some("attr"));
        assert_eq!(message.payload, &b"hello"[..]);
        let mut again = BytesMut::new();
        encode_stored_message(&mut again, message.id, message.flag, &bytes[20..]);
        assert_eq!(again, &bytes[..]);
    }

    #[test]
    fn tells_a_cut_tail_from_a_corrupt_message() {
        let mut log = BytesMut::new();
        encode_stored_message(&mut log, 1, Flag::NONE, b"one");
        encode_stored_message(&mut log, 2, Flag::NONE, b"two");
        for cut in 0..log.len() {
            let mut messages = StoredMessages::new(Bytes::copy_from_slice(&log[..cut]));
            assert!(messages.by_ref().all(|message| message.is_ok()), "cut at {cut}");
            assert_eq!(messages.offset(), cut / 23 * 23);
        }
        let mut corrupt = log.clone();
        corrupt[45] ^= 1;
        let mut messages = StoredMessages::new(corrupt.freeze());
        assert!(messages.next().unwrap().is_ok());
        assert_eq!(messages.next().unwrap().unwrap_err().offset(), 23);
        assert!(messages.next().is_none());
        let mut attribute = BytesMut::new();
        encode_stored_message(&mut attribute, 1, Flag::ATTRIBUTE, b"\x00\x00\x00\x09short");
        assert!(StoredMessages::new(attribute.freeze()).next().unwrap().is_err());
    }
}
