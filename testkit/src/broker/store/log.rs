//! The log of a partition: its messages one after another, in segments.

use std::{fs, io, path::PathBuf, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::segment::{Contents, Segment};

/// The time at which messages become readable. In a Java broker this is when they are written through to the
/// disk, after their puts were acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flush {
    /// Before the put is acknowledged, as with `unflushThreshold=0`.
    AtOnce,
    /// Once more than `messages` of a partition are unreadable, or `interval` has passed since its last
    /// flush: `unflushThreshold` and `unflushInterval`, shipped as 1000 messages and 10 s.
    After {
        /// The number of messages that may wait.
        messages: u64,
        /// The time that they may wait.
        interval: Duration,
    },
    /// Only by [`Broker::flush`](crate::Broker::flush).
    ByHand,
}

/// The settings of every log of a broker.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct LogSettings {
    pub(in crate::broker) flush: Flush,
    pub(in crate::broker) max_segment: u64,
}

/// The log of one partition.
#[derive(Debug)]
pub(in crate::broker) struct Log {
    /// The folder of its files; none in memory.
    folder: Option<PathBuf>,
    settings: LogSettings,
    sealed: Vec<Segment>,
    active: Segment,
    /// The end of the readable part.
    readable_to: u64,
    unflushed: u64,
    last_flush: Instant,
    pub(in crate::broker) messages: u64,
    /// The number of appends: all messages that a transaction adds are one append.
    pub(in crate::broker) appends: u64,
    /// Set when the broker has ended: its folder may belong to another.
    closed: bool,
}

impl Log {
    fn new(folder: Option<PathBuf>, settings: LogSettings, sealed: Vec<Segment>, active: Segment) -> Self {
        let (readable_to, last_flush) = (active.end_offset(), Instant::now());
        Self {
            folder,
            settings,
            sealed,
            active,
            readable_to,
            unflushed: 0,
            last_flush,
            messages: 0,
            appends: 0,
            closed: false,
        }
    }

    pub(super) fn in_memory(settings: LogSettings) -> Self {
        Self::new(None, settings, Vec::new(), Segment::in_memory(0))
    }

    /// Opens the log in a folder, creating the folder if there is none. Also returns the highest id in it.
    pub(super) fn open(folder: PathBuf, settings: LogSettings) -> io::Result<(Self, Option<i64>)> {
        fs::create_dir_all(&folder)?;
        let (mut segments, Contents { messages, highest_id, .. }) = Segment::open_all(&folder)?;
        let active = match segments.pop() {
            Some(active) => active,
            None => Segment::create(&folder, 0)?,
        };
        let log = Self { messages, appends: messages, ..Self::new(Some(folder), settings, segments, active) };
        Ok((log, highest_id))
    }

    /// Appends `messages` messages, about `len` bytes, which `write` writes. Returns their offset. Stores
    /// nothing if it fails.
    pub(super) fn append(
        &mut self,
        messages: u64,
        len: usize,
        write: impl FnOnce(&mut BytesMut),
    ) -> io::Result<u64> {
        if self.closed {
            return Err(io::Error::other("the broker has ended"));
        }
        if self.active_is_full() {
            self.roll()?;
        }
        let offset = self.end_offset();
        self.active.append(len, write)?;
        // The messages are stored: a failure from here on happens again, and is reported, with the next
        // message.
        self.messages += messages;
        self.appends += 1;
        match self.settings.flush {
            Flush::AtOnce => self.readable_to = self.end_offset(),
            Flush::After { messages: limit, .. } => {
                if self.unflushed == 0 && self.readable_to == offset {
                    // The interval begins with the first message that waits, not with the last flush.
                    self.last_flush = Instant::now();
                }
                self.unflushed += messages;
                if self.unflushed > limit {
                    let _ = self.flush();
                }
            }
            Flush::ByHand => {}
        }
        if self.active_is_full() {
            let _ = self.roll();
        }
        self.active.close_if_too_many_open();
        Ok(offset)
    }

    fn active_is_full(&self) -> bool {
        self.active.len >= self.settings.max_segment
    }

    /// Begins a new segment.
    fn roll(&mut self) -> io::Result<()> {
        self.flush()?;
        let start = self.end_offset();
        let next = match &self.folder {
            Some(folder) => Segment::create(folder, start)?,
            None => Segment::in_memory(start),
        };
        let mut full = std::mem::replace(&mut self.active, next);
        full.seal();
        self.sealed.push(full);
        Ok(())
    }

    /// Refuses messages from now on. Reading still works.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.active.seal();
    }

    /// Makes everything readable, and writes it through to the disk.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.active.sync()?;
        self.readable_to = self.end_offset();
        self.unflushed = 0;
        self.last_flush = Instant::now();
        Ok(())
    }

    /// Returns the offset of the next message.
    pub(in crate::broker) fn end_offset(&self) -> u64 {
        self.active.end_offset()
    }

    pub(in crate::broker) fn first_offset(&self) -> u64 {
        self.sealed.first().unwrap_or(&self.active).start
    }

    pub(in crate::broker) fn len(&self) -> u64 {
        self.end_offset() - self.first_offset()
    }

    /// Returns the end of the part that is readable now.
    pub(in crate::broker) fn readable_end(&mut self) -> u64 {
        if let Flush::After { interval, .. } = self.settings.flush
            && self.unflushed > 0
            && self.last_flush.elapsed() >= interval
        {
            // If the disk fails here, the next message fails as well, and reports it.
            let _ = self.flush();
        }
        self.readable_to
    }

    /// Returns at most `max` bytes of the segment that contains `offset`, which has to be readable. They may
    /// extend beyond the readable part (protocol §3.2).
    pub(in crate::broker) fn read(&mut self, offset: u64, max: usize) -> io::Result<Bytes> {
        let closed = self.closed;
        let (segment, is_active) = match self.sealed_segment(offset) {
            Some(segment) => (segment, false),
            None => (&mut self.active, true),
        };
        let bytes = segment.read(offset, max);
        if is_active && !closed {
            segment.close_if_too_many_open();
        } else {
            segment.seal();
        }
        bytes
    }

    /// Returns the offset at which the segment that contains `offset` begins.
    pub(in crate::broker) fn segment_start(&mut self, offset: u64) -> u64 {
        self.sealed_segment(offset).map(|segment| segment.start).unwrap_or(self.active.start)
    }

    /// Returns the segment that contains `offset`, unless it is the active one.
    fn sealed_segment(&mut self, offset: u64) -> Option<&mut Segment> {
        let index = self.sealed.partition_point(|segment| segment.end_offset() <= offset);
        self.sealed.get_mut(index)
    }

    /// Drops the oldest segment, as a Java broker does by its `deletePolicy`. Returns its length in bytes, or
    /// `None` if only the active segment is left.
    pub(super) fn drop_oldest_segment(&mut self) -> io::Result<Option<u64>> {
        let Some(oldest) = self.sealed.first_mut().filter(|_| !self.closed) else { return Ok(None) };
        let messages = oldest.contents()?.messages;
        oldest.seal();
        oldest.remove()?;
        let len = oldest.len;
        self.messages = self.messages.saturating_sub(messages);
        self.sealed.remove(0);
        Ok(Some(len))
    }
}
