//! Numbers as text: written as Java writes them, parsed as `Integer.parseInt` and `Long.parseLong` parse them
//! (protocol §1.4).

use bytes::BytesMut;

/// The zeros of every decimal script in the basic plane of Unicode 13, the version of Java 17. The nine code
/// points after each are its other digits.
const ZEROS: [u16; 37] = [
    0x0030, 0x0660, 0x06f0, 0x07c0, 0x0966, 0x09e6, 0x0a66, 0x0ae6, 0x0b66, 0x0be6, 0x0c66, 0x0ce6, 0x0d66,
    0x0de6, 0x0e50, 0x0ed0, 0x0f20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50,
    0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
];

/// The value of `c` as a decimal digit of any script of the basic plane.
pub(crate) fn digit(c: char) -> Option<u8> {
    let code = u16::try_from(u32::from(c)).ok()?;
    let zero = ZEROS[..ZEROS.partition_point(|&zero| zero <= code)].last()?;
    u8::try_from(code - zero).ok().filter(|&value| value < 10)
}

/// The value of `c` as a hexadecimal digit, full-width letters and digits of any script included.
pub(crate) fn hex_digit(c: char) -> Option<u8> {
    let letter = |first: char| u32::from(c).checked_sub(first.into()).filter(|&place| place < 6);
    let letter = ['a', 'A', 'ａ', 'Ａ'].into_iter().find_map(letter);
    match letter {
        Some(place) => u8::try_from(10 + place).ok(),
        None => digit(c),
    }
}

/// Parses an `i32`. `None` for every text that Java refuses with a `NumberFormatException`.
pub(crate) fn parse_i32(text: &[u8]) -> Option<i32> {
    parse_i64(text).and_then(|number| i32::try_from(number).ok())
}

/// Parses an `i64`. `None` for every text that Java refuses with a `NumberFormatException`.
#[inline]
pub(crate) fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    // 19 digits always fit into a `u64`.
    if digits.is_empty() || digits.len() > 19 {
        return parse_any_digits(negative, digits);
    }
    let mut number = 0_u64;
    let mut rest = digits;
    while let Some((eight, after)) = rest.split_first_chunk() {
        let Some(value) = eight_digits(*eight) else {
            return parse_any_digits(negative, digits);
        };
        number = number * 100_000_000 + value;
        rest = after;
    }
    for byte in rest {
        let value = byte.wrapping_sub(b'0');
        if value > 9 {
            return parse_any_digits(negative, digits);
        }
        number = number * 10 + u64::from(value);
    }
    if negative { 0_i64.checked_sub_unsigned(number) } else { i64::try_from(number).ok() }
}

/// Parses the number at the start of `text` in the form that Java writes: an optional `-` and up to 19 ASCII
/// digits. The caller must check the rest.
#[inline]
pub(crate) fn leading_i64(text: &[u8]) -> Option<(i64, &[u8])> {
    let (negative, mut rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (mut number, mut most) = (0_u64, 19);
    while let Some((eight, after)) = rest.split_first_chunk()
        && most > 8
        && let Some(value) = eight_digits(*eight)
    {
        number = number * 100_000_000 + value;
        rest = after;
        most -= 8;
    }
    while let [byte, after @ ..] = rest
        && most > 0
        && byte.is_ascii_digit()
    {
        number = number * 10 + u64::from(byte - b'0');
        rest = after;
        most -= 1;
    }
    let signed = if negative { 0_i64.checked_sub_unsigned(number) } else { i64::try_from(number).ok() };
    signed.filter(|_| most < 19).map(|number| (number, rest))
}

/// The value of eight ASCII digits, computed in parallel: digits to pairs, pairs to fours, fours to all.
#[inline]
fn eight_digits(digits: [u8; 8]) -> Option<u64> {
    const HIGH: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    let ascii = u64::from_le_bytes(digits);
    // A digit has a high half of 3, and still has it after 6 is added.
    if ascii & HIGH != 0x3030_3030_3030_3030
        || ascii.wrapping_add(0x0606_0606_0606_0606) & HIGH != ascii & HIGH
    {
        return None;
    }
    let ones = ascii & !HIGH;
    let pairs = (ones.wrapping_mul(10 << 8 | 1) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100 << 16 | 1) >> 16) & 0x0000_ffff_0000_ffff;
    Some(fours.wrapping_mul(10_000 << 32 | 1) >> 32)
}

