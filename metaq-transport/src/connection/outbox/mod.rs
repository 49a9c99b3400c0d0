//! Encoded frames on their way to the socket, in order.
//!
//! [`Outbox`] takes frames, shows them as slices for a vectored write, and drops what was written. `voids`
//! handles frames that must not be written any more. An outbox knows no sockets and no requests: a frame is a
//! number and its bytes.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf as _, Bytes, BytesMut};
use metaq_protocol::{Command, PutRef};

#[cfg(test)]
mod tests;
mod voids;

/// The size from which on bodies are not copied. Copying a smaller one is cheaper than another slice for the
/// kernel.
const BY_REFERENCE_FROM: usize = 8 * 1024;

/// The number of bytes at which senders should let the driver write.
const WORTH_A_WRITE: usize = 64 * 1024;

/// The largest capacity that a drained buffer keeps.
const KEEP_CAPACITY: usize = 1024 * 1024;

/// Encoded frames in the order in which they are written.
///
/// Small frames are appended to `inline`. A large body stays where the caller put it, and is spliced in by
/// position. Two outboxes take turns: senders fill one while the driver writes the other.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    inline: BytesMut,
    /// The number of bytes that have left `inline` so far, written or skipped.
    inline_left: u64,
    large: VecDeque<LargeBody>,
    large_len: usize,
    frames: VecDeque<QueuedFrame>,
    /// The number of bytes of the first frame that the operating system has accepted.
    started: usize,
    /// The number of void frames.
    voids: usize,
    /// The bytes of void frames in `inline`.
    void_inline: usize,
}

#[derive(Debug)]
struct LargeBody {
    /// The value of `inline_left` at which this body is next.
    after: u64,
    /// The number of the frame that it belongs to.
    number: u64,
    body: Bytes,
}

#[derive(Debug)]
struct QueuedFrame {
    /// The number of the frame on its connection; later frames have higher ones.
    number: u64,
    /// The number of its bytes in `inline`.
    inline: usize,
    /// The number of its bytes in a large body.
    large: usize,
    /// Set if the frame must not be written.
    void: bool,
}

impl QueuedFrame {
    fn len(&self) -> usize {
        self.inline + self.large
    }
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Returns whether it is full enough that senders should let the driver write.
    ///
    /// Large bodies count for an eighth: they took their senders less work than small frames of as many
    /// bytes, and no memory.
    #[inline]
    pub(crate) fn is_worth_writing(&self) -> bool {
        self.inline.len() + self.large_len / 8 >= WORTH_A_WRITE
    }

    /// Returns the number of frames, without void ones.
    pub(crate) fn frames(&self) -> usize {
        self.frames.len() - self.voids
    }

    /// Returns the number of bytes in the buffer, without large bodies.
    pub(crate) fn inline_len(&self) -> usize {
        self.inline.len()
    }

    /// Appends the frame of `command` with this `number`.
    pub(crate) fn push(&mut self, number: u64, command: &Command) {
        if let Command::Put(put) = command {
            return self.push_put(number, &put.as_put());
        }
        let before = self.inline.len();
        command.encode(&mut self.inline);
        self.frames.push_back(QueuedFrame {
            number,
            inline: self.inline.len() - before,
            large: 0,
            void: false,
        });
    }

    /// Appends the frame of a put. A large payload is not copied.
    pub(crate) fn push_put(&mut self, number: u64, put: &PutRef<'_>) {
        let before = self.inline.len();
        // Both are empty if the put is too long for a frame; then no bytes are appended.
        let (block, payload) = put.body_parts();
        let mut large = 0;
        if payload.len() < BY_REFERENCE_FROM {
            put.encode(&mut self.inline);
        } else {
            put.encode_head(&mut self.inline);
            self.inline.extend_from_slice(block);
            large = payload.len();
            self.push_large(payload.clone(), number);
        }
        self.frames.push_back(QueuedFrame { number, inline: self.inline.len() - before, large, void: false });
    }

    fn push_large(&mut self, body: Bytes, number: u64) {
        self.large_len += body.len();
        let after = self.inline_left + self.inline.len() as u64;
        self.large.push_back(LargeBody { after, number, body });
    }

    /// Fills `slices` with the bytes to write next. Returns how many slices were used.
    #[inline]
    pub(crate) fn fill_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        if self.voids > 0 {
            return self.fill_slices_without_voids(slices);
        }
        let mut used = 0;
        let mut from = 0;
        for large in &self.large {
            if used + 2 > slices.len() {
                return used;
            }
            let to = (large.after - self.inline_left) as usize;
            if to > from {
                slices[used] = IoSlice::new(&self.inline[from..to]);
                used += 1;
            }
            slices[used] = IoSlice::new(&large.body);
            used += 1;
            from = to;
        }
        if from < self.inline.len() && used < slices.len() {
            slices[used] = IoSlice::new(&self.inline[from..]);
            used += 1;
        }
        used
    }

    /// Drops the first `written` bytes, which the operating system has accepted.
    pub(crate) fn advance(&mut self, written: usize) {
        if self.voids > 0 {
            self.advance_over_voids(written);
        } else {
            self.started += written;
            while let Some(frame) = self.frames.front().filter(|frame| frame.len() <= self.started) {
                self.started -= frame.len();
                self.frames.pop_front();
            }
            self.consume(written);
        }
        if self.frames.is_empty() && self.inline.capacity() > KEEP_CAPACITY {
            self.inline = BytesMut::new();
        }
    }

    /// Drops the first `bytes` bytes, void or not.
    fn consume(&mut self, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let before_large = self
                .large
                .front()
                .map_or(self.inline.len(), |large| (large.after - self.inline_left) as usize);
            if before_large > 0 {
                let step = before_large.min(left);
                self.inline.advance(step);
                self.inline_left += step as u64;
                left -= step;
            } else if let Some(large) = self.large.front_mut() {
                let step = large.body.len().min(left);
                large.body.advance(step);
                self.large_len -= step;
                left -= step;
                if large.body.is_empty() {
                    self.large.pop_front();
                }
            } else {
                debug_assert_eq!(left, 0, "more bytes were written than there were");
                break;
            }
        }
    }

    /// Returns the number of the first frame of which no byte was written.
    pub(crate) fn first_unwritten(&self) -> Option<u64> {
        self.frames.get(usize::from(self.started > 0)).map(|frame| frame.number)
    }

    /// Keeps only the frame that is partly written. The bodies of other frames go to `drop_body`.
    pub(crate) fn remove_unwritten(&mut self, mut drop_body: impl FnMut(Bytes)) {
        let mut old = std::mem::take(self);
        if let Some(frame) = old.frames.pop_front().filter(|_| old.started > 0) {
            self.started = old.started;
            self.inline.extend_from_slice(&old.inline[..frame.inline.saturating_sub(old.started)]);
            let large = if frame.large > 0 { old.large.pop_front() } else { None };
            if let Some(LargeBody { body, number, .. }) = large {
                self.push_large(body, number);
            }
            self.frames.push_back(frame);
        }
        old.large.into_iter().for_each(|large| drop_body(large.body));
    }

    /// Clears the outbox, all of which may have been written. Bodies go to `drop_body`.
    pub(crate) fn assume_written(&mut self, drop_body: impl FnMut(Bytes)) {
        std::mem::take(self).large.into_iter().map(|large| large.body).for_each(drop_body);
    }
}
