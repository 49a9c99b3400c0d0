//! The error of an invalid transaction id.

use alloc::{borrow::ToOwned, string::String};
use core::fmt;

use crate::text;

/// The error of a text or a part that can't be the name of a transaction.
///
/// ```
/// use metaq_protocol::{InvalidTransactionIdKind, TransactionId};
///
/// let error = TransactionId::local("a:b", 1).unwrap_err();
/// assert_eq!((error.text(), error.kind()), ("a:b", InvalidTransactionIdKind::Colon));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTransactionId {
    text: String,
    kind: InvalidTransactionIdKind,
}

impl fmt::Display for InvalidTransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, kind } = self;
        write!(f, "{text:?} can't be a transaction id: {kind}")
    }
}

impl core::error::Error for InvalidTransactionId {}

impl InvalidTransactionId {
    pub(super) fn new(text: &str, kind: InvalidTransactionIdKind) -> Self {
        Self { text: text::excerpt(text).to_owned(), kind }
    }

    /// The beginning of the text or of the part, at most 80 characters.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The reason.
    #[must_use]
    pub fn kind(&self) -> InvalidTransactionIdKind {
        self.kind
    }
}

/// The reasons of an [`InvalidTransactionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvalidTransactionIdKind {
    /// The text contains a space, which no command line can carry.
    Space,
    /// The text contains a line end.
    LineEnd,
    /// A qualifier contains a tab, which the Java client refuses.
    Tab,
    /// A session or a qualifier contains the separator of the parts.
    Colon,
    /// A qualifier is empty or consists of white space.
    BlankQualifier,
    /// The text starts with neither `TX:` nor `XID:`, and isn't `null`.
    Prefix,
    /// The text starts with `TX:`, and does not have three parts.
    LocalParts,
    /// The text starts with `XID:`, and does not have five parts.
    XaParts,
    /// The last part of a local id is not an `i32`.
    Number,
    /// The format id of an XA id is not an `i32`.
    FormatId,
    /// The gtrid or the bqual of an XA id is not hexadecimal.
    Hexadecimal,
    /// The text is a valid id, but not of a local transaction.
    NotLocal,
    /// The text is a valid id, but not of an XA transaction.
    NotXa,
}

impl fmt::Display for InvalidTransactionIdKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Space => "it contains a space",
            Self::LineEnd => "it contains a line end",
            Self::Tab => "it contains a tab",
            Self::Colon => "a part of it contains a colon",
            Self::BlankQualifier => "the qualifier is blank",
            Self::Prefix => "it starts with neither TX: nor XID:",
            Self::LocalParts => "a local id has three parts",
            Self::XaParts => "an XA id has five parts",
            Self::Number => "its last part is not a number",
            Self::FormatId => "its format id is not a number",
            Self::Hexadecimal => "one of its identifiers is not hexadecimal",
            Self::NotLocal => "it is not the id of a local transaction",
            Self::NotXa => "it is not the id of an XA transaction",
        })
    }
}

impl core::error::Error for InvalidTransactionIdKind {}
