//! Parsing of transaction ids (protocol §7).

use alloc::vec::Vec;
use core::str::FromStr;

use super::{InvalidTransactionId, Kind, LocalTransactionId, TransactionId, XaTransactionId};
use crate::number;

impl FromStr for TransactionId {
    type Err = InvalidTransactionId;

    /// Parses the text form in any spelling that Java accepts: leading zeros, capitals, signs, empty parts at
    /// the end.
    fn from_str(text: &str) -> Result<Self, InvalidTransactionId> {
        let refused = |kind| InvalidTransactionId::new(text, kind);
        if text.contains(' ') {
            return Err(refused(Kind::Space));
        }
        if text.contains("\r\n") {
            return Err(refused(Kind::LineEnd));
        }
        if text == "null" {
            return Ok(Self::Null);
        }
        if text.starts_with("XID:") {
            let mut parts = text.split(':').skip(1);
            let (Some(format_id), Some(gtrid), Some(bqual), Some(qualifier), None) =
                (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
            else {
                return Err(refused(Kind::XaParts));
            };
            let format_id = number::parse_i32(format_id.as_bytes()).ok_or_else(|| refused(Kind::FormatId))?;
            let (Some(gtrid), Some(bqual)) = (read_hex(gtrid), read_hex(bqual)) else {
                return Err(refused(Kind::Hexadecimal));
            };
            return Ok(Self::Xa(XaTransactionId::from_parts(format_id, &gtrid, &bqual, qualifier)));
        }
        if text.starts_with("TX:") {
            let mut parts = text.trim_end_matches(':').split(':').skip(1);
            let (Some(session), Some(number), None) = (parts.next(), parts.next(), parts.next()) else {
                return Err(refused(Kind::LocalParts));
            };
            let number = number::parse_i32(number.as_bytes()).ok_or_else(|| refused(Kind::Number))?;
            return Ok(Self::Local(LocalTransactionId::from_parts(session, number)));
        }
        Err(refused(Kind::Prefix))
    }
}

impl FromStr for LocalTransactionId {
    type Err = InvalidTransactionId;

    /// Parses `TX:session:number`, like [`TransactionId`].
    fn from_str(text: &str) -> Result<Self, InvalidTransactionId> {
        match text.parse()? {
            TransactionId::Local(id) => Ok(id),
            _ => Err(InvalidTransactionId::new(text, Kind::NotLocal)),
        }
    }
}

impl FromStr for XaTransactionId {
    type Err = InvalidTransactionId;

    /// Parses `XID:format:gtrid:bqual:qualifier`, like [`TransactionId`].
    fn from_str(text: &str) -> Result<Self, InvalidTransactionId> {
        match text.parse()? {
            TransactionId::Xa(id) => Ok(id),
            _ => Err(InvalidTransactionId::new(text, Kind::NotXa)),
        }
    }
}

/// Parses pairs of hexadecimal digits as Java does: each with `Integer.parseInt(pair, 16)`, which accepts a
/// sign, and ignoring an odd digit at the end. Pairs are of UTF-16 units, as in Java.
pub(super) fn read_hex(text: &str) -> Option<Vec<u8>> {
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
