//! Frames of puts, encoded in advance or one by one, and written together.

use std::{
    io::{self, IoSlice, Write},
    ops::Range,
};

use bytes::{Bytes, BytesMut};
use metaq_protocol::{Opaque, PutCommand, Topic};

/// Payloads of this size or larger are not copied behind their header, but written from their own memory.
const BY_REFERENCE: usize = 4 * 1024;

/// Limit on the slices in one vectored write.
const SLICES: usize = 1024;

/// The work for each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is nothing between the two")]
pub enum Work {
    /// None: the frames are encoded in advance, checksums included.
    PreEncoded,
    /// Builds the command, with its checksum, and encodes it, as a producer does.
    Encode,
}

/// An endless sequence of puts with the opaques `0..window`, repeated.
#[derive(Debug)]
pub struct Puts {
    work: Work,
    topic: Topic,
    partitions: i32,
    payload: Bytes,
    window: usize,
    next: usize,
    /// The frames encoded in advance, or those of the current write. Payloads written by reference are not
    /// included.
    frames: BytesMut,
    /// The range of each frame in `frames`.
    ranges: Vec<Range<usize>>,
}

impl Puts {
    /// Returns puts of `size` bytes to the partitions of a topic in turn.
    #[must_use]
    pub fn new(work: Work, topic: Topic, partitions: u32, size: usize, window: usize) -> Self {
        let (payload, partitions) = (Bytes::from(vec![b'x'; size]), partitions.max(1) as i32);
        let (frames, ranges) = (BytesMut::new(), Vec::new());
        let mut puts = Self { work, topic, partitions, payload, window, next: 0, frames, ranges };
        if work == Work::PreEncoded {
            (0..window).for_each(|opaque| puts.encode(opaque));
        }
        puts
    }

    /// Returns the size of each payload, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.payload.len()
    }

    /// Returns the number of puts in flight.
    #[must_use]
    pub fn window(&self) -> usize {
        self.window
    }

    fn encode(&mut self, opaque: usize) {
        let partition = opaque as i32 % self.partitions;
        let put = PutCommand::new(self.topic.clone(), partition, self.payload.clone(), None);
        let put = put.with_opaque(Opaque(opaque as i32));
        let start = self.frames.len();
        if self.payload.len() < BY_REFERENCE {
            put.encode(&mut self.frames);
        } else {
            put.encode_head(&mut self.frames);
        }
        self.ranges.push(start..self.frames.len());
    }

    /// Writes the next `count` puts.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn write(&mut self, stream: &mut impl Write, mut count: usize) -> io::Result<()> {
        while count > 0 {
            let first = self.next;
            let now = count.min(self.window - first);
            if self.work == Work::Encode {
                self.frames.clear();
                self.ranges.clear();
                (first..first + now).for_each(|opaque| self.encode(opaque));
                self.write_ranges(stream, 0..now)?;
            } else {
                self.write_ranges(stream, first..first + now)?;
            }
            self.next = (first + now) % self.window;
            count -= now;
        }
        Ok(())
    }

    fn write_ranges(&self, stream: &mut impl Write, which: Range<usize>) -> io::Result<()> {
        let ranges = &self.ranges[which];
        if self.payload.len() < BY_REFERENCE {
            let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Ok(()) };
            return stream.write_all(&self.frames[first.start..last.end]);
        }
        for ranges in ranges.chunks(SLICES / 2) {
            let slices =
                |range: &Range<usize>| [&self.frames[range.clone()], &self.payload[..]].map(IoSlice::new);
            let mut slices: Vec<_> = ranges.iter().flat_map(slices).collect();
            let mut left = &mut slices[..];
            while !left.is_empty() {
                match stream.write_vectored(left)? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    written => IoSlice::advance_slices(&mut left, written),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use metaq_protocol::{Command, Decoder, Frame};

    use super::*;

    fn opaques(work: Work, size: usize) -> Vec<i32> {
        let mut puts = Puts::new(work, "t".parse().unwrap(), 2, size, 3);
        let (mut written, mut decoder) = (Vec::new(), Decoder::new());
        [3, 1, 2, 3].into_iter().for_each(|count| puts.write(&mut written, count).unwrap());
        let mut written = BytesMut::from(&written[..]);
        let mut opaques = Vec::new();
        while let Some(Frame::Command(Command::Put(put))) = decoder.decode(&mut written).unwrap() {
            assert!(put.data.len() == size && put.checksum.matches(put.data.payload()));
            assert_eq!(put.partition, put.opaque.0 % 2);
            opaques.push(put.opaque.0);
        }
        assert!(written.is_empty());
        opaques
    }

    #[test]
    fn writes_whole_puts_in_turn() {
        for work in [Work::PreEncoded, Work::Encode] {
            for size in [0, 128, BY_REFERENCE, 100_000] {
                assert_eq!(opaques(work, size), [0, 1, 2, 0, 1, 2, 0, 1, 2], "{work:?} {size}");
            }
        }
    }
}
