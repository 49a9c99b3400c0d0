//! Writing header lines: text and numbers into a buffer, without an allocation.

use core::fmt::{self, Write as _};

use bytes::{BufMut as _, BytesMut};

/// Appends tokens to a header line.
pub(crate) struct Line<'a> {
    dst: &'a mut BytesMut,
}

impl<'a> Line<'a> {
    /// Begins a line with its verb.
    pub(crate) fn begin(dst: &'a mut BytesMut, verb: &'static str) -> Self {
        dst.put_slice(verb.as_bytes());
        Self { dst }
    }

    /// Appends a token that holds neither a space nor a line end.
    pub(crate) fn text(self, token: &str) -> Self {
        self.dst.put_u8(b' ');
        self.dst.put_slice(token.as_bytes());
        self
    }

    /// Appends what writes itself as a token.
    pub(crate) fn display(self, token: &impl fmt::Display) -> Self {
        self.dst.put_u8(b' ');
        // Writing to a buffer that grows can't fail.
        let _ = write!(self.dst, "{token}");
        self
    }

    /// Appends a decimal number.
    pub(crate) fn number(self, number: impl Into<i64>) -> Self {
        let mut digits = [0; MAX_DIGITS];
        let from = write_number(&mut digits, number.into());
        self.dst.put_u8(b' ');
        self.dst.put_slice(&digits[from..]);
        self
    }

    pub(crate) fn end(self) {
        self.dst.put_slice(b"\r\n");
    }
}

/// "-9223372036854775808"
const MAX_DIGITS: usize = 20;

const PAIRS: &[u8; 200] = b"\
0001020304050607080910111213141516171819\
2021222324252627282930313233343536373839\
4041424344454647484950515253545556575859\
6061626364656667686970717273747576777879\
8081828384858687888990919293949596979899";

/// Writes `number` to the end of `digits`; returns where it begins.
fn write_number(digits: &mut [u8; MAX_DIGITS], number: i64) -> usize {
    let mut at = MAX_DIGITS;
    let mut rest = number.unsigned_abs();
    while rest >= 100 {
        let pair = (rest % 100) as usize * 2;
        rest /= 100;
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    }
    if rest >= 10 {
        let pair = rest as usize * 2;
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    } else {
        at -= 1;
        digits[at] = b'0' + rest as u8;
    }
    if number < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    at
}

/// How many characters [`Line::number`] writes, the space before it included.
pub(crate) fn number_len(number: impl Into<i64>) -> usize {
    let number = number.into();
    let digits = number.unsigned_abs().checked_ilog10().unwrap_or(0) as usize + 1;
    1 + usize::from(number < 0) + digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, string::ToString};

    #[test]
    fn numbers_are_written_as_by_the_standard_library() {
        let mut samples =
            alloc::vec![0, 9, 10, 99, 100, 101, 12345, i64::MAX, i64::MIN, i32::MAX.into(), i32::MIN.into()];
        (0..19)
            .for_each(|power| samples.extend([10_i64.pow(power), 10_i64.pow(power) - 1, -10_i64.pow(power)]));
        for number in samples {
            let mut line = BytesMut::new();
            Line::begin(&mut line, "x").number(number).end();
            assert_eq!(line, format!("x {number}\r\n"));
            assert_eq!(number_len(number), number.to_string().len() + 1);
        }
    }
}
