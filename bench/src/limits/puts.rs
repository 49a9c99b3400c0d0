//! Frames of puts, made beforehand or one by one, and written together.

use std::{
    io::{self, IoSlice, Write},
    ops::Range,
};

use bytes::{Bytes, BytesMut};
use metaq_protocol::{Opaque, PutCommand, Topic};

/// From this size on a payload is written from where it lies instead of being copied behind its header.
const BY_REFERENCE: usize = 4 * 1024;

/// How many slices a system takes at once.
const SLICES: usize = 1024;

/// What is done for each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is nothing between the two")]
pub enum Work {
    /// Nothing: the frames were made beforehand, checksums included.
    PreEncoded,
    /// A command is made with its checksum and encoded, as in a producer.
    Encode,
}

/// The source of what is written: puts with the opaques `0..window`, again and again.
#[derive(Debug)]
pub struct Puts {
    work: Work,
    topic: Topic,
    partitions: i32,
    payload: Bytes,
    window: usize,
    next: usize,
    /// Pre-encoded frames, or what was encoded for this write. Without payloads when they are written by reference.
    frames: BytesMut,
    /// Where each frame lies there.
    places: Vec<Range<usize>>,
}

impl Puts {
    /// Puts of `size` bytes to the partitions of a topic in turn.
    #[must_use]
    pub fn new(work: Work, topic: Topic, partitions: u32, size: usize, window: usize) -> Self {
        let (payload, partitions) = (Bytes::from(vec![b'x'; size]), partitions.max(1) as i32);
        let (frames, places) = (BytesMut::new(), Vec::new());
        let mut puts = Self { work, topic, partitions, payload, window, next: 0, frames, places };
        if work == Work::PreEncoded {
            (0..window).for_each(|opaque| puts.encode(opaque));
        }
        puts
    }

    /// Bytes of payload in each.
    #[must_use]
    pub fn size(&self) -> usize {
        self.payload.len()
    }

    /// How many there may be in flight.
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
        self.places.push(start..self.frames.len());
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
                self.places.clear();
                (first..first + now).for_each(|opaque| self.encode(opaque));
                self.write_places(stream, 0..now)?;
            } else {
                self.write_places(stream, first..first + now)?;
            }
            self.next = (first + now) % self.window;
            count -= now;
        }
        Ok(())
    }

    fn write_places(&self, stream: &mut impl Write, which: Range<usize>) -> io::Result<()> {
        let places = &self.places[which];
        if self.payload.len() < BY_REFERENCE {
            let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(()) };
            return stream.write_all(&self.frames[first.start..last.end]);
        }
        for places in places.chunks(SLICES / 2) {
            let slices =
                |place: &Range<usize>| [&self.frames[place.clone()], &self.payload[..]].map(IoSlice::new);
            let mut slices: Vec<_> = places.iter().flat_map(slices).collect();
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
