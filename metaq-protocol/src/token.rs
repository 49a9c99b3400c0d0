//! Words of a command line.

use alloc::{borrow::ToOwned, string::String, sync::Arc};
use core::{borrow::Borrow, fmt, ops::Deref, str::FromStr};

use crate::text;

/// One word of a command line: the name of a consumer group, a statistics item, a session id or a
/// qualifier.
///
/// On the wire a word ends at the next space and the line at the next CR LF, and there is no escaping. So a
/// `Token` created by a program is at least one character long and contains no space and no line end. A
/// received one may be empty, or contain a lone CR or LF.
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
    /// Checks `text` and creates a token.
    ///
    /// # Errors
    /// [`InvalidToken`] when the text is empty or contains a space, a carriage return or a line feed.
    pub fn new(text: &str) -> Result<Self, InvalidToken> {
        match check(text) {
            Ok(()) => Ok(Self(text.into())),
            Err(kind) => Err(InvalidToken::new(text, kind)),
        }
    }

    /// Creates a token from a word of a received line, which can't break the framing.
    pub(crate) fn received(bytes: &[u8]) -> Self {
        Self(text::from_utf8_lossy(bytes).into())
    }

    /// The word as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks that `text` can be one token of a command line.
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

/// The reasons why a text can't be one token of a command line: those of an [`InvalidToken`] or an
/// [`InvalidTopic`](crate::InvalidTopic).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvalidTokenKind {
    /// The text is empty.
    Empty,
    /// The text contains a space, where a word would end.
    Space,
    /// The text contains a carriage return or a line feed.
    LineEnd,
    /// A qualifier consists of digits, and there is no timeout; see
    /// [`TransactionCommand::with_qualifier`](crate::TransactionCommand::with_qualifier).
    TakenForTimeout,
}

impl fmt::Display for InvalidTokenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "is empty",
            Self::Space => "contains a space",
            Self::LineEnd => "contains a line end",
            Self::TakenForTimeout => "is all digits and would be taken for the timeout, which is not set",
        })
    }
}

impl core::error::Error for InvalidTokenKind {}

/// The error of a text that can't be one word of a command line.
///
/// ```
/// use metaq_protocol::{InvalidTokenKind, Token};
///
/// let error = Token::new("two words").unwrap_err();
/// assert_eq!((error.text(), error.kind()), ("two words", InvalidTokenKind::Space));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidToken {
    text: String,
    kind: InvalidTokenKind,
}

impl fmt::Display for InvalidToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, kind } = self;
        write!(f, "the word {text:?} {kind}; a command line has no way to carry it")
    }
}

impl core::error::Error for InvalidToken {}

impl InvalidToken {
    pub(crate) fn new(text: &str, kind: InvalidTokenKind) -> Self {
        Self { text: text::excerpt(text).to_owned(), kind }
    }

    /// The beginning of the text, at most 80 characters.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The reason.
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
