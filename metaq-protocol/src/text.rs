//! Text as Java decodes it: invalid UTF-8 becomes U+FFFD (protocol §1.3).

use alloc::{borrow::Cow, string::String};

/// Decodes `bytes` as UTF-8, with one U+FFFD for each maximal invalid part.
///
/// One rule differs from [`String::from_utf8_lossy`]: a surrogate in three bytes is one part, not three.
pub(crate) fn from_utf8_lossy(bytes: &[u8]) -> Cow<'_, str> {
    match core::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(error) => Cow::Owned(replace_faults(bytes, error)),
    }
}

#[cold]
fn replace_faults(bytes: &[u8], mut error: core::str::Utf8Error) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        let (good, bad) = rest.split_at(error.valid_up_to());
        text.push_str(&String::from_utf8_lossy(good));
        text.push(char::REPLACEMENT_CHARACTER);
        let faulty = match bad {
            [0xed, 0xa0..=0xbf, 0x80..=0xbf, ..] => 3,
            [0xed, 0xa0..=0xbf, ..] => 2,
            _ => error.error_len().unwrap_or(bad.len()),
        };
        rest = &bad[faulty..];
        match core::str::from_utf8(rest) {
            Ok(good) => {
                text.push_str(good);
                return text;
            }
            Err(next) => error = next,
        }
    }
}

/// The first part of an external text, short enough for an error message.
pub(crate) fn excerpt(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_as_java_does() {
        for (bytes, text) in [
            (&b"abc"[..], "abc"),
            (b"a\xffb", "a\u{fffd}b"),
            (b"\xe4\xb8 x", "\u{fffd} x"),
            (b"\xe4\xb8", "\u{fffd}"),
            (b"\xc0\x80", "\u{fffd}\u{fffd}"),
            (b"\xf0\x9f\x98", "\u{fffd}"),
            // A surrogate in three bytes is one invalid part, also when it is cut off.
            (b"\xed\xa0\x80x", "\u{fffd}x"),
            (b"\xed\xa0x", "\u{fffd}x"),
            (b"\xed\xa0", "\u{fffd}"),
            (b"\xed", "\u{fffd}"),
            (b"\xed\x41", "\u{fffd}A"),
            (b"\xed\x9f\xbf", "\u{d7ff}"),
            (b"\xef\xbb\xbfx", "\u{feff}x"),
        ] {
            assert_eq!(from_utf8_lossy(bytes), text, "{bytes:x?}");
        }
    }

    #[test]
    fn excerpts_end_between_characters() {
        let text = "é".repeat(200);
        assert_eq!(excerpt(&text), "é".repeat(80));
        assert_eq!(excerpt("short"), "short");
    }
}
