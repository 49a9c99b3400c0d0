//! The name by which a producer finds its XA transactions again.

use std::{fmt, str::FromStr};

use metaq_protocol::Token;

/// The name of a producer in its XA transactions. [`recover`](crate::xa::XaProducer::recover) finds those
/// that hold it, so it has to be the same after a restart, and no other producer may have it, whatever its
/// language: it would recover, and end, what is not its own.
///
/// So it comes from the program's configuration, one for each instance: `billing-1`, `billing-2`. There is
/// none made of the host's name, as the Java client has by default (`XAMessageProducer-HOST`): two programs
/// on one host have the same, so have containers of one name, and a pod that is restarted under another name
/// doesn't find its transactions again. A program that takes over from one in Java spells that client's
/// qualifier out.
///
/// ```
/// use metaq_producer::xa::UniqueQualifier;
///
/// let qualifier: UniqueQualifier = "billing-1".parse()?;
/// assert_eq!(qualifier.as_str(), "billing-1");
/// assert!("12345".parse::<UniqueQualifier>().is_err());
/// # Ok::<(), metaq_producer::xa::InvalidQualifier>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UniqueQualifier {
    token: Token,
}

impl UniqueQualifier {
    /// A name of one's own.
    ///
    /// # Errors
    /// [`InvalidQualifier`] when it is blank, holds a colon, a blank, a line end or anything but visible
    /// ASCII characters, or is all digits: a broker takes those for a timeout, and then recovers everybody's
    /// transactions.
    pub fn new(text: &str) -> Result<Self, InvalidQualifier> {
        let invalid = |fault| InvalidQualifier { text: text.chars().take(100).collect(), fault };
        if text.trim().is_empty() {
            return Err(invalid("it is blank"));
        }
        if text.contains(':') {
            return Err(invalid("it contains a colon"));
        }
        if !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(invalid(
                "it contains a blank, a line end, or another character than a visible one of ASCII",
            ));
        }
        if text.chars().all(|c| c.is_ascii_digit()) {
            return Err(invalid("it is all digits, which a broker takes for a timeout"));
        }
        Token::new(text).map(|token| Self { token }).map_err(|_| invalid("it is no word"))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.token.as_str()
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }
}

impl FromStr for UniqueQualifier {
    type Err = InvalidQualifier;

    fn from_str(text: &str) -> Result<Self, InvalidQualifier> {
        Self::new(text)
    }
}

impl fmt::Display for UniqueQualifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for UniqueQualifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A text that can't be a [`UniqueQualifier`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidQualifier {
    text: String,
    fault: &'static str,
}

impl fmt::Display for InvalidQualifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, fault } = self;
        write!(f, "{text:?} can't be a unique qualifier: {fault}")
    }
}

impl std::error::Error for InvalidQualifier {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_broker_or_a_java_client_misreads_is_refused() {
        for text in ["", " ", "\t", "a:b", "a b", "a\tb", "a\r\nb", "a\n", "ü", "12345", "0"] {
            assert!(UniqueQualifier::new(text).is_err(), "{text:?}: X-2, X-3, K-17, K-20");
        }
        for text in ["a", "1a", "-5", "XAMessageProducer-vm", "[x]"] {
            assert_eq!(UniqueQualifier::new(text).unwrap().as_str(), text, "X-2");
        }
    }
}
