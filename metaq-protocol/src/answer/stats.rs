//! Statistics.

use alloc::borrow::Cow;

use crate::text;

/// Reads the body of the answer to a [`StatsCommand`](crate::StatsCommand), line by line: key and value.
///
/// ```text
/// << result 200 36 70\r\nSTATS\r\npid 32025\r\nversion 0.1\r\nEND\r\n
/// ```
///
/// A line without a space has no value, and neither has one that starts with a space. So the lines
/// `STATS` and `END` round the figures are there too, and a key may come twice; the Java client
/// keeps the last of them.
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

/// The lines of a body, split at CR LF as Java's `String.split` does: empty ones at the end don't
/// count, yet an empty body is one empty line.
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
