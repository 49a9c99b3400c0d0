//! The name by which a producer finds its XA transactions again.

use std::{fmt, str::FromStr};

use metaq_protocol::Token;

use crate::transaction::HOST;

/// What the Java client puts before the host's name.
const DEFAULT_PREFIX: &str = "XAMessageProducer";

/// The name of a producer in its XA transactions. [`recover`](crate::XaProducer::recover) finds those that hold it, so it has
/// to be the same after a restart, and no other producer may have it, whatever its language: it would recover, and end, what
/// is not its own.
///
/// ```
/// use metaq_producer::UniqueQualifier;
///
/// let qualifier: UniqueQualifier = "billing-1".parse()?;
/// assert_eq!(qualifier.as_str(), "billing-1");
/// assert!("12345".parse::<UniqueQualifier>().is_err());
/// # Ok::<(), metaq_producer::InvalidQualifier>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UniqueQualifier {
    token: Token,
}

impl UniqueQualifier {
    /// A name of one's own.
    ///
    /// # Errors
    /// [`InvalidQualifier`] when it is blank, holds a colon, a blank, a line end or anything but visible ASCII characters, or is
    /// all digits: a broker takes those for a timeout, and then recovers everybody's transactions (rules X-2 and B-23, K-20).
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

    /// `PREFIX-HOST`, where HOST is what the operating system calls this host, with a dash for each character that a broker
    /// could misread.
    ///
    /// Two programs have the same qualifier when prefix and host name are the same: two on one host, and two on hosts that
    /// share a name, as containers and pods can. Each then [recovers](crate::XaProducer::recover) the other's transactions
    /// and may end them. A pod with a name of its own that is another after a restart doesn't find its transactions again.
    /// Where either can happen, use [`new`](Self::new) with a name from the program's configuration.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_prefix(prefix: &str) -> Result<Self, InvalidQualifier> {
        if prefix.trim().is_empty() {
            return Err(InvalidQualifier { text: String::new(), fault: "its prefix is blank" });
        }
        Self::new(&format!("{prefix}-{}", *HOST))
    }

    /// `XAMessageProducer-HOST`, as the Java client by default: for a program that takes over from one in Java, on a host where
    /// it is the only one that uses XA.
    ///
    /// Every program that does so has this qualifier on hosts of the same name, whatever its language; see
    /// [`with_prefix`](Self::with_prefix) for what happens when two of them meet. It is never chosen without being asked for.
    ///
    /// # Errors
    /// None that is known: names of hosts are made to fit.
    pub fn of_host() -> Result<Self, InvalidQualifier> {
        Self::with_prefix(DEFAULT_PREFIX)
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} can't be a unique qualifier: {fault}")]
pub struct InvalidQualifier {
    text: String,
    fault: &'static str,
}

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
        assert!(UniqueQualifier::with_prefix(" ").is_err(), "X-2");
        assert!(UniqueQualifier::with_prefix("a:b").is_err(), "X-2");
        let default = UniqueQualifier::of_host().unwrap();
        assert_eq!(default.as_str(), format!("XAMessageProducer-{}", *HOST), "X-2");
        assert_eq!(default, UniqueQualifier::of_host().unwrap(), "it is the same after a restart");
    }
}
