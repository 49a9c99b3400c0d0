//! Words of a command line.

use alloc::{borrow::ToOwned, string::String, sync::Arc};
use core::{borrow::Borrow, fmt, ops::Deref, str::FromStr};

use crate::text;

/// One word of a command line: the name of a consumer group, a statistics item, a session id or a
/// qualifier.
///
/// On the wire a word ends at the next space and the line at the next CR LF, and nothing can be
/// escaped. So a `Token` made by a program is at least one character long and holds
/// no space and no line end. One that came from a peer may be empty, or hold a lone CR or LF.
///
/// Cloning is cheap: the text is shared.
///
/// ```text
/// get test billing 0 0 1024 42\r\n           the consumer group
/// stats topics 70\r\n                        the item
/// transaction TX:h-1:1 h-1 BEGIN uq 5\r\n    session h-1, qualifier uq
/// ```
///
/// ```
/// use metaq_protocol::Token;
///
/// let group: Token = "billing".parse()?;
/// assert_eq!(group.as_str(), "billing");
/// assert!("two words".parse::<Token>().is_err());
/// # Ok::<(), metaq_protocol::InvalidToken>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(Arc<str>);

impl Token {
    /// Checks `text` and makes a word of it.
    ///
    /// # Errors
    /// [`InvalidToken`] when the text is empty or holds a space, a carriage return or a line feed.
    pub fn new(text: &str) -> Result<Self, InvalidToken> {
        match check(text) {
            Ok(()) => Ok(Self(text.into())),
            Err(kind) => Err(InvalidToken::new(text, kind)),
        }
    }

    /// A word that was cut out of a received line, and so can't put a line out of step.
    pub(crate) fn received(bytes: &[u8]) -> Self {
        Self(text::from_utf8_lossy(bytes).into())
    }

    /// The word as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Says why `text` can't stand as one token of a command line, if it can't.
pub(crate) fn check(text: &str) -> Result<(), InvalidTokenKind> {
    if text.is_empty() {
        return Err(InvalidTokenKind::Empty);
    }
    match text.bytes().find(|byte| matches!(byte, b' ' | b'\r' | b'\n')) {
        None => Ok(()),
        Some(b' ') => Err(InvalidTokenKind::Space),
        Some(_) => Err(InvalidTokenKind::LineEnd),
    }
}

/// The reasons why a text can't be one token of a command line: the faults of an [`InvalidToken`] or an
/// [`InvalidTopic`](crate::InvalidTopic).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTokenKind {
    /// It is empty.
    #[error("is empty")]
    Empty,
    /// It holds a space, where it would end.
    #[error("contains a space")]
    Space,
    /// It holds a carriage return or a line feed.
    #[error("contains a line end")]
    LineEnd,
    /// A qualifier is all digits, and there is no timeout beside it; see
    /// [`TransactionCommand::with_qualifier`](crate::TransactionCommand::with_qualifier).
    #[error("is all digits and would be read as a timeout, since there is none")]
    TakenForTimeout,
}

/// A text that can't be one word of a command line.
///
/// ```
/// use metaq_protocol::{InvalidTokenKind, Token};
///
/// let error = Token::new("two words").unwrap_err();
/// assert_eq!((error.text(), error.kind()), ("two words", InvalidTokenKind::Space));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the word {text:?} {kind}; a command line has no way to carry it")]
pub struct InvalidToken {
    text: String,
    kind: InvalidTokenKind,
}

impl InvalidToken {
    pub(crate) fn new(text: &str, kind: InvalidTokenKind) -> Self {
        Self { text: text::excerpt(text).to_owned(), kind }
    }

    /// The beginning of the text, at most 80 characters.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The fault.
    #[must_use]
    pub fn kind(&self) -> InvalidTokenKind {
        self.kind
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        Self::new(text)
    }
}

impl TryFrom<&str> for Token {
    type Error = InvalidToken;

    fn try_from(text: &str) -> Result<Self, InvalidToken> {
        Self::new(text)
    }
}

impl Deref for Token {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Token {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Token {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Token {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Token {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}
