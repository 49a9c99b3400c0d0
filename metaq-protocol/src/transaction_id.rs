//! Ids of transactions, and their text form.

use alloc::{borrow::ToOwned, string::String, sync::Arc, vec::Vec};
use core::{fmt, str::FromStr};

use crate::{
    number::{parse_hex, parse_i32},
    text::number_len,
    topic::check_token,
};

/// The id of a transaction, as it stands in a command line (wire rule 7).
///
/// ```
/// use metaq_protocol::{LocalTransactionId, TransactionId};
///
/// let id = TransactionId::from(LocalTransactionId::new("192.0.2.2-1795395395840-1", 1)?);
/// assert_eq!(id.to_string(), "TX:192.0.2.2-1795395395840-1:1");
/// assert_eq!(id.to_string().parse(), Ok(id));
/// # Ok::<(), metaq_protocol::InvalidTransactionId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransactionId {
    /// `null`: no id.
    Null,
    /// `TX:session:number`: a transaction of one connection.
    Local(LocalTransactionId),
    /// `XID:format:global:branch:qualifier`: a branch of a distributed transaction.
    Xa(XaTransactionId),
}

/// The id of a transaction of one connection: `TX:session:number`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalTransactionId {
    session: Arc<str>,
    number: i32,
}

impl LocalTransactionId {
    /// Transaction `number` of the session `session`. The number is one of 32 bits, because brokers read no larger one
    /// (rule K-22).
    ///
    /// # Errors
    /// When the session is empty, or holds a colon, a space or a line end: brokers could not read it back (K-21).
    pub fn new(session: &str, number: i32) -> Result<Self, InvalidTransactionId> {
        check_part("session", session)?;
        Ok(Self { session: session.into(), number })
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &str {
        &self.session
    }

    /// The number of the transaction in its session.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.number
    }
}

/// The id of a branch of a distributed transaction: `XID:format:global:branch:qualifier`, the middle two in
/// hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct XaTransactionId {
    format_id: i32,
    global: Arc<[u8]>,
    branch: Arc<[u8]>,
    qualifier: Arc<str>,
}

impl XaTransactionId {
    /// The branch `branch` of the transaction `global`, both of which may be empty. `qualifier` says whose transactions
    /// these are, when a client asks for those it has to finish.
    ///
    /// # Errors
    /// When the qualifier is empty, or holds a colon, a space or a line end.
    pub fn new(
        format_id: i32,
        global: &[u8],
        branch: &[u8],
        qualifier: &str,
    ) -> Result<Self, InvalidTransactionId> {
        check_part("qualifier", qualifier)?;
        Ok(Self { format_id, global: global.into(), branch: branch.into(), qualifier: qualifier.into() })
    }

    /// The format id of the transaction manager.
    #[must_use]
    pub fn format_id(&self) -> i32 {
        self.format_id
    }

    /// The global transaction id.
    #[must_use]
    pub fn global(&self) -> &[u8] {
        &self.global
    }

    /// The branch qualifier.
    #[must_use]
    pub fn branch(&self) -> &[u8] {
        &self.branch
    }

    /// The unique qualifier: whose transaction it is.
    #[must_use]
    pub fn qualifier(&self) -> &str {
        &self.qualifier
    }
}

fn check_part(part: &'static str, text: &str) -> Result<(), InvalidTransactionId> {
    let refused =
        || InvalidTransactionId { text: crate::excerpt(text).to_owned(), problem: Problem::Part(part) };
    if check_token(text).is_err() || text.contains(':') {
        return Err(refused());
    }
    Ok(())
}

impl TransactionId {
    /// How many characters the text form has.
    pub(crate) fn text_len(&self) -> usize {
        match self {
            Self::Null => "null".len(),
            Self::Local(local) => "TX".len() + 1 + local.session.len() + number_len(local.number),
            Self::Xa(xa) => {
                let bytes = xa.global.len() + xa.branch.len();
                "XID".len() + number_len(xa.format_id) + 1 + 2 * bytes + 1 + 1 + xa.qualifier.len()
            }
        }
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Local(local) => write!(f, "TX:{}:{}", local.session, local.number),
            Self::Xa(xa) => {
                let (global, branch) = (Hex(&xa.global), Hex(&xa.branch));
                write!(f, "XID:{}:{global}:{branch}:{}", xa.format_id, xa.qualifier)
            }
        }
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for TransactionId {
    type Err = InvalidTransactionId;

    /// Reads the text form as Java does, which takes signs, capitals and an odd last digit in the hexadecimal parts.
    fn from_str(text: &str) -> Result<Self, InvalidTransactionId> {
        let refused = |problem| InvalidTransactionId { text: crate::excerpt(text).to_owned(), problem };
        if text.contains([' ', '\r', '\n']) {
            return Err(refused(Problem::Form));
        }
        if text == "null" {
            return Ok(Self::Null);
        }
        let mut parts: Vec<_> = text.split(':').collect();
        let number = |part: &str| parse_i32(part.as_bytes()).ok_or_else(|| refused(Problem::Number));
        match parts[0] {
            "XID" => {
                let [_, format_id, global, branch, qualifier] = parts[..] else {
                    return Err(refused(Problem::Form));
                };
                let bytes = |part: &str| parse_hex(part).ok_or_else(|| refused(Problem::Hex));
                Ok(Self::Xa(XaTransactionId {
                    format_id: number(format_id)?,
                    global: bytes(global)?.into(),
                    branch: bytes(branch)?.into(),
                    qualifier: qualifier.into(),
                }))
            }
            "TX" => {
                while parts.last().is_some_and(|part| part.is_empty()) {
                    parts.pop();
                }
                let [_, session, number_part] = parts[..] else { return Err(refused(Problem::Form)) };
                Ok(Self::Local(LocalTransactionId { session: session.into(), number: number(number_part)? }))
            }
            _ => Err(refused(Problem::Form)),
        }
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

/// A text that isn't the id of a transaction, or can't be a part of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {problem}")]
pub struct InvalidTransactionId {
    text: String,
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("can't be the {0} of a transaction id: it is empty or contains a colon, a space or a line end")]
    Part(&'static str),
    #[error(
        "is not a transaction id; expected null, TX:SESSION:NUMBER or XID:FORMAT:GLOBAL:BRANCH:QUALIFIER"
    )]
    Form,
    #[error("is not a transaction id: its number does not fit 32 bits, or is none")]
    Number,
    #[error("is not a transaction id: one of its parts is not hexadecimal")]
    Hex,
}
