//! Numbers as text: written as Java writes them, read as `Integer.parseInt` and `Long.parseLong`
//! read them (wire rule 1.4).

use bytes::BytesMut;

/// The zeros of every decimal script in the basic plane of Unicode 13, which is what Java 17 knows.
/// The nine code points behind each are its other digits.
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
    c.to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
        .or_else(|| digit(c))
        .or(match c {
            'Ａ'..='Ｆ' => u8::try_from(u32::from(c) - u32::from('Ａ') + 10).ok(),
            'ａ'..='ｆ' => u8::try_from(u32::from(c) - u32::from('ａ') + 10).ok(),
            _ => None,
        })
}

/// Reads an `i32`. `None` for everything that Java refuses with a `NumberFormatException`.
pub(crate) fn parse_i32(text: &[u8]) -> Option<i32> {
    parse_i64(text).and_then(|number| i32::try_from(number).ok())
}

/// Reads an `i64`. `None` for everything that Java refuses with a `NumberFormatException`.
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
    for byte in digits {
        let value = byte.wrapping_sub(b'0');
        if value > 9 {
            return parse_any_digits(negative, digits);
        }
        number = number * 10 + u64::from(value);
    }
    if negative {
        0_i64.checked_sub_unsigned(number)
    } else {
        i64::try_from(number).ok()
    }
}

/// The slow way round: leading zeros without end, limits of the type, digits of other scripts.
#[cold]
fn parse_any_digits(negative: bool, digits: &[u8]) -> Option<i64> {
    let digits = core::str::from_utf8(digits)
        .ok()
        .filter(|digits| !digits.is_empty())?;
    // Gathered below zero, since the smallest number has no positive twin.
    let mut number = 0_i64;
    for c in digits.chars() {
        number = number.checked_mul(10)?.checked_sub(i64::from(digit(c)?))?;
    }
    if negative {
        Some(number)
    } else {
        number.checked_neg()
    }
}

/// How many bytes `number` takes as text, its sign included.
pub(crate) fn text_len(number: i64) -> usize {
    let digits = number
        .unsigned_abs()
        .checked_ilog10()
        .map_or(1, |log| log as usize + 1);
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

/// A header line, or the end of one, put together from its end to its start: that is the order in
/// which digits come out of a number, and a line written at once costs less than one written in words.
pub(crate) struct LineBuilder {
    bytes: [u8; Self::CAPACITY],
    start: usize,
}

impl LineBuilder {
    /// Room for six numbers of twenty digits with their spaces, for the line end, and for a name of usual length.
    const CAPACITY: usize = 192;

    /// An empty run of words.
    #[inline]
    pub(crate) fn new() -> Self {
        Self {
            bytes: [0; Self::CAPACITY],
            start: Self::CAPACITY,
        }
    }

    /// The end of a line.
    #[inline]
    pub(crate) fn line_end() -> Self {
        let mut line = Self::new();
        line.start -= 2;
        line.bytes[line.start..].copy_from_slice(b"\r\n");
        line
    }

    /// Puts a space and `number` before what is there.
    #[inline]
    pub(crate) fn number(&mut self, number: impl Into<i64>) -> &mut Self {
        let number = number.into();
        let mut rest = number.unsigned_abs();
        while rest >= 100 {
            self.start -= 2;
            self.bytes[self.start..self.start + 2].copy_from_slice(&PAIRS[(rest % 100) as usize]);
            rest /= 100;
        }
        if rest >= 10 {
            self.start -= 2;
            self.bytes[self.start..self.start + 2].copy_from_slice(&PAIRS[rest as usize]);
        } else {
            self.start -= 1;
            self.bytes[self.start] = b'0' + rest as u8;
        }
        if number < 0 {
            self.start -= 1;
            self.bytes[self.start] = b'-';
        }
        self.start -= 1;
        self.bytes[self.start] = b' ';
        self
    }

    /// Appends `first` and then the line to `dst`, after reserving room for it and for `body_len` more.
    #[inline]
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
