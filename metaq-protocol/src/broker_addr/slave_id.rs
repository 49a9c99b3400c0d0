//! The number of a slave broker in the query of its address.

use alloc::{borrow::Cow, vec::Vec};

use super::InvalidBrokerAddrKind;
use crate::{number, text};

/// The last `slaveId` of a query such as `a=b&slaveId=3` (protocol §10). `None` for a master: without a
/// `slaveId`, or when it is blank or negative. Fails where Java fails.
pub(super) fn in_query(query: &str) -> Result<Option<i32>, InvalidBrokerAddrKind> {
    let mut found = None;
    for part in query.split('&') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        if value.contains('=') || part == "=" {
            return Err(InvalidBrokerAddrKind::QueryUnreadable);
        }
        if decoded(key)? == "slaveId" {
            let value = decoded(value)?;
            found = match value.trim() {
                "" => None,
                _ => {
                    let id = number::parse_i32(value.as_bytes()).ok_or(InvalidBrokerAddrKind::SlaveId)?;
                    Some(id).filter(|&id| id >= 0)
                }
            };
        }
    }
    Ok(found)
}

fn decoded(text: &str) -> Result<Cow<'_, str>, InvalidBrokerAddrKind> {
    from_form(text).ok_or(InvalidBrokerAddrKind::QueryUnreadable)
}

/// Decodes the encoding of HTML forms: `+` is a space, `%31` a byte.
fn from_form(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: &u8| number::hex_digit(char::from(*byte));
                bytes.push(digit(high)? << 4 | digit(low)?);
                rest = after;
            }
            (b'%', _) => return None,
            _ => bytes.push(*first),
        }
    }
    Some(Cow::Owned(text::from_utf8_lossy(&bytes).into_owned()))
}
