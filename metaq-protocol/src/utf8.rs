//! Reading text that may be no UTF-8, as Java does.

use alloc::{borrow::Cow, string::String};

/// Replaces what is no UTF-8 by U+FFFD, one for each faulty part; a surrogate in three bytes is one such part (wire
/// rule 1.3), which is where Java and Rust differ.
pub(crate) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    match core::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(replace(bytes)),
    }
}

fn replace(mut bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 8);
    while let Some(chunk) = bytes.utf8_chunks().next() {
        text.push_str(chunk.valid());
        let mut used = chunk.valid().len() + chunk.invalid().len();
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            if let [0xED, 0xA0..=0xBF, 0x80..=0xBF, ..] = bytes[chunk.valid().len()..] {
                used = chunk.valid().len() + 3;
            }
        }
        bytes = &bytes[used..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faulty_parts_are_replaced_one_by_one() {
        for (bytes, text) in [
            (&b"caf\xc3\xa9"[..], "café"),
            (b"a\xffb", "a\u{FFFD}b"),
            (b"\xe4\xb8", "\u{FFFD}"),
            (b"\xed\xa0\x80x", "\u{FFFD}x"),
            (b"\xed\xa0", "\u{FFFD}\u{FFFD}"),
            (b"\xc0\xaf", "\u{FFFD}\u{FFFD}"),
        ] {
            assert_eq!(lossy(bytes), text, "{bytes:x?}");
        }
    }
}
