//! What is wrong with bytes that are no frame.

use alloc::{borrow::ToOwned, string::String};
use core::fmt;

/// Bytes that are no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    command: &'static str,
    kind: DecodeErrorKind,
    text: String,
}

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The line is empty or begins with a space.
    Blank,
    /// The line is longer than the limit, or its end doesn't come.
    #[non_exhaustive]
    LineTooLong {
        /// The most bytes of a line.
        limit: usize,
    },
    /// The first word is no command.
    UnknownCommand,
    /// The command can't have so many words.
    #[non_exhaustive]
    TokenCount {
        /// How many words there were, the command itself included.
        count: usize,
    },
    /// A word is not what it should be.
    #[non_exhaustive]
    Field {
        /// Which one.
        field: &'static str,
    },
    /// The body is longer than the limit.
    #[non_exhaustive]
    BodyTooLong {
        /// The announced length.
        length: usize,
        /// The most bytes of a body.
        limit: usize,
    },
    /// It is a request, where an answer was expected.
    Request,
}

impl DecodeError {
    pub(crate) fn new(command: &'static str, kind: DecodeErrorKind, text: &str) -> Self {
        Self { command, kind, text: crate::excerpt(text).to_owned() }
    }

    pub(crate) fn field(command: &'static str, field: &'static str, text: &str) -> Self {
        Self::new(command, DecodeErrorKind::Field { field }, text)
    }

    /// The command whose frame it would be; empty where that isn't known.
    #[must_use]
    pub fn command(&self) -> &'static str {
        self.command
    }

    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> DecodeErrorKind {
        self.kind
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, kind, text } = self;
        match kind {
            DecodeErrorKind::Blank => f.write_str("a command line is empty or begins with a space"),
            DecodeErrorKind::LineTooLong { limit } => {
                write!(f, "a command line is longer than {limit} bytes; it begins with {text:?}")
            }
            DecodeErrorKind::UnknownCommand => write!(f, "unknown command {text:?}"),
            DecodeErrorKind::TokenCount { count } => {
                write!(f, "{command} can't have {count} words: {text:?}")
            }
            DecodeErrorKind::Field { field } => write!(f, "{command} has no valid {field}: {text:?}"),
            DecodeErrorKind::BodyTooLong { length, limit } => {
                write!(f, "{command} announces a body of {length} bytes; {limit} is the limit")
            }
            DecodeErrorKind::Request => write!(f, "{command} is a request; an answer was expected"),
        }
    }
}

impl core::error::Error for DecodeError {}
