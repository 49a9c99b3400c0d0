//! Names of topics.

use alloc::sync::Arc;
use core::{borrow::Borrow, fmt, ops::Deref, str::FromStr};

/// The name of a topic: one token of a command line.
///
/// A name is at least one character long and holds no space and no line end, because the text
/// protocol has no way to escape them (rule K-33: the Java client writes such names and
/// thereby puts the stream out of step). Names outside ASCII are fine.
///
/// Cloning is cheap: the text is shared.
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
    /// Checks `name` and makes a topic of it.
    ///
    /// # Errors
    /// [`InvalidTopic`] when the name is empty or holds a space, a carriage return or a line feed.
    pub fn new(name: &str) -> Result<Self, InvalidTopic> {
        match check_token(name) {
            Ok(()) => Ok(Self(name.into())),
            Err(fault) => Err(InvalidTopic { fault }),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name as it came over the wire. A broker reads blank ones, too, and lone carriage returns and line feeds.
    pub(crate) fn received(name: &str) -> Self {
        Self(name.into())
    }

    /// Whether both share the same text in memory. Equal topics may still differ here.
    #[must_use]
    pub fn ptr_eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// One token of a command line: the name of a consumer group, an item of statistics, a transaction's key.
///
/// Like a [`Topic`], it is at least one character long and holds no space and no line end. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Word(Arc<str>);

impl Word {
    /// Checks `text` and makes a word of it.
    ///
    /// # Errors
    /// [`InvalidWord`] when the text is empty or holds a space, a carriage return or a line feed.
    pub fn new(text: &str) -> Result<Self, InvalidWord> {
        match check_token(text) {
            Ok(()) => Ok(Self(text.into())),
            Err(fault) => Err(InvalidWord { fault }),
        }
    }
}

impl Word {
    /// A word as it came over the wire, where blank ones may stand.
    pub(crate) fn received(text: &str) -> Self {
        Self(text.into())
    }
}

impl Deref for Word {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A text that can't be one token of a command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the word {fault}")]
pub struct InvalidWord {
    fault: TokenFault,
}

/// Says why `text` can't stand as one token of a command line, if it can't.
pub(crate) fn check_token(text: &str) -> Result<(), TokenFault> {
    if text.is_empty() {
        return Err(TokenFault::Empty);
    }
    match text.bytes().find(|byte| matches!(byte, b' ' | b'\r' | b'\n')) {
        None => Ok(()),
        Some(b' ') => Err(TokenFault::Space),
        Some(_) => Err(TokenFault::LineEnd),
    }
}

/// Why a text can't be one token of a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenFault {
    Empty,
    Space,
    LineEnd,
}

impl fmt::Display for TokenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "is empty",
            Self::Space => "contains a space",
            Self::LineEnd => "contains a line end",
        })
    }
}

/// A text that can't be the name of a topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the topic name {fault}; a name is one word without spaces or line ends")]
pub struct InvalidTopic {
    fault: TokenFault,
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
        for (name, fault) in [
            ("", TokenFault::Empty),
            ("a b", TokenFault::Space),
            ("a\r\nquit", TokenFault::LineEnd),
            ("a\n", TokenFault::LineEnd),
        ] {
            assert_eq!(Topic::new(name), Err(InvalidTopic { fault }), "{name:?}");
        }
        assert!(Topic::new("主题").is_ok());
        assert!(Topic::new("dyn*").is_ok());
    }
}
