//! Header lines of responses (protocol §4).

use bytes::Bytes;

use super::{DecodeError, Limits, ResponseKind, line::Words};
use crate::{BooleanCommand, DataCommand, Opaque, Response, Status};

/// The header line of a response.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponseHead {
    pub(super) kind: ResponseKind,
    pub(super) opaque: Opaque,
    /// Length of the line, CR LF included.
    pub(super) head_len: usize,
    pub(super) body_len: usize,
}

impl ResponseHead {
    /// `result status length opaque`
    pub(super) fn result(words: &Words<'_>, max_body: usize) -> Result<Self, DecodeError> {
        let body_len = words.body_len(2, max_body)?;
        let status = Status(words.i32(1, "status")?);
        Ok(Self {
            kind: ResponseKind::Boolean(status),
            opaque: Opaque(words.i32(3, "opaque")?),
            head_len: words.head_len(),
            body_len,
        })
    }

    /// `value length opaque`
    pub(super) fn value(words: &Words<'_>, max_body: usize) -> Result<Self, DecodeError> {
        let body_len = words.body_len(1, max_body)?;
        Ok(Self {
            kind: ResponseKind::Data,
            opaque: Opaque(words.i32(2, "opaque")?),
            head_len: words.head_len(),
            body_len,
        })
    }

    /// The fast path for the form that brokers write: `result`, three plain numbers, CR LF. Returns `None`
    /// for anything else, which the general path decodes.
    #[inline(always)]
    pub(super) fn plain_result(src: &[u8], limits: &Limits) -> Option<Self> {
        let rest = src.strip_prefix(b"result ")?;
        let (status, rest) = plain_number(rest)?;
        let (length, rest) = plain_number(rest.strip_prefix(b" ")?)?;
        let rest = rest.strip_prefix(b" ")?;
        let (opaque, rest) = match rest.strip_prefix(b"-") {
            Some(rest) => plain_number(rest).map(|(number, rest)| (-number, rest))?,
            None => plain_number(rest)?,
        };
        let rest = rest.strip_prefix(b"\r\n")?;
        let head = Self {
            kind: ResponseKind::Boolean(Status(i32::try_from(status).ok()?)),
            opaque: Opaque(i32::try_from(opaque).ok()?),
            head_len: src.len() - rest.len(),
            body_len: usize::try_from(i32::try_from(length).ok()?).ok()?,
        };
        (head.body_len <= limits.max_body && head.head_len - 2 <= limits.max_line).then_some(head)
    }

    /// Creates the response with this body.
    #[inline]
    pub(super) fn with_body(&self, body: Bytes) -> Response {
        match self.kind {
            ResponseKind::Boolean(status) => BooleanCommand::new(status, body, self.opaque).into(),
            ResponseKind::Data => DataCommand::new(body, self.opaque).into(),
        }
    }
}

/// Parses one to ten digits.
#[inline]
pub(super) fn plain_number(src: &[u8]) -> Option<(i64, &[u8])> {
    let mut number = 0_i64;
    let mut used = 0;
    for byte in src.iter().take(10) {
        let value = byte.wrapping_sub(b'0');
        if value > 9 {
            break;
        }
        number = number * 10 + i64::from(value);
        used += 1;
    }
    (used > 0).then(|| (number, &src[used..]))
}
