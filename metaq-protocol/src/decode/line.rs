//! Header lines: the search for their end, and their words (protocol §2, steps 2 to 4).

use super::{DecodeError, DecodeErrorKind};
use crate::number;

/// The search for the end of a line, which resumes where it stopped when more bytes arrive.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LineSearch {
    scanned: usize,
}

impl LineSearch {
    /// The length of the first line of `src` without its CR LF, or `None` when the line is incomplete.
    pub(super) fn find(&mut self, src: &[u8], max_line: usize) -> Result<Option<usize>, DecodeError> {
        // Bytes beyond the limit are irrelevant.
        let window = &src[..src.len().min(max_line.saturating_add(2))];
        let mut from = self.scanned.min(window.len());
        while let Some(found) = memchr::memchr(b'\n', &window[from..]) {
            let line_feed = from + found;
            if line_feed > 0 && window[line_feed - 1] == b'\r' {
                self.scanned = 0;
                return Ok(Some(line_feed - 1));
            }
            from = line_feed + 1;
        }
        // The last byte allowed may be the CR of the line end.
        if window.len() > max_line.saturating_add(1) || (window.len() > max_line && window[max_line] != b'\r')
        {
            self.scanned = 0;
            return Err(DecodeError::new(DecodeErrorKind::LineTooLong, src).above(max_line));
        }
        self.scanned = window.len();
        Ok(None)
    }
}

/// The largest number of words in any form of any command.
const MOST_WORDS: usize = 8;

/// The words of a header line, split at every single space. Empty words at the end don't count.
pub(super) struct Words<'a> {
    line: &'a [u8],
    words: [&'a [u8]; MOST_WORDS],
    count: usize,
}

impl<'a> Words<'a> {
    pub(super) fn split(line: &'a [u8]) -> Result<Self, DecodeError> {
        if line.first().is_none_or(|&byte| byte == b' ') {
            return Err(DecodeError::new(DecodeErrorKind::BlankLine, line));
        }
        let end = line.iter().rposition(|&byte| byte != b' ').map_or(0, |last| last + 1);
        let mut words = [&line[..0]; MOST_WORDS];
        let mut count = 0;
        for word in line[..end].split(|&byte| byte == b' ') {
            match words.get_mut(count) {
                Some(slot) => *slot = word,
                None => {
                    count += 1;
                    break;
                }
            }
            count += 1;
        }
        Ok(Self { line, words, count })
    }

    /// The length of the line, CR LF included.
    pub(super) fn head_len(&self) -> usize {
        self.line.len() + 2
    }

    /// The number of words. All numbers above the maximum are returned as the maximum plus one.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn get(&self, index: usize) -> Option<&'a [u8]> {
        (index < self.count).then(|| self.words.get(index).copied()).flatten()
    }

    /// The word at `index`, which is required.
    pub(super) fn required(&self, index: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let missing = || DecodeError::new(DecodeErrorKind::MissingField, self.line).in_field(field);
        self.get(index).ok_or_else(missing)
    }

    pub(super) fn i32(&self, index: usize, field: &'static str) -> Result<i32, DecodeError> {
        let word = self.required(index, field)?;
        number::parse_i32(word).ok_or_else(|| invalid_number(word, field))
    }

    pub(super) fn i64(&self, index: usize, field: &'static str) -> Result<i64, DecodeError> {
        let word = self.required(index, field)?;
        number::parse_i64(word).ok_or_else(|| invalid_number(word, field))
    }

    /// The length of the body that follows the line.
    pub(super) fn body_len(&self, index: usize, max_body: usize) -> Result<usize, DecodeError> {
        let length = self.i32(index, "length")?;
        let refused = |kind| {
            let word = self.get(index).unwrap_or_default();
            DecodeError::new(kind, word).in_field("length")
        };
        match usize::try_from(length) {
            Ok(length) if length <= max_body => Ok(length),
            Ok(_) => Err(refused(DecodeErrorKind::BodyTooLong).above(max_body)),
            Err(_) => Err(refused(DecodeErrorKind::NegativeLength)),
        }
    }

    /// Refuses a line with more than `most` words.
    pub(super) fn at_most(&self, most: usize) -> Result<(), DecodeError> {
        if self.count > most {
            return Err(DecodeError::new(DecodeErrorKind::SurplusField, self.line));
        }
        Ok(())
    }
}

#[cold]
fn invalid_number(word: &[u8], field: &'static str) -> DecodeError {
    DecodeError::new(DecodeErrorKind::InvalidNumber, word).in_field(field)
}
