//! Reading numbers as Java does: `Integer.parseInt`, `Long.parseLong` (wire rule 1.4).

use core::str;

/// The zeros of the scripts of the basic plane whose digits Java takes.
const ZEROS: [u16; 37] = [
    0x0030, 0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66,
    0x0DE6, 0x0E50, 0x0ED0, 0x0F20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50,
    0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10,
];

/// The value of a decimal digit of any script of the basic plane.
fn digit(c: char) -> Option<u8> {
    let code = u16::try_from(u32::from(c)).ok()?;
    let zero = ZEROS[ZEROS.partition_point(|zero| *zero <= code).checked_sub(1)?];
    u8::try_from(code - zero).ok().filter(|value| *value < 10)
}

/// The value of a hexadecimal digit of any script; the letters may be full-width ones.
fn hex_digit(c: char) -> Option<u8> {
    let letter = |first: char| (u32::from(c) - u32::from(first)) as u8 + 10;
    match c {
        'a'..='f' => Some(letter('a')),
        'A'..='F' => Some(letter('A')),
        '\u{FF21}'..='\u{FF26}' => Some(letter('\u{FF21}')),
        '\u{FF41}'..='\u{FF46}' => Some(letter('\u{FF41}')),
        _ => digit(c),
    }
}

pub(crate) fn is_digit(c: char) -> bool {
    digit(c).is_some()
}

/// Reads an optional sign and at least one digit; leading zeros are fine. None for anything else, and for what does
/// not fit an `i64`.
pub(crate) fn parse_i64(token: &[u8]) -> Option<i64> {
    let (negative, digits) = match token {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    if digits.is_ascii() {
        collect(negative, digits.iter().map(|byte| byte.wrapping_sub(b'0')))
    } else {
        let mut all = true;
        let values = str::from_utf8(digits).ok()?.chars().map(|c| {
            digit(c).unwrap_or_else(|| {
                all = false;
                0
            })
        });
        collect(negative, values).filter(|_| all)
    }
}

fn collect(negative: bool, values: impl Iterator<Item = u8>) -> Option<i64> {
    let mut number: i64 = 0;
    for value in values {
        if value > 9 {
            return None;
        }
        number = number.checked_mul(10)?;
        number =
            if negative { number.checked_sub(value.into())? } else { number.checked_add(value.into())? };
    }
    Some(number)
}

/// As [`parse_i64`], for an `i32`.
pub(crate) fn parse_i32(token: &[u8]) -> Option<i32> {
    parse_i64(token)?.try_into().ok()
}

/// Reads bytes in hexadecimal as Java does (wire rule 7): a pair may have a sign in place of its first digit, and an odd
/// last digit is dropped.
pub(crate) fn parse_hex(text: &str) -> Option<alloc::vec::Vec<u8>> {
    let mut chars = text.chars();
    let mut bytes = alloc::vec::Vec::with_capacity(text.len() / 2);
    while let (Some(first), Some(second)) = (chars.next(), chars.next()) {
        let second = hex_digit(second)?;
        bytes.push(match first {
            '+' => second,
            '-' => second.wrapping_neg(),
            first => (hex_digit(first)? << 4) | second,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_in_java() {
        for (text, number) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("+7", Some(7)),
            ("007", Some(7)),
            ("-12", Some(-12)),
            ("2147483647", Some(i32::MAX)),
            ("-2147483648", Some(i32::MIN)),
            ("٠١٢", Some(12)),
            ("-７", Some(-7)),
            ("", None),
            ("-", None),
            ("+", None),
            ("+-1", None),
            ("--1", None),
            ("1 ", None),
            ("1.0", None),
            ("2147483648", None),
            ("99999999999999999999", None),
            ("0x1", None),
            ("\u{1D7CE}", None),
            ("١x", None),
        ] {
            assert_eq!(parse_i32(text.as_bytes()), number, "{text:?}");
        }
        assert_eq!(parse_i64(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_i64(b"9223372036854775808"), None);
        assert_eq!(parse_i64(b"\xff"), None);
    }

    #[test]
    fn hexadecimal_is_read_as_in_java() {
        assert_eq!(parse_hex("6272Ab"), Some([0x62, 0x72, 0xab].into()));
        assert_eq!(parse_hex("abc"), Some([0xab].into()), "an odd digit is dropped");
        assert_eq!(parse_hex("+1-1-f"), Some([0x01, 0xff, 0xf1].into()));
        assert_eq!(parse_hex("ａｂ１０"), Some([0xab, 0x10].into()));
        assert_eq!(parse_hex("zz"), None);
        assert_eq!(parse_hex("1+"), None);
    }
}
