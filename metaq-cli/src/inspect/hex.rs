//! Bytes as hexadecimal.

use std::fmt;

use data_encoding::{DecodeKind, HEXLOWER, HEXLOWER_PERMISSIVE};

/// Formats bytes with two digits each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_display(self.0).fmt(f)
    }
}

impl serde::Serialize for Hex<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Parses pairs of digits.
pub(super) fn parse(text: &[u8]) -> Result<Vec<u8>, InvalidHex> {
    HEXLOWER_PERMISSIVE.decode(text).map_err(|error| match error.kind {
        // The length is looked at first.
        DecodeKind::Length => text
            .iter()
            .position(|byte| !byte.is_ascii_hexdigit())
            .map_or(InvalidHex::Odd(text.len()), InvalidHex::NotADigit),
        _ => InvalidHex::NotADigit(error.position),
    })
}

/// Parser of pairs of digits that arrive in pieces. Skips white space at the start and at the end.
#[derive(Debug, Default)]
pub(super) struct Digits {
    /// The number of digits so far.
    count: usize,
    /// The first digit of an incomplete pair.
    high: u8,
    /// Set after white space that follows digits.
    is_over: bool,
}

impl Digits {
    /// Parses a piece, and appends the bytes that it completes, including those before an error.
    pub(super) fn push(&mut self, text: &[u8], bytes: &mut Vec<u8>) -> Result<(), InvalidHex> {
        for byte in text {
            if byte.is_ascii_whitespace() {
                self.is_over = self.count > 0;
                continue;
            }
            let digit = char::from(*byte).to_digit(16).filter(|_| !self.is_over);
            let digit = digit.ok_or(InvalidHex::NotADigit(self.count))? as u8;
            if self.count.is_multiple_of(2) {
                self.high = digit;
            } else {
                bytes.push(self.high << 4 | digit);
            }
            self.count += 1;
        }
        Ok(())
    }

    pub(super) fn end(&self) -> Result<(), InvalidHex> {
        if self.count.is_multiple_of(2) { Ok(()) } else { Err(InvalidHex::Odd(self.count)) }
    }
}

/// A text that is not hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InvalidHex {
    /// An odd number of digits.
    Odd(usize),
    /// The position of the first byte that is not a digit.
    NotADigit(usize),
}

impl fmt::Display for InvalidHex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Odd(digits) => write!(f, "not hexadecimal: {digits} digits are not whole bytes"),
            Self::NotADigit(at) => write!(f, "not hexadecimal: column {} is not a digit", at + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_in_pieces_are_read_as_those_in_one() {
        for text in ["", "0", "0a", "0aF", "0aFf", "0g", "0a0", "00 11", "00 1", "0 ", "\u{e4}0"] {
            for at in 0..=text.len() {
                let (mut digits, mut bytes) = (Digits::default(), Vec::new());
                let (start, end) = text.as_bytes().split_at(at);
                let read = [&b" \t"[..], start, end, b" \r"]
                    .iter()
                    .try_for_each(|piece| digits.push(piece, &mut bytes))
                    .and_then(|()| digits.end())
                    .map(|()| bytes);
                assert_eq!(read, parse(text.trim_ascii().as_bytes()), "{text} at {at}");
            }
        }
    }
}
