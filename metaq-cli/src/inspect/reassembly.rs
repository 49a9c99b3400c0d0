//! The streams of bytes in TCP segments, which may come twice, overlap, or be out of order.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Limit on the bytes that wait for earlier ones. When there are more, those are missing in the capture.
const MAX_WAITING: usize = 4 << 20;

/// A segment of one direction.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) sequence: u32,
    pub(super) is_start: bool,
    pub(super) payload: Bytes,
}

/// Bytes in order, or a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Bytes(Bytes),
    /// This number of bytes is missing in the capture. Nothing follows.
    Missing(u64),
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    /// The sequence number of the next byte, once it is known, and the number of bytes before it.
    next: Option<(u32, u64)>,
    /// Segments that came early, by their positions.
    early: BTreeMap<u64, Bytes>,
    waiting: usize,
    is_over: bool,
}

impl Reassembly {
    /// Adds a segment. Returns what follows the bytes before.
    pub(super) fn add(&mut self, segment: Segment) -> Vec<Piece> {
        if self.is_over {
            return Vec::new();
        }
        let Segment { sequence, is_start, mut payload } = segment;
        // The flag that starts a stream takes a number.
        let first = if is_start { sequence.wrapping_add(1) } else { sequence };
        // A capture may begin in the middle.
        let (next, position) = *self.next.get_or_insert((first, 0));
        let distance = i64::from(first.wrapping_sub(next) as i32);
        let begin = position as i64 + distance;
        let late = position as i64 - begin;
        if late > 0 {
            // It came before, at least in part.
            let known = payload.len().min(late as usize);
            drop(payload.split_to(known));
        }
        if payload.is_empty() {
            return Vec::new();
        }
        let begin = begin.max(position as i64) as u64;
        let longer = self.early.get(&begin).is_none_or(|known| known.len() < payload.len());
        if longer {
            self.waiting += payload.len();
            if let Some(known) = self.early.insert(begin, payload) {
                self.waiting -= known.len();
            }
        }
        let mut pieces = self.take_ready();
        if self.waiting > MAX_WAITING {
            pieces.extend(self.end());
        }
        pieces
    }

    fn take_ready(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        while let Some((next, position)) = self.next.as_mut()
            && let Some(entry) = self.early.first_entry()
            && *entry.key() <= *position
        {
            let (begin, mut bytes) = entry.remove_entry();
            self.waiting -= bytes.len();
            let known = usize::try_from(*position - begin).unwrap_or(usize::MAX).min(bytes.len());
            drop(bytes.split_to(known));
            if !bytes.is_empty() {
                *next = next.wrapping_add(bytes.len() as u32);
                *position += bytes.len() as u64;
                pieces.push(Piece::Bytes(bytes));
            }
        }
        pieces
    }

    /// Ends the stream. Returns the gap before segments that still wait.
    pub(super) fn end(&mut self) -> Option<Piece> {
        let (begin, _) = self.early.first_key_value()?;
        let missing = begin - self.next.map_or(0, |(_, position)| position);
        self.early.clear();
        self.is_over = true;
        Some(Piece::Missing(missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(sequence: u32, payload: &'static [u8]) -> Segment {
        Segment { sequence, is_start: false, payload: Bytes::from_static(payload) }
    }

    fn text(pieces: &[Piece]) -> Vec<u8> {
        let bytes = |piece: &Piece| match piece {
            Piece::Bytes(bytes) => bytes.to_vec(),
            Piece::Missing(_) => panic!("bytes are missing"),
        };
        pieces.iter().flat_map(bytes).collect()
    }

    #[test]
    fn every_order_and_overlap_gives_the_same_bytes() {
        let parts: [(u32, &[u8]); 6] =
            [(0, b"abc"), (3, b"def"), (6, b"ghi"), (1, b"bcde"), (4, b"efghi"), (0, b"a")];
        let mut random = 1_u64;
        for base in [0, 1000, u32::MAX - 4] {
            for _ in 0..500 {
                let mut order: Vec<_> = parts.to_vec();
                for at in (1..order.len()).rev() {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    order.swap(at, (random >> 33) as usize % (at + 1));
                }
                let mut stream = Reassembly::default();
                let start = Segment { sequence: base.wrapping_sub(1), is_start: true, payload: Bytes::new() };
                let mut pieces = stream.add(start);
                for (offset, payload) in order {
                    pieces.append(&mut stream.add(segment(base.wrapping_add(offset), payload)));
                }
                assert_eq!(text(&pieces), b"abcdefghi");
                assert_eq!(stream.end(), None);
            }
        }
    }

    #[test]
    fn missing_bytes_end_the_stream() {
        let mut stream = Reassembly::default();
        assert_eq!(text(&stream.add(segment(10, b"abc"))), b"abc");
        assert_eq!(stream.add(segment(20, b"later")), []);
        assert_eq!(stream.end(), Some(Piece::Missing(7)));
        assert_eq!(stream.add(segment(13, b"too late")), []);
        let mut stream = Reassembly::default();
        stream.add(segment(0, b"a"));
        let large = Bytes::from(vec![b'x'; MAX_WAITING + 1]);
        let pieces = stream.add(Segment { sequence: 5, is_start: false, payload: large });
        assert_eq!(pieces, [Piece::Missing(4)]);
    }
}
