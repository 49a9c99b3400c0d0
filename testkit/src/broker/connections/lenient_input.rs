//! The leniency with which a Java broker reads requests (protocol §2).

use bytes::{BufMut as _, BytesMut};
use metaq_protocol::{Decoder, Limits};

/// Returns a decoder without limits.
pub(super) fn decoder() -> Decoder {
    Decoder::with_limits(Limits::default().with_max_line(usize::MAX).with_max_body(usize::MAX))
}

/// Corrects the first line. Returns false if the decoder may not see it yet.
pub(super) fn prepare(input: &mut BytesMut) -> bool {
    let Some(end) = input.windows(2).position(|pair| pair == b"\r\n") else { return false };
    let word_end = input[..end].iter().position(|byte| *byte == b' ').unwrap_or(end);
    let (word, rest) = input.split_at(word_end);
    // The first character, truncated to its low byte.
    let first = std::str::from_utf8(word).ok().and_then(|word| word.chars().next());
    let right = match first.map(|first| u32::from(first) as u8) {
        Some(b'v') if word != b"version" && word != b"value" => "version",
        Some(b'q') if word != b"quit" => "quit",
        _ => return body_has_arrived(input, end),
    };
    let mut corrected = BytesMut::with_capacity(input.len() + right.len());
    corrected.put_slice(right.as_bytes());
    corrected.put_slice(rest);
    *input = corrected;
    true
}

/// Returns whether the body that a line announces has arrived.
fn body_has_arrived(input: &[u8], end: usize) -> bool {
    let mut words = input[..end].split(|byte| *byte == b' ');
    let length = match words.next() {
        Some(b"put" | b"sync") => words.nth(2),
        Some(b"result") => words.nth(1),
        Some(b"value") => words.next(),
        _ => return true,
    };
    let length = length.and_then(|word| std::str::from_utf8(word).ok()?.parse::<i32>().ok());
    let announced = length.and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
    input.len() - end - 2 >= announced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_by_a_java_broker() {
        for (line, read) in [
            ("v 5\r\n", "version 5\r\n"),
            ("versions 5\r\n", "version 5\r\n"),
            ("valu 3 5\r\nabc", "version 3 5\r\nabc"),
            ("\u{176} 5\r\n", "version 5\r\n"),
            ("qwerty 1 2\r\n", "quit 1 2\r\n"),
            ("value 1 5\r\na", "value 1 5\r\na"),
            ("put t 0 5 0 1\r\nhello", "put t 0 5 0 1\r\nhello"),
        ] {
            let mut input = BytesMut::from(line);
            assert!(prepare(&mut input), "{line:?}");
            assert_eq!(input, read);
        }
    }

    #[test]
    fn a_malformed_line_waits_for_its_body() {
        for (line, whole) in [
            ("put test x 5 0 -1 7\r\nhell", false),
            ("put test x 5 0 -1 7\r\nhello", true),
            ("result 200 3\r\nab", false),
            ("value 3\r\nabc", true),
            ("version", false),
            ("put test x -5 0 -1 7\r\n", true),
            ("put test x y 0 -1 7\r\n", true),
        ] {
            assert_eq!(prepare(&mut BytesMut::from(line)), whole, "{line:?}");
        }
    }
}
