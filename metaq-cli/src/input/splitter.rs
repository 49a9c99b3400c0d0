//! The splitter of chunks into messages.

use std::mem;

use bytes::Bytes;
use memchr::{memchr_iter, memmem};

use super::{Framing, Line, MAX_LINE};

/// The size of the length before a message.
const PREFIX: usize = 4;

/// Splits chunks into messages, which are called lines.
///
/// Lines that lie completely in one chunk share one copy of their part of it; a line that began in an earlier
/// chunk has its own memory. In either case lines retain no more memory than their bytes, and those of their
/// neighbours, take.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    framing: Framing,
    /// The beginning of a line whose end has not been read yet; with a length in front, that too.
    begun: Vec<u8>,
    /// Set when that line is longer than the limit; its bytes are dropped, except some of the last, which may
    /// be the beginning of the delimiter.
    too_long: bool,
    /// The number of bytes that are still to be dropped of a line that is too long, with lengths in front.
    to_drop: usize,
    /// Set while a file is read that is one line.
    has_file: bool,
}

impl Splitter {
    pub(super) fn new(framing: Framing) -> Self {
        Self { framing, ..Self::default() }
    }

    /// Notes that a file begins.
    pub(super) fn begin_file(&mut self) {
        self.has_file = self.framing == Framing::WholeFile;
    }

