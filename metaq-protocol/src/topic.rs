//! Names of topics.

use alloc::{borrow::ToOwned, string::String, sync::Arc};
use core::{borrow::Borrow, fmt, ops::Deref, str::FromStr};

use crate::{
    text,
    token::{self, InvalidTokenKind},
};

/// The name of a topic: one token of a command line.
///
/// A name is at least one character long and contains no space and no line end, because the text protocol has
/// no escaping (the Java client writes such names and thereby breaks the framing of the stream). Names
/// outside ASCII are allowed. A received name may be empty, or contain a lone CR or LF.
///
/// Cloning is cheap: the text is shared.
///
/// ```text
/// put orders 1 5 0 907060870 1\r\nhello
///     ^ topic
/// ```
///
/// ```
/// use metaq_protocol::Topic;
///
/// let topic: Topic = "orders".parse()?;
/// assert_eq!(topic.as_str(), "orders");
/// assert!("two words".parse::<Topic>().is_err());
/// # Ok::<(), metaq_protocol::InvalidTopic>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Checks `name` and creates a topic.
    ///
    /// # Errors
    /// [`InvalidTopic`] when the name is empty or contains a space, a carriage return or a line feed.
    pub fn new(name: &str) -> Result<Self, InvalidTopic> {
        match token::check(name) {
            Ok(()) => Ok(Self(name.into())),
            Err(kind) => Err(InvalidTopic { name: text::excerpt(name).to_owned(), kind }),
        }
    }

    /// Creates a topic from a word of a received line, which can't break the framing.
    pub(crate) fn received(bytes: &[u8]) -> Self {
        Self(text::from_utf8_lossy(bytes).into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true if both share the same text in memory. May be false for equal topics.
    #[must_use]
    pub fn ptr_eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The error of a text that can't be the name of a topic.
///
/// ```
/// use metaq_protocol::{InvalidTokenKind, Topic};
///
/// let error = Topic::new("two words").unwrap_err();
/// assert_eq!((error.text(), error.kind()), ("two words", InvalidTokenKind::Space));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTopic {
    name: String,
    kind: InvalidTokenKind,
}

impl fmt::Display for InvalidTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kind } = self;
        write!(f, "the topic name {name:?} {kind}; a name is one word without spaces or line ends")
    }
}

impl core::error::Error for InvalidTopic {}

impl InvalidTopic {
    /// The beginning of the text, at most 80 characters.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.name
    }

    /// The reason.
    #[must_use]
    pub fn kind(&self) -> InvalidTokenKind {
        self.kind
    }
}

impl FromStr for Topic {
    type Err = InvalidTopic;

    fn from_str(name: &str) -> Result<Self, InvalidTopic> {
        Self::new(name)
    }
}

impl TryFrom<&str> for Topic {
    type Error = InvalidTopic;

    fn try_from(name: &str) -> Result<Self, InvalidTopic> {
        Self::new(name)
    }
}

impl Deref for Topic {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Topic {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Topic {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Topic {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_one_token_cannot_carry() {
        for (name, kind) in [
            ("", InvalidTokenKind::Empty),
            ("a b", InvalidTokenKind::Space),
            ("a\r\nquit", InvalidTokenKind::LineEnd),
            ("a\n", InvalidTokenKind::LineEnd),
        ] {
            let error = Topic::new(name).unwrap_err();
            assert_eq!((error.text(), error.kind()), (name, kind));
        }
        assert!(Topic::new("主题").is_ok());
        assert!(Topic::new("dyn*").is_ok());
    }
}
