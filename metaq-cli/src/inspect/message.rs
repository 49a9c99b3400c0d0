//! The JSON of messages: attribute and payload.

use bytes::Bytes;
use metaq_protocol::{Command, Frame, InvalidAttribute, PutData, Response, SplitData, StoredMessages};
use serde::{Serialize, Serializer, ser::SerializeSeq as _};

use super::hex::Hex;

/// The length of a stored message's header, in bytes.
const STORED_HEADER: usize = 20;

/// The data of a put in its parts, or the error that keeps it from being split.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Message {
    Split { attribute: Option<Content>, payload: Content },
    Unsound { error: String },
}

impl Message {
    pub(super) fn of(frame: &Frame) -> Option<Self> {
        match frame {
            Frame::Command(Command::Put(put)) => Some(put.split().into()),
            Frame::Command(Command::Sync(sync)) => Some(sync.split().into()),
            _ => None,
        }
    }
}

impl From<Result<SplitData, InvalidAttribute>> for Message {
    fn from(split: Result<SplitData, InvalidAttribute>) -> Self {
        match split {
            Ok(split) => {
                Self::Split { attribute: split.attribute.map(Content), payload: Content(split.payload) }
            }
            Err(error) => Self::Unsound { error: error.to_string() },
        }
    }
}

/// One stored message of a `value`, or the reason why no more follow.
#[derive(Serialize)]
#[serde(untagged)]
enum Stored {
    Whole {
        offset: usize,
        id: i64,
        flag: i32,
        #[serde(flatten)]
        message: Message,
    },
    CutOff {
        offset: usize,
        incomplete: bool,
    },
    Corrupt {
        offset: usize,
        error: String,
    },
}

/// The stored messages of a `value`, decoded one by one as they are printed.
pub(super) struct Messages<'a>(&'a Bytes);

impl<'a> Messages<'a> {
    pub(super) fn of(frame: &'a Frame) -> Option<Self> {
        match frame {
            Frame::Response(Response::Data(value)) => Some(Self(&value.data)),
            _ => None,
        }
    }
}

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (mut shown, mut offset) = (serializer.serialize_seq(None)?, 0);
        let mut messages = StoredMessages::new(self.0.clone()).with_max_len(usize::MAX);
        for message in messages.by_ref() {
            shown.serialize_element(&match message {
                Ok(message) => {
                    // Split again from the bytes, so that an attribute that isn't UTF-8 is printed unchanged.
                    let data = self.0.slice(offset + STORED_HEADER..message.next_offset);
                    let (start, id, flag) = (offset, message.id, message.flag.0);
                    offset = message.next_offset;
                    let message = Message::from(PutData::from(data).split(message.flag));
                    Stored::Whole { offset: start, id, flag, message }
                }
                Err(error) => Stored::Corrupt { offset: error.offset(), error: error.kind().to_string() },
            })?;
        }
        if let Some(tail) = messages.truncated() {
            shown.serialize_element(&Stored::CutOff { offset: tail.offset, incomplete: true })?;
        }
        shown.end()
    }
}

/// Bytes in hexadecimal, and as text if they are text.
pub(super) struct Content(Bytes);

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            hex: Hex<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            text: Option<&'a str>,
        }
        Shown { hex: Hex(&self.0), text: as_text(&self.0) }.serialize(serializer)
    }
}

/// Returns `bytes` as text if they are valid UTF-8 without control characters other than tab, line feed and
/// carriage return.
fn as_text(bytes: &[u8]) -> Option<&str> {
    let unprintable = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    str::from_utf8(bytes).ok().filter(|text| !text.contains(unprintable))
}