    /// Returns the lines that a chunk completes.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Vec<Line> {
        match &self.framing {
            Framing::Delimited { delimiter, strips_cr } => {
                let strips_cr = *strips_cr;
                match *delimiter.bytes() {
                    [byte] => self.push_delimited_by_byte(chunk, byte, strips_cr),
                    _ => self.push_delimited(chunk, strips_cr),
                }
            }
            Framing::LengthPrefixed => self.push_prefixed(chunk),
            Framing::WholeFile => {
                self.begin(chunk);
                Vec::new()
            }
        }
    }

    fn push_delimited_by_byte(&mut self, chunk: &[u8], delimiter: u8, strips_cr: bool) -> Vec<Line> {
        let mut ends = memchr_iter(delimiter, chunk);
        let Some(end_of_first) = ends.next() else {
            self.begin(chunk);
            return Vec::new();
        };
        let mut lines = Vec::new();
        let mut start = 0;
        if !self.begun.is_empty() || self.too_long {
            self.begin(&chunk[..end_of_first]);
            lines.push(self.take(strips_cr));
            start = end_of_first + 1;
        }
        let end_of_last = ends.next_back().unwrap_or(end_of_first) + 1;
        let whole = Bytes::copy_from_slice(&chunk[start..end_of_last]);
        let mut at = 0;
        for end in memchr_iter(delimiter, &whole) {
            lines.push(Line::Whole(without_cr(whole.slice(at..end), strips_cr)));
            at = end + 1;
        }
        self.begin(&chunk[end_of_last..]);
        lines
    }

    /// The same for a delimiter of several bytes, which may lie in two chunks.
    fn push_delimited(&mut self, chunk: &[u8], strips_cr: bool) -> Vec<Line> {
        let Framing::Delimited { delimiter, .. } = &self.framing else { return Vec::new() };
        let delimiter = delimiter.bytes().to_vec();
        let finder = memmem::Finder::new(&delimiter);
        let mut lines = Vec::new();
        let mut rest = chunk;
        loop {
            // The line that was begun may end with the beginning of the delimiter.
            let kept = self.begun.len().min(delimiter.len() - 1);
            let mut seam = self.begun[self.begun.len() - kept..].to_vec();
            seam.extend_from_slice(&rest[..rest.len().min(delimiter.len() - 1)]);
            if let Some(at) = finder.find(&seam) {
                self.begun.truncate(self.begun.len() - kept + at);
                lines.push(self.take(strips_cr));
                rest = &rest[at + delimiter.len() - kept..];
            } else if let Some(at) = finder.find(rest) {
                self.begin(&rest[..at]);
                lines.push(self.take(strips_cr));
                rest = &rest[at + delimiter.len()..];
            } else {
                self.begin(rest);
                return lines;
            }
        }
    }

    fn push_prefixed(&mut self, chunk: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut rest = chunk;
        while !rest.is_empty() {
            if self.to_drop > 0 {
                let dropped = self.to_drop.min(rest.len());
                self.to_drop -= dropped;
                rest = &rest[dropped..];
                if self.to_drop == 0 {
                    lines.push(Line::TooLong);
                }
                continue;
            }
            let wanted = self.prefix().map_or(PREFIX, |length| PREFIX + length) - self.begun.len();
            let taken = wanted.min(rest.len());
            self.begun.extend_from_slice(&rest[..taken]);
            rest = &rest[taken..];
            match self.prefix() {
                Some(length) if length > MAX_LINE => {
                    self.begun = Vec::new();
                    self.to_drop = length;
                }
                Some(length) if self.begun.len() == PREFIX + length => {
                    let line = mem::take(&mut self.begun).into_boxed_slice();
                    lines.push(Line::Whole(Bytes::from(line).slice(PREFIX..)));
                }
                _ => {}
            }
        }
        lines
    }

    /// Returns the length of the line that was begun, once it is read.
    fn prefix(&self) -> Option<usize> {
        let prefix = self.begun.first_chunk::<PREFIX>()?;
        Some(u32::from_be_bytes(*prefix) as usize)
    }

    /// Returns the last line, if it has no delimiter. With lengths in front that line is incomplete.
    pub(super) fn end(&mut self) -> Vec<Line> {
        let is_empty = self.begun.is_empty() && !self.too_long && self.to_drop == 0;
        match &self.framing {
            Framing::WholeFile => {
                if mem::take(&mut self.has_file) {
                    vec![self.take(false)]
                } else {
                    Vec::new()
                }
            }
            _ if is_empty => Vec::new(),
            Framing::Delimited { strips_cr, .. } => {
                let strips_cr = *strips_cr;
                vec![self.take(strips_cr)]
            }
            Framing::LengthPrefixed => {
                (self.begun, self.to_drop) = (Vec::new(), 0);
                vec![Line::Incomplete]
            }
        }
    }

    fn begin(&mut self, part: &[u8]) {
        if self.too_long || self.begun.len() + part.len() > MAX_LINE {
            self.too_long = true;
            // A delimiter may have begun.
            let kept = match &self.framing {
                Framing::Delimited { delimiter, .. } => delimiter.bytes().len() - 1,
                _ => 0,
            };
            let mut last = mem::take(&mut self.begun);
            last.extend_from_slice(&part[part.len().saturating_sub(kept)..]);
            self.begun = last[last.len().saturating_sub(kept)..].to_vec();
        } else {
            self.begun.extend_from_slice(part);
        }
    }

    fn take(&mut self, strips_cr: bool) -> Line {
        let line = mem::take(&mut self.begun);
        if mem::take(&mut self.too_long) {
            return Line::TooLong;
        }
        // The vector has grown by doubling; the allocator reclaims the excess in place.
        Line::Whole(without_cr(line.into_boxed_slice().into(), strips_cr))
    }
}

