//! Names of transactions.

use alloc::{borrow::ToOwned, format, string::String, sync::Arc, vec::Vec};
use core::{fmt, fmt::Write as _, str::FromStr};

use crate::{number, text, token};

/// The name of a transaction, in the text form of wire rule 7.
///
/// ```text
/// null                                     no id
/// TX:192.0.2.2-1795395395840-1:1           local: session and number
/// XID:1:6774726964:6271:XAMessageProducer  XA: format id, gtrid, bqual, qualifier
/// ```
///
/// Reading follows Java, with one exception: a space is refused, since no command line can carry it.
///
/// ```
/// use metaq_protocol::TransactionId;
///
/// let id = TransactionId::xa(100, b"g", b"br", "uq")?;
/// assert_eq!(id.to_string(), "XID:100:67:6272:uq");
/// assert_eq!("XID:100:67:6272:uq".parse(), Ok(id));
/// # Ok::<(), metaq_protocol::InvalidTransactionId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TransactionId {
    /// No id, written `null`. A `put` with it is refused by the broker; `RECOVER` is sent with it.
    Null,
    /// A transaction of one connection.
    Local(LocalTransactionId),
    /// A branch of a distributed transaction.
    Xa(XaTransactionId),
}

impl TransactionId {
    /// The local transaction `number` of the session `session`.
    ///
    /// # Errors
    /// [`InvalidTransactionId`] when the session holds `:`, a space or a line end: Java writes such
    /// an id, and no peer can read it.
    pub fn local(session: &str, number: i32) -> Result<Self, InvalidTransactionId> {
        match part_fault(session) {
            None => Ok(Self::Local(LocalTransactionId::from_parts(session, number))),
            Some(fault) => Err(InvalidTransactionId::new(session, fault)),
        }
    }

    /// The branch `bqual` of the distributed transaction `gtrid`.
    ///
    /// # Errors
    /// [`InvalidTransactionId`] when the qualifier is blank, or holds `:`, a space, a tab or a line end.
    pub fn xa(
        format_id: i32,
        gtrid: &[u8],
        bqual: &[u8],
        qualifier: &str,
    ) -> Result<Self, InvalidTransactionId> {
        if qualifier.trim().is_empty() {
            return Err(InvalidTransactionId::new(qualifier, "the qualifier is blank"));
        }
        match part_fault(qualifier) {
            // A command line carries it, and the Java client's setter doesn't.
            _ if qualifier.contains('\t') => Err(InvalidTransactionId::new(qualifier, "it contains a tab")),
            None => Ok(Self::Xa(XaTransactionId::from_parts(format_id, gtrid, bqual, qualifier))),
            Some(fault) => Err(InvalidTransactionId::new(qualifier, fault)),
        }
    }

    /// The text form, as it stands in a command line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Null => "null",
            Self::Local(id) => id.as_str(),
            Self::Xa(id) => id.as_str(),
        }
    }
}

fn part_fault(part: &str) -> Option<&'static str> {
    if part.contains(':') {
        return Some("a part of it contains a colon");
    }
    match token::check(part) {
        Err(token::TokenFault::Space) => Some("it contains a space"),
        Err(token::TokenFault::LineEnd) => Some("it contains a line end"),
        _ => None,
    }
}

/// A local transaction, `TX:session:number`: the seventh word of
/// `put test 1 5 0 607740173 TX:h-1:1 9\r\nin tx`. It belongs to one connection and is rolled back when
/// that closes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalTransactionId {
    text: Arc<str>,
    number: i32,
}

impl LocalTransactionId {
    fn from_parts(session: &str, number: i32) -> Self {
        Self { text: format!("TX:{session}:{number}").into(), number }
    }

    /// The session that began it. May be empty.
    #[must_use]
    pub fn session(&self) -> &str {
        self.text.split(':').nth(1).unwrap_or_default()
    }

    /// Its number within the session.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.number
    }

    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// A branch of a distributed transaction, `XID:format:gtrid:bqual:qualifier`, the two in the middle
/// in hexadecimal: the seventh word of `put test 1 5 0 1827112641 XID:1:67:6271:uq 9\r\nin xa`. It survives its connection.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct XaTransactionId {
    text: Arc<str>,
    format_id: i32,
}

