//! Statistics.

use alloc::{
    borrow::{Cow, ToOwned},
    string::String,
    vec::Vec,
};
use core::fmt;

use bytes::Bytes;

use crate::{InvalidTokenKind, text, token};

/// Parses the body of the response to a [`StatsCommand`](crate::StatsCommand) line by line, as keys and
/// values.
///
/// ```text
/// << result 200 36 70\r\nSTATS\r\npid 32025\r\nversion 0.1\r\nEND\r\n
/// ```
///
/// A line without a space has no value, and neither has one that starts with a space. So the lines `STATS`
/// and `END` around the statistics are included, and a key may occur twice; the Java client keeps the last
/// occurrence.
///
/// ```
/// use metaq_protocol::parse_stats;
///
/// let body = b"STATS\r\npid 32025\r\nversion 0.1\r\nEND\r\n";
/// let (key, value) = parse_stats(body).nth(2).expect("four lines");
/// assert_eq!((&*key, value.as_deref()), ("version", Some("0.1")));
/// ```
pub fn parse_stats(body: &[u8]) -> impl Iterator<Item = (Cow<'_, str>, Option<Cow<'_, str>>)> {
    lines(body).map(|line| match line.iter().position(|&byte| byte == b' ') {
        Some(space) if space > 0 => {
            (text::from_utf8_lossy(&line[..space]), Some(text::from_utf8_lossy(&line[space + 1..])))
        }
        _ => (text::from_utf8_lossy(line), None),
    })
}

/// Writes the body of the response to a [`StatsCommand`](crate::StatsCommand): the counterpart of
/// [`parse_stats`]. Adds the lines `STATS` and `END` around the statistics.
///
/// ```
/// use metaq_protocol::{encode_stats, parse_stats};
///
/// let body = encode_stats([("pid", Some("32025")), ("orders", None)])?;
/// assert_eq!(body, "STATS\r\npid 32025\r\norders\r\nEND\r\n");
/// let (key, value) = parse_stats(&body).nth(1).expect("four lines");
/// assert_eq!((&*key, value.as_deref()), ("pid", Some("32025")));
/// # Ok::<(), metaq_protocol::InvalidStat>(())
/// ```
///
/// # Errors
/// [`InvalidStat`] when a key is empty or contains a space or a line end, or a value contains a line end:
/// parsed again, it would differ.
pub fn encode_stats<K: AsRef<str>, V: AsRef<str>>(
    figures: impl IntoIterator<Item = (K, Option<V>)>,
) -> Result<Bytes, InvalidStat> {
    let mut body = Vec::from(*b"STATS\r\n");
    for (key, value) in figures {
        let key = key.as_ref();
        token::check(key).map_err(|kind| InvalidStat::new(key, "key", kind))?;
        body.extend_from_slice(key.as_bytes());
        if let Some(value) = &value {
            let value = value.as_ref();
            if value.contains(['\r', '\n']) {
                return Err(InvalidStat::new(value, "value", InvalidTokenKind::LineEnd));
            }
            body.push(b' ');
            body.extend_from_slice(value.as_bytes());
        }
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"END\r\n");
    Ok(body.into())
}

/// The error of a key or a value that no line of statistics can carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidStat {
    field: &'static str,
    text: String,
    kind: InvalidTokenKind,
}

impl fmt::Display for InvalidStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, text, kind } = self;
        write!(f, "the {field} {text:?} {kind}; a line of statistics has no way to carry it")
    }
}

impl core::error::Error for InvalidStat {}

impl InvalidStat {
    fn new(text: &str, field: &'static str, kind: InvalidTokenKind) -> Self {
        Self { field, text: text::excerpt(text).to_owned(), kind }
    }

    /// The invalid part: `key` or `value`.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// The beginning of its text, at most 80 characters.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The reason.
    #[must_use]
    pub fn kind(&self) -> InvalidTokenKind {
        self.kind
    }
}

/// The lines of a body, split at CR LF as by Java's `String.split`: empty ones at the end are dropped, but an
/// empty body is one empty line.
pub(super) fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(body);
    while let Some(shorter) = rest.and_then(|rest| rest.strip_suffix(b"\r\n")) {
        rest = (!shorter.is_empty()).then_some(shorter);
    }
    core::iter::from_fn(move || {
        let left = rest?;
        match memchr::memmem::find(left, b"\r\n") {
            Some(end) => {
                rest = Some(&left[end + 2..]);
                Some(&left[..end])
            }
            None => rest.take(),
        }
    })
}