fn without_cr(mut line: Bytes, strips_cr: bool) -> Bytes {
    if strips_cr && line.last() == Some(&b'\r') {
        line.truncate(line.len() - 1);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<Line> {
        split_by(&Framing::default(), chunks)
    }

    fn split_by(framing: &Framing, chunks: &[&[u8]]) -> Vec<Line> {
        let mut splitter = Splitter::new(framing.clone());
        splitter.begin_file();
        let mut lines: Vec<_> = chunks.iter().flat_map(|chunk| splitter.push(chunk)).collect();
        lines.extend(splitter.end());
        lines
    }

    fn whole(lines: &[&'static str]) -> Vec<Line> {
        lines.iter().map(|line| Line::Whole(Bytes::from_static(line.as_bytes()))).collect()
    }

    #[test]
    fn line_feeds_and_the_end_of_the_input_complete_lines() {
        assert_eq!(split(&[b"a\n\nb\r\n"]), whole(&["a", "", "b\r"]));
        assert_eq!(split(&[b"a\nb"]), whole(&["a", "b"]));
        assert_eq!(split(&[b"a", b"b", b"\n", b"c"]), whole(&["ab", "c"]));
        assert_eq!(split(&[b"a", b"b\nc\nd", b"\n\n"]), whole(&["ab", "c", "d", ""]));
        assert_eq!(split(&[]), []);
        assert_eq!(split(&[b"\n"]), whole(&[""]));
    }

    #[test]
    fn a_line_beyond_the_limit_is_dropped_and_the_next_kept() {
        let chunk = vec![b'x'; MAX_LINE / 2 + 1];
        assert_eq!(
            split(&[&chunk, &chunk, b"more\nnext\n"]),
            [&[Line::TooLong][..], &whole(&["next"])].concat()
        );
        assert_eq!(split(&[&chunk, &chunk]), [Line::TooLong]);
    }

    #[test]
    fn lines_retain_no_more_memory_than_they_need() {
        let long = vec![b'x'; 1_000_000];
        for chunks in [
            &[
                &*long,
                b"x
short
",
            ][..],
            &[
                &*long, b"x", b"
sho", b"rt
",
            ],
        ] {
            for (kept, length) in [(0, 1_000_001), (1, 5)] {
                let Line::Whole(line) = split(chunks).swap_remove(kept) else { panic!("it isn't too long") };
                // The other lines are dropped, so this one is again the vector that it was made from.
                let line = Vec::<u8>::from(line);
                assert_eq!(line.len(), length);
                assert!(line.capacity() <= length + 1, "{} for {length} bytes", line.capacity());
            }
        }
    }

    fn delimited(delimiter: &str, strips_cr: bool) -> Framing {
        Framing::Delimited { delimiter: delimiter.parse().unwrap(), strips_cr }
    }

    /// Checks that the chunks make no difference.
    fn check(framing: &Framing, input: &[u8], expected: &[Line]) {
        for size in 1..=input.len().max(1) {
            let chunks: Vec<_> = input.chunks(size).collect();
            assert_eq!(split_by(framing, &chunks), expected, "{framing:?} in chunks of {size}");
        }
    }

    #[test]
    fn every_framing_is_independent_of_chunks() {
        check(&delimited("\\r\\n", false), b"a\r\n\r\nb\rc\n\r\r\nd", &whole(&["a", "", "b\rc\n\r", "d"]));
        check(&delimited("aab", false), b"xaaabyaab", &whole(&["xa", "y"]));
        check(&delimited("\\0", false), b"a\nb\0c", &whole(&["a\nb", "c"]));
        check(&delimited("\\n", true), b"a\r\n\r\nb\r\r\nc\r", &whole(&["a", "", "b\r", "c"]));
        let prefixed = b"\0\0\0\x02ab\0\0\0\0\0\0\0\x01c";
        check(&Framing::LengthPrefixed, prefixed, &whole(&["ab", "", "c"]));
        check(&Framing::LengthPrefixed, &prefixed[..9], &[&whole(&["ab"])[..], &[Line::Incomplete]].concat());
        check(&Framing::WholeFile, b"a\nb\n", &whole(&["a\nb\n"]));
        assert_eq!(split_by(&Framing::WholeFile, &[]), whole(&[""]), "an empty file is a message");
        assert_eq!(split_by(&Framing::LengthPrefixed, &[]), []);
    }

    #[test]
    fn too_long_messages_are_skipped_in_every_framing() {
        let long = vec![b'x'; MAX_LINE + 1];
        let chunks = |end: &'static [u8]| [&long[..MAX_LINE / 2], &long[MAX_LINE / 2..], end].concat();
        let expected = [&[Line::TooLong], &whole(&["ab"])[..]].concat();
        assert_eq!(split_by(&delimited("\\r\\n", false), &[&chunks(b"\r"), b"\nab"]), expected);
        let length = (long.len() as u32).to_be_bytes();
        let input = [&length, &chunks(b"\0\0\0\x02ab")[..]].concat();
        assert_eq!(split_by(&Framing::LengthPrefixed, &input.chunks(65_536).collect::<Vec<_>>()), expected);
    }
}
