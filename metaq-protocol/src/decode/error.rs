//! The errors of decoding.

use alloc::{borrow::ToOwned, boxed::Box, string::String};
use core::fmt;

use crate::text;

/// The error of bytes that are not a frame. The rest of the stream can't be decoded: close the connection, as
/// the Java broker does.
///
/// The error names the command and the field, with the beginning of the offending text:
///
/// ```
/// use bytes::BytesMut;
/// use metaq_protocol::{DecodeErrorKind, Decoder};
///
/// let error = Decoder::new().decode(&mut BytesMut::from("get t g 0 x 64 1\r\n")).unwrap_err();
/// assert_eq!((error.kind(), error.field()), (DecodeErrorKind::InvalidNumber, Some("offset")));
/// assert_eq!(error.to_string(), "get: the offset \"x\" is not a number that fits it");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError(Box<Detail>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Detail {
    kind: DecodeErrorKind,
    command: Option<&'static str>,
    field: Option<&'static str>,
    text: String,
    limit: Option<usize>,
}

/// The kinds of a [`DecodeError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The header line is longer than [`Limits::max_line`](crate::Limits::max_line), with or without its end.
    LineTooLong,
    /// The body is longer than [`Limits::max_body`](crate::Limits::max_body).
    BodyTooLong,
    /// The header line is empty, consists of spaces, or starts with one.
    BlankLine,
    /// The first word is not a command, as in `bogus 1\r\n`.
    UnknownCommand,
    /// A word is missing at the end of the line, as in `value 9\r\n`.
    MissingField,
    /// The line has more words than any form of the command: `put`, `sync` and `transaction` only.
    SurplusField,
    /// A word is not a number, or is out of range, as in `version 2147483648\r\n`.
    InvalidNumber,
    /// The announced length of the body is negative, as in `value -1 1\r\n`.
    NegativeLength,
    /// A word is not the text form of a transaction id.
    InvalidTransactionId,
    /// A word is not one of the actions of a `transaction`.
    UnknownAction,
    /// A request arrived where only responses are allowed.
    UnexpectedCommand,
}

impl DecodeError {
    #[cold]
    pub(crate) fn new(kind: DecodeErrorKind, text: &[u8]) -> Self {
        // An excerpt has 80 characters, so more than 80 times the longest character isn't needed.
        let text = text::from_utf8_lossy(&text[..text.len().min(400)]);
        Self(Box::new(Detail {
            kind,
            command: None,
            field: None,
            text: text::excerpt(&text).to_owned(),
            limit: None,
        }))
    }

    pub(crate) fn in_command(mut self, command: &'static str) -> Self {
        self.0.command = Some(command);
        self
    }

    pub(crate) fn in_field(mut self, field: &'static str) -> Self {
        self.0.field = Some(field);
        self
    }

    pub(crate) fn above(mut self, limit: usize) -> Self {
        self.0.limit = Some(limit);
        self
    }

    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> DecodeErrorKind {
        self.0.kind
    }

    /// The command of the invalid header line, if it was recognized.
    #[must_use]
    pub fn command(&self) -> Option<&'static str> {
        self.0.command
    }

    /// The invalid field.
    #[must_use]
    pub fn field(&self) -> Option<&'static str> {
        self.0.field
    }

    /// The beginning of the offending text, at most 80 characters.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The limit that was exceeded, in bytes.
    #[must_use]
    pub fn limit(&self) -> Option<usize> {
        self.0.limit
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Detail { kind, command, field, text, limit } = &*self.0;
        let limit = limit.unwrap_or_default();
        if let Some(command) = command {
            write!(f, "{command}: ")?;
        }
        let field = field.unwrap_or("word");
        match kind {
            DecodeErrorKind::LineTooLong => {
                write!(
                    f,
                    "the header line is longer than the limit of {limit} bytes; it starts with {text:?}"
                )
            }
            DecodeErrorKind::BodyTooLong => {
                write!(f, "the body of {text} bytes is longer than the limit of {limit} bytes")
            }
            DecodeErrorKind::BlankLine if text.is_empty() => f.write_str("the header line is empty"),
            DecodeErrorKind::BlankLine => write!(f, "the header line starts with a space: {text:?}"),
            DecodeErrorKind::UnknownCommand => write!(f, "{text:?} is not a command"),
            DecodeErrorKind::MissingField => write!(f, "the {field} is missing in {text:?}"),
            DecodeErrorKind::SurplusField => write!(f, "too many words in {text:?}"),
            DecodeErrorKind::InvalidNumber => write!(f, "the {field} {text:?} is not a number that fits it"),
            DecodeErrorKind::NegativeLength => write!(f, "the {field} {text} is negative"),
            DecodeErrorKind::InvalidTransactionId => {
                write!(f, "the {field} {text:?} is not a transaction id")
            }
            DecodeErrorKind::UnknownAction => write!(f, "the {field} {text:?} is not known"),
            DecodeErrorKind::UnexpectedCommand => {
                f.write_str("a request arrived where only responses are allowed")
            }
        }
    }
}

impl core::error::Error for DecodeError {}
