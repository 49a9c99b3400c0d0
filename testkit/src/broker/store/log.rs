//! A partition's log: its messages one after another, in segments.

use std::{fs, io, path::PathBuf, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::segment::{Contents, Segment};

/// The time at which messages become readable, which in a Java broker is when they are written through to the
/// disk; a put is answered before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flush {
    /// Before the put is answered, as with `unflushThreshold=0`.
    AtOnce,
    /// Once more than so many messages of a partition are not readable yet, or so much time has gone by since its last
    /// flush: `unflushThreshold` and `unflushInterval`, which are shipped as 1000 messages and 10 s.
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

#[derive(Debug)]
pub(in crate::broker) struct Log {
    /// The folder of its files; none in memory.
    folder: Option<PathBuf>,
    settings: LogSettings,
    sealed: Vec<Segment>,
    active: Segment,
    /// Up to where it is readable.
    readable_to: u64,
    unflushed: u64,
    last_flush: Instant,
    pub(in crate::broker) messages: u64,
    /// The number of times that it was appended to: all messages that a transaction has for it are one append.
    pub(in crate::broker) appends: u64,
    /// The broker has ended: its folder may be another's.
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

    /// The log in a folder, which is made when there is none. Returns the highest id in it, too.
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

    /// Appends `messages` messages, about `len` bytes, which `write` writes. Returns where they begin. If it fails, nothing
    /// is stored.
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
        // It is stored: whatever fails from here on fails again, and is reported, with the next message.
        self.messages += messages;
        self.appends += 1;
        match self.settings.flush {
            Flush::AtOnce => self.readable_to = self.end_offset(),
            Flush::After { messages: limit, .. } => {
                if self.unflushed == 0 && self.readable_to == offset {
                    // Time counts from the first message that waits, or it would have run out long ago.
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

    /// Refuses messages from now on. They can still be read.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.active.seal();
    }

    /// Makes everything readable, and lasting.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.active.sync()?;
        self.readable_to = self.end_offset();
        self.unflushed = 0;
        self.last_flush = Instant::now();
        Ok(())
    }

    /// The offset at which the next message will begin.
    pub(in crate::broker) fn end_offset(&self) -> u64 {
        self.active.end_offset()
    }

    pub(in crate::broker) fn first_offset(&self) -> u64 {
        self.sealed.first().unwrap_or(&self.active).start
    }

    pub(in crate::broker) fn len(&self) -> u64 {
        self.end_offset() - self.first_offset()
    }

    /// Up to where it is readable now.
    pub(in crate::broker) fn readable_end(&mut self) -> u64 {
        if let Flush::After { interval, .. } = self.settings.flush
            && self.unflushed > 0
            && self.last_flush.elapsed() >= interval
        {
            // A disk that fails here fails the next message as well, which then tells.
            let _ = self.flush();
        }
        self.readable_to
    }

    /// At most `max` bytes of the segment that holds `offset`, which has to be readable. They may go beyond what is
    /// readable (protocol §3.2).
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

    /// The offset at which the segment begins that holds `offset`.
    pub(in crate::broker) fn segment_start(&mut self, offset: u64) -> u64 {
        self.sealed_segment(offset).map(|segment| segment.start).unwrap_or(self.active.start)
    }

    /// The segment that holds `offset`, unless it is the last.
    fn sealed_segment(&mut self, offset: u64) -> Option<&mut Segment> {
        let index = self.sealed.partition_point(|segment| segment.end_offset() <= offset);
        self.sealed.get_mut(index)
    }

    /// Drops the oldest segment, as a Java broker does with what is older than its `deletePolicy` says. Returns how many
    /// bytes it had; none when there is only the one that is written to.
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
