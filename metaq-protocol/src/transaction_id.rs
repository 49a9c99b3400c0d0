//! Names of transactions.

use alloc::{format, sync::Arc, vec::Vec};
use core::{fmt, fmt::Write as _};

use crate::{InvalidTokenKind, token};

mod error;
mod parse;

pub use error::{InvalidTransactionId, InvalidTransactionIdKind};

use error::InvalidTransactionIdKind as Kind;
use parse::read_hex;

/// The name of a transaction in its text form.
///
/// ```text
/// null                                     no id
/// TX:192.0.2.2-1795395395840-1:1           local: session and number
/// XID:1:6774726964:6271:XAMessageProducer  XA: format id, gtrid, bqual, qualifier
/// ```
///
/// Parsing follows Java, with one exception: a space is refused, because no command line can carry it.
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
    /// No id, written `null`. A broker refuses a `put` with it; `RECOVER` is sent with it.
    Null,
    /// A transaction of one connection.
    Local(LocalTransactionId),
    /// A branch of a distributed transaction.
    Xa(XaTransactionId),
}

impl TransactionId {
    /// Creates the local transaction `number` of the session `session`; see [`LocalTransactionId::new`].
    ///
    /// # Errors
    /// [`InvalidTransactionId`] when the session contains `:`, a space or a line end.
    pub fn local(session: &str, number: i32) -> Result<Self, InvalidTransactionId> {
        LocalTransactionId::new(session, number).map(Self::Local)
    }

    /// Creates the branch `bqual` of the distributed transaction `gtrid`; see [`XaTransactionId::new`].
    ///
    /// # Errors
    /// [`InvalidTransactionId`] when the qualifier is blank, or contains `:`, a space, a tab or a line end.
    pub fn xa(
        format_id: i32,
        gtrid: &[u8],
        bqual: &[u8],
        qualifier: &str,
    ) -> Result<Self, InvalidTransactionId> {
        XaTransactionId::new(format_id, gtrid, bqual, qualifier).map(Self::Xa)
    }

    /// The text form, as in a command line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Null => "null",
            Self::Local(id) => id.as_str(),
            Self::Xa(id) => id.as_str(),
        }
    }
}

/// Refuses a session or a qualifier that can't be one part of an id.
fn check_part(part: &str) -> Result<(), InvalidTransactionId> {
    let kind = match token::check(part) {
        _ if part.contains(':') => Kind::Colon,
        Err(InvalidTokenKind::Space) => Kind::Space,
        Err(InvalidTokenKind::LineEnd) => Kind::LineEnd,
        _ => return Ok(()),
    };
    Err(InvalidTransactionId::new(part, kind))
}

/// A local transaction, `TX:session:number`: the seventh word of `put test 1 5 0 607740173 TX:h-1:1 9\r\nin
/// tx`. It belongs to one connection. Once that is closed it can't be committed any more, and the broker
/// keeps its messages until the timeout set at its beginning.
///
/// ```
/// use metaq_protocol::LocalTransactionId;
///
/// let id = LocalTransactionId::new("h-1", 7)?;
/// assert_eq!((id.as_str(), id.session(), id.number()), ("TX:h-1:7", "h-1", 7));
/// assert_eq!("TX:h-1:7".parse(), Ok(id));
/// # Ok::<(), metaq_protocol::InvalidTransactionId>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalTransactionId {
    text: Arc<str>,
    number: i32,
}

impl LocalTransactionId {
    /// Creates the local transaction `number` of the session `session`.
    ///
    /// # Errors
    /// [`InvalidTransactionId`] when the session contains `:`, a space or a line end: Java writes such an id,
    /// and no peer can parse it.
    pub fn new(session: &str, number: i32) -> Result<Self, InvalidTransactionId> {
        check_part(session)?;
        Ok(Self::from_parts(session, number))
    }

    fn from_parts(session: &str, number: i32) -> Self {
        Self { text: format!("TX:{session}:{number}").into(), number }
    }

    /// The session that began the transaction. May be empty.
    #[must_use]
    pub fn session(&self) -> &str {
        self.text.split(':').nth(1).unwrap_or_default()
    }

    /// The number within the session.
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

/// A branch of a distributed transaction, `XID:format:gtrid:bqual:qualifier`, with gtrid and bqual in
/// hexadecimal: the seventh word of `put test 1 5 0 1827112641 XID:1:67:6271:uq 9\r\nin xa`. It survives its
/// connection.
///
/// ```
/// use metaq_protocol::XaTransactionId;
///
/// let id = XaTransactionId::new(1, b"g", b"bq", "uq")?;
/// assert_eq!((id.as_str(), id.gtrid(), id.qualifier()), ("XID:1:67:6271:uq", b"g".to_vec(), "uq"));
/// assert_eq!("XID:1:67:6271:uq".parse(), Ok(id));
/// # Ok::<(), metaq_protocol::InvalidTransactionId>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct XaTransactionId {
    text: Arc<str>,
    format_id: i32,
}

impl XaTransactionId {
    /// Creates the branch `bqual` of the distributed transaction `gtrid`, begun by the producer `qualifier`.
    ///
    /// # Errors
    /// [`InvalidTransactionId`] when the qualifier is blank, or contains `:`, a space, a tab or a line end.
    pub fn new(
        format_id: i32,
        gtrid: &[u8],
        bqual: &[u8],
        qualifier: &str,
    ) -> Result<Self, InvalidTransactionId> {
        if qualifier.trim().is_empty() {
            return Err(InvalidTransactionId::new(qualifier, Kind::BlankQualifier));
        }
        // A command line can carry a tab, but the Java client's setter refuses it.
        if qualifier.contains('\t') {
            return Err(InvalidTransactionId::new(qualifier, Kind::Tab));
        }
        check_part(qualifier)?;
        Ok(Self::from_parts(format_id, gtrid, bqual, qualifier))
    }

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

    /// The name of the producer that began the branch. Empty only when received so.
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

impl From<LocalTransactionId> for TransactionId {
    fn from(id: LocalTransactionId) -> Self {
        Self::Local(id)
    }
}

impl From<XaTransactionId> for TransactionId {
    fn from(id: XaTransactionId) -> Self {
        Self::Xa(id)
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for LocalTransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for XaTransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
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