/// The slow path: leading zeros in any number, limits of the type, digits of other scripts.
#[cold]
fn parse_any_digits(negative: bool, digits: &[u8]) -> Option<i64> {
    let digits = core::str::from_utf8(digits).ok().filter(|digits| !digits.is_empty())?;
    // Accumulated as a negative number, because the smallest number has no positive counterpart.
    let mut number = 0_i64;
    for c in digits.chars() {
        number = number.checked_mul(10)?.checked_sub(i64::from(digit(c)?))?;
    }
    if negative { Some(number) } else { number.checked_neg() }
}

/// The number of bytes of `number` as text, its sign included.
pub(crate) fn text_len(number: i64) -> usize {
    let digits = number.unsigned_abs().checked_ilog10().map_or(1, |log| log as usize + 1);
    digits + usize::from(number < 0)
}

/// Two digits for every number below 100.
static PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// The four digits of a number below 10,000.
#[inline]
fn four_digits(number: u32) -> [u8; 4] {
    let [a, b] = PAIRS[(number / 100) as usize];
    let [c, d] = PAIRS[(number % 100) as usize];
    [a, b, c, d]
}

/// Builds a header line, or the end of one, from its end to its start: digits come out of a number in that
/// order, and one write of the whole line costs less than a write per word.
pub(crate) struct LineBuilder {
    bytes: [u8; Self::CAPACITY],
    start: usize,
}

impl LineBuilder {
    /// Space for six numbers of twenty digits with their spaces, for the line end, and for a name of usual
    /// length.
    const CAPACITY: usize = 192;

    /// Creates an empty sequence of words.
    #[inline]
    pub(crate) fn new() -> Self {
        Self { bytes: [0; Self::CAPACITY], start: Self::CAPACITY }
    }

    /// Creates the end of a line.
    #[inline]
    pub(crate) fn line_end() -> Self {
        let mut line = Self::new();
        line.start = line.put(line.start, *b"\r\n");
        line
    }

    /// Puts a space and `number` before the content.
    #[inline]
    pub(crate) fn number(&mut self, number: impl Into<i64>) -> &mut Self {
        match number.into() {
            // The usual case for partitions and flags.
            digit @ 0..=9 => self.start = self.put(self.start, [b' ', b'0' + digit as u8]),
            number => self.signed(number),
        }
        self
    }

    fn signed(&mut self, number: i64) {
        let mut rest = number.unsigned_abs();
        // A local position, because `self` would go through memory for each digit.
        let mut at = self.start;
        while rest > u64::from(u32::MAX) {
            // Eight digits at a time, so that the rest soon fits the faster arithmetic.
            let low = (rest % 100_000_000) as u32;
            at = self.put(at, four_digits(low % 10_000));
            at = self.put(at, four_digits(low / 10_000));
            rest /= 100_000_000;
        }
        let mut rest = rest as u32;
        while rest >= 10_000 {
            at = self.put(at, four_digits(rest % 10_000));
            rest /= 10_000;
        }
        if rest >= 100 {
            at = self.put(at, PAIRS[(rest % 100) as usize]);
            rest /= 100;
        }
        if rest >= 10 {
            at = self.put(at, PAIRS[rest as usize]);
        } else {
            at = self.put(at, [b'0' + rest as u8]);
        }
        self.start = if number < 0 { self.put(at, *b" -") } else { self.put(at, *b" ") };
    }

    /// Puts `bytes` before `at`, and returns their start.
    #[inline]
    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> usize {
        self.bytes[at - N..at].copy_from_slice(&bytes);
        at - N
    }

