//! The splitter of chunks into lines.

use std::mem;

use bytes::Bytes;

use super::{Line, MAX_LINE};

/// Splits chunks into lines.
///
/// Lines that lie completely in one chunk share one copy of their part of it; a line that began in an earlier
/// chunk has its own memory. In either case lines retain no more memory than their bytes, and those of their
/// neighbours, take.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    /// The beginning of a line whose end has not been read yet.
    begun: Vec<u8>,
    /// Set when that line is longer than the limit; its bytes are dropped.
    too_long: bool,
}

impl Splitter {
    /// Returns the lines that a chunk completes.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Vec<Line> {
        let Some(end_of_first) = chunk.iter().position(|byte| *byte == b'\n') else {
            self.begin(chunk);
            return Vec::new();
        };
        let mut lines = Vec::new();
        let mut whole = chunk;
        if !self.begun.is_empty() || self.too_long {
            self.begin(&chunk[..end_of_first]);
            lines.push(self.take());
            whole = &chunk[end_of_first + 1..];
        }
        let end_of_last = whole.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (whole, begun) = whole.split_at(end_of_last);
        let whole = Bytes::copy_from_slice(whole);
        let mut start = 0;
        for (at, byte) in whole.iter().enumerate() {
            if *byte == b'\n' {
                lines.push(Line::Whole(whole.slice(start..at)));
                start = at + 1;
            }
        }
        self.begin(begun);
        lines
    }

    /// Returns the last line, if it has no line feed.
    pub(super) fn end(&mut self) -> Vec<Line> {
        if self.begun.is_empty() && !self.too_long { Vec::new() } else { vec![self.take()] }
    }

    fn begin(&mut self, part: &[u8]) {
        if self.begun.len() + part.len() > MAX_LINE {
            self.too_long = true;
            self.begun = Vec::new();
        } else if !self.too_long {
            self.begun.extend_from_slice(part);
        }
    }

    fn take(&mut self) -> Line {
        let line = mem::take(&mut self.begun);
        if mem::take(&mut self.too_long) {
            return Line::TooLong;
        }
        // The vector has grown by doubling; the allocator reclaims the excess in place.
        Line::Whole(line.into_boxed_slice().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<Line> {
        let mut splitter = Splitter::default();
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
}
