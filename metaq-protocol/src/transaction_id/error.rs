//! The error of an invalid transaction id.

use alloc::{borrow::ToOwned, string::String};

use crate::text;

/// The error of a text or a part that can't be the name of a transaction.
///
/// ```
/// use metaq_protocol::{InvalidTransactionIdKind, TransactionId};
///
/// let error = TransactionId::local("a:b", 1).unwrap_err();
/// assert_eq!((error.text(), error.kind()), ("a:b", InvalidTransactionIdKind::Colon));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} can't be a transaction id: {kind}")]
pub struct InvalidTransactionId {
    text: String,
    kind: InvalidTransactionIdKind,
}

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTransactionIdKind {
    /// The text contains a space, which no command line can carry.
    #[error("it contains a space")]
    Space,
    /// The text contains a line end.
    #[error("it contains a line end")]
    LineEnd,
    /// A qualifier contains a tab, which the Java client refuses.
    #[error("it contains a tab")]
    Tab,
    /// A session or a qualifier contains the separator of the parts.
    #[error("a part of it contains a colon")]
    Colon,
    /// A qualifier is empty or consists of white space.
    #[error("the qualifier is blank")]
    BlankQualifier,
    /// The text starts with neither `TX:` nor `XID:`, and isn't `null`.
    #[error("it starts with neither TX: nor XID:")]
    Prefix,
    /// The text starts with `TX:`, and does not have three parts.
    #[error("a local id has three parts")]
    LocalParts,
    /// The text starts with `XID:`, and does not have five parts.
    #[error("an XA id has five parts")]
    XaParts,
    /// The last part of a local id is not an `i32`.
    #[error("its last part is not a number")]
    Number,
    /// The format id of an XA id is not an `i32`.
    #[error("its format id is not a number")]
    FormatId,
    /// The gtrid or the bqual of an XA id is not hexadecimal.
    #[error("one of its identifiers is not hexadecimal")]
    Hexadecimal,
    /// The text is a valid id, but not of a local transaction.
    #[error("it is not the id of a local transaction")]
    NotLocal,
    /// The text is a valid id, but not of an XA transaction.
    #[error("it is not the id of an XA transaction")]
    NotXa,
}