impl XaTransactionId {
    fn from_parts(format_id: i32, gtrid: &[u8], bqual: &[u8], qualifier: &str) -> Self {
        let mut text = format!("XID:{format_id}:");
        for part in [gtrid, bqual] {
            for byte in part {
                // Writing to a string can't fail.
                let _ = write!(text, "{byte:02x}");
            }
            text.push(':');
        }
        text.push_str(qualifier);
        Self { text: text.into(), format_id }
    }

    fn part(&self, index: usize) -> &str {
        self.text.split(':').nth(index).unwrap_or_default()
    }

    /// The format of the two identifiers.
    #[must_use]
    pub fn format_id(&self) -> i32 {
        self.format_id
    }

    /// The global transaction identifier.
    #[must_use]
    pub fn gtrid(&self) -> Vec<u8> {
        read_hex(self.part(2)).unwrap_or_default()
    }

    /// The branch qualifier.
    #[must_use]
    pub fn bqual(&self) -> Vec<u8> {
        read_hex(self.part(3)).unwrap_or_default()
    }

    /// The name of the producer that began it. Empty only when it came from a peer.
    #[must_use]
    pub fn qualifier(&self) -> &str {
        self.part(4)
    }

    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for TransactionId {
    type Err = InvalidTransactionId;

    /// Reads the text form in any spelling that Java reads: leading zeros, capitals, signs, empty
    /// parts at the end.
    fn from_str(text: &str) -> Result<Self, InvalidTransactionId> {
        let refused = |fault| InvalidTransactionId::new(text, fault);
        if text.contains(' ') {
            return Err(refused("it contains a space"));
        }
        if text.contains("\r\n") {
            return Err(refused("it contains a line end"));
        }
        if text == "null" {
            return Ok(Self::Null);
        }
        if text.starts_with("XID:") {
            let mut parts = text.split(':').skip(1);
            let (Some(format_id), Some(gtrid), Some(bqual), Some(qualifier), None) =
                (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
            else {
                return Err(refused("an XA id has five parts"));
            };
            let format_id = number::parse_i32(format_id.as_bytes())
                .ok_or_else(|| refused("its format id is not a number"))?;
            let (Some(gtrid), Some(bqual)) = (read_hex(gtrid), read_hex(bqual)) else {
                return Err(refused("one of its identifiers is not hexadecimal"));
            };
            return Ok(Self::Xa(XaTransactionId::from_parts(format_id, &gtrid, &bqual, qualifier)));
        }
        if text.starts_with("TX:") {
            let mut parts = text.trim_end_matches(':').split(':').skip(1);
            let (Some(session), Some(number), None) = (parts.next(), parts.next(), parts.next()) else {
                return Err(refused("a local id has three parts"));
            };
            let number = number::parse_i32(number.as_bytes())
                .ok_or_else(|| refused("its last part is not a number"))?;
            return Ok(Self::Local(LocalTransactionId::from_parts(session, number)));
        }
        Err(refused("it starts with neither TX: nor XID:"))
    }
}

/// Reads pairs of hexadecimal digits as Java does: each with `Integer.parseInt(pair, 16)`, which
/// takes a sign, and without an odd digit at the end. Pairs are of UTF-16 units, as in Java.
fn read_hex(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    let mut chars = text.chars();
    while let Some(first) = chars.next() {
        if first.len_utf16() > 1 {
            return None;
        }
        let Some(second) = chars.next() else {
            break;
        };
        let second = number::hex_digit(second)?;
        bytes.push(match first {
            '+' => second,
            '-' => second.wrapping_neg(),
            first => number::hex_digit(first)? << 4 | second,
        });
    }
    Some(bytes)
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for LocalTransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Debug for XaTransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// A text or a part that can't be the name of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} can't be a transaction id: {fault}")]
pub struct InvalidTransactionId {
    text: String,
    fault: &'static str,
}

impl InvalidTransactionId {
    fn new(text: &str, fault: &'static str) -> Self {
        Self { text: text::excerpt(text).to_owned(), fault }
    }
}