    /// Appends `first` and then the line to `dst`, after reserving space for it and for `body_len` more
    /// bytes.
    // With the command's name known at compile time, its copy is a single store.
    #[inline(always)]
    pub(crate) fn append_to(&mut self, dst: &mut BytesMut, first: [&[u8]; 2], body_len: usize) {
        let first_len = first[0].len() + first[1].len();
        dst.reserve(first_len + self.as_bytes().len() + body_len);
        if let Some(start) = self.start.checked_sub(first_len) {
            let room = &mut self.bytes[start..self.start];
            let (verb, name) = room.split_at_mut(first[0].len());
            verb.copy_from_slice(first[0]);
            name.copy_from_slice(first[1]);
            self.start = start;
        } else {
            dst.extend_from_slice(first[0]);
            dst.extend_from_slice(first[1]);
        }
        dst.extend_from_slice(self.as_bytes());
    }

    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, string::ToString, vec::Vec};

    fn parse(text: &str) -> Option<i64> {
        parse_i64(text.as_bytes())
    }

    #[test]
    fn reads_what_java_reads() {
        for (text, number) in [
            ("0", 0),
            ("-0", 0),
            ("+7", 7),
            ("007", 7),
            ("12345678", 12_345_678),
            ("-5468924307537133568", -5_468_924_307_537_133_568),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("00000000000000000000000000000000000042", 42),
            ("١٢", 12),
            ("-１2", -12),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
    }

    #[test]
    fn refuses_what_java_refuses() {
        for text in [
            "",
            "-",
            "+",
            "--1",
            "+-1",
            " 1",
            "1 ",
            "1.0",
            "0x1",
            "1234567/",
            "1234567:",
            "123456\u{80}",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
            "𝟏",
            "一",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(parse_i64(b"1\xff"), None);
        assert_eq!(parse_i32(b"2147483648"), None);
        assert_eq!(parse_i32(b"-2147483648"), Some(i32::MIN));
    }

    #[test]
    fn leading_i64_stops_after_the_number() {
        for (text, number, rest) in [
            ("0", 0, ""),
            ("-7 1", -7, " 1"),
            ("12345678 ", 12_345_678, " "),
            ("123456789x", 123_456_789, "x"),
            ("-9223372036854775808 0", i64::MIN, " 0"),
            ("00000000000000000012", 1, "2"),
        ] {
            assert_eq!(leading_i64(text.as_bytes()), Some((number, rest.as_bytes())), "{text}");
        }
        for text in ["", "-", "+1", " 1", "x", "9223372036854775808", "\u{661}"] {
            assert_eq!(leading_i64(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn digits_of_every_script_are_parsed() {
        let all: Vec<char> = ('\0'..=char::MAX).filter(|&c| digit(c).is_some()).collect();
        assert_eq!(all.len(), 370, "ten in each of 37 scripts");
        assert!(all.iter().all(|c| c.is_numeric() && u32::from(*c) < 0x1_0000));
        assert_eq!(digit('９'), Some(9));
        assert_eq!((digit('/'), digit(':')), (None, None));
        assert_eq!(
            (hex_digit('f'), hex_digit('Ｆ'), hex_digit('٣'), hex_digit('g')),
            (Some(15), Some(15), Some(3), None)
        );
    }

    #[test]
    fn numbers_of_every_length_are_written() {
        let mut numbers: Vec<i64> = [i64::MIN, i64::MAX, 0].into();
        for power in 0..19 {
            let power = 10_i64.pow(power);
            numbers.extend([power - 1, power, power + 1, -power, 1 - power, power / 3 * 7]);
        }
        for number in numbers {
            let mut line = LineBuilder::line_end();
            line.number(number);
            assert_eq!(line.as_bytes(), format!(" {number}\r\n").as_bytes());
            assert_eq!(text_len(number), number.to_string().len());
            assert_eq!(parse(&number.to_string()), Some(number));
        }
    }

    #[test]
    fn long_names_bypass_the_buffer() {
        for length in [0, 1, LineBuilder::CAPACITY - 5, LineBuilder::CAPACITY, 1000] {
            let name = "n".repeat(length);
            let mut dst = BytesMut::new();
            LineBuilder::line_end().number(7).append_to(&mut dst, [b"v ", name.as_bytes()], 10);
            assert_eq!(dst, format!("v {name} 7\r\n").as_bytes());
            assert!(dst.capacity() >= dst.len() + 10);
        }
    }
}
