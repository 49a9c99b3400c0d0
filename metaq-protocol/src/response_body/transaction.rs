//! Responses to `transaction`.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;

use bytes::Bytes;

use super::{InvalidResponse, stats::lines};
use crate::{BooleanCommand, XaTransactionId, number, text};

/// The body of a `result 200` to `PREPARE`: the remaining work.
///
/// ```text
/// << result 200 1 -2147483635\r\n0
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a plain number with a name")]
pub struct PrepareVote(pub i32);

impl PrepareVote {
    /// Prepared: must be committed or rolled back.
    pub const PREPARED: Self = Self(0);
    /// The transaction was empty, and has been removed.
    pub const READ_ONLY: Self = Self(3);

    /// Parses a body.
    ///
    /// # Errors
    /// [`InvalidResponse`] when the body is not a number.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidResponse> {
        match number::parse_i32(body) {
            Some(vote) => Ok(Self(vote)),
            None => Err(InvalidResponse::new("PREPARE", "vote", "a number", body)),
        }
    }
}

/// Writes the body of the response to `RECOVER`: the counterpart of [`parse_recovered`]. Empty without ids.
///
/// ```
/// use metaq_protocol::{XaTransactionId, encode_recovered, parse_recovered};
///
/// let ids = [XaTransactionId::new(1, b"g", b"b", "uq")?, XaTransactionId::new(1, b"h", b"b", "uq")?];
/// let body = encode_recovered(&ids);
/// assert_eq!(body, "XID:1:67:62:uq\r\nXID:1:68:62:uq");
/// assert!(parse_recovered(&body).eq(ids.map(Ok)));
/// # Ok::<(), metaq_protocol::InvalidTransactionId>(())
/// ```
pub fn encode_recovered<'a>(ids: impl IntoIterator<Item = &'a XaTransactionId>) -> Bytes {
    let mut body = Vec::new();
    for id in ids {
        if !body.is_empty() {
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(id.as_str().as_bytes());
    }
    body.into()
}

/// Parses the body of the response to `RECOVER`: the ids of prepared transactions, one per line.
///
/// ```text
/// << result 200 42 -2147483634\r\nXID:1:6774726964:6271:XAMessageProducer-vm
/// ```
///
/// Blank lines are skipped. A line that is not an XA id is an [`InvalidResponse`]; the Java client drops it
/// and all lines after it.
///
/// ```
/// use metaq_protocol::parse_recovered;
///
/// let ids: Result<Vec<_>, _> = parse_recovered(b"XID:1:67:62:uq\r\nXID:1:68:62:uq").collect();
/// assert_eq!(ids?[1].gtrid(), [0x68]);
/// # Ok::<(), metaq_protocol::InvalidResponse>(())
/// ```
pub fn parse_recovered(body: &[u8]) -> impl Iterator<Item = Result<XaTransactionId, InvalidResponse>> {
    lines(body).filter(|line| !line.trim_ascii().is_empty()).map(|line| {
        let id = text::from_utf8_lossy(line).parse();
        id.map_err(|_| InvalidResponse::new("RECOVER", "line", "an XA transaction id", line))
    })
}

/// The reason why a broker refused a step of an XA transaction.
///
/// ```text
/// << result 500 95 5\r\nXAException:code=-4,msg=XA transaction 'XID:2:71:72:uq' has not been started.
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct XaError {
    /// The code of the `XAException`.
    pub code: i32,
    /// The text. May be empty.
    pub message: String,
}

impl XaError {
    /// The broker failed; also the code for a response without one.
    pub const RMERR: i32 = -3;
    /// The transaction is unknown.
    pub const NOTA: i32 = -4;
    /// The state of the transaction doesn't allow this step.
    pub const PROTO: i32 = -6;

    /// Creates an error with a code of `XAException`.
    #[must_use]
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Parses the response to an XA step: `None` when it is a success.
    ///
    /// As in the Java client, a body that starts with `XAException:` and contains `code=N,msg=TEXT` yields
    /// that code and the text up to the end of the line. Any other body yields [`RMERR`](Self::RMERR) with
    /// the whole body.
    #[must_use]
    pub fn from_response(response: &BooleanCommand) -> Option<Self> {
        if response.status.is_success() {
            return None;
        }
        let body = response.text();
        let found = body.strip_prefix("XAException:").and_then(find_code);
        Some(found.unwrap_or_else(|| Self::new(Self::RMERR, body)))
    }

    /// The body in wire format.
    #[must_use]
    pub fn to_body(&self) -> String {
        self.to_string()
    }
}

/// Finds `code=(-?\d+),msg=(.*)`, where a line end stops the `.`.
fn find_code(body: &str) -> Option<XaError> {
    body.match_indices("code=").find_map(|(at, key)| {
        let rest = &body[at + key.len()..];
        let sign = usize::from(rest.starts_with('-'));
        let digits = rest[sign..].bytes().take_while(u8::is_ascii_digit).count();
        let (code, rest) = rest.split_at(sign + digits);
        let message = rest.strip_prefix(",msg=")?;
        let end = message.find(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).unwrap_or(message.len());
        Some(XaError::new(number::parse_i32(code.as_bytes())?, &message[..end]))
    })
}

impl fmt::Display for XaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "XAException:code={},msg={}", self.code, self.message)
    }
}

impl core::error::Error for XaError {}
