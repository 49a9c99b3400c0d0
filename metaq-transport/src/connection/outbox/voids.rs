//! Void frames: frames that must not be written any more, because their requests have failed.
//!
//! Their bytes stay in the buffer until a write skips them, or until there are enough of them to take them
//! out together.

use std::io::IoSlice;

use bytes::Bytes;

use super::{LargeBody, Outbox, WORTH_A_WRITE};

/// The number of void frames up to which they are left in place.
const MIN_VOIDS: usize = 32;

impl Outbox {
    /// Makes sure that the frame with this number, of which no byte was written, never is. Its body goes to
    /// `drop_body`.
    pub(crate) fn void(&mut self, number: u64, drop_body: impl FnOnce(Bytes)) {
        let index = self.frames.partition_point(|frame| frame.number < number);
        let begun = usize::from(self.started > 0);
        let Some(frame) = self.frames.get_mut(index).filter(|frame| frame.number == number && !frame.void)
        else {
            return;
        };
        debug_assert!(index >= begun, "it was begun");
        frame.void = true;
        let (inline, has_body) = (frame.inline, frame.large > 0);
        self.voids += 1;
        self.void_inline += inline;
        if has_body && let Ok(body) = self.large.binary_search_by_key(&number, |large| large.number) {
            let body = std::mem::take(&mut self.large[body].body);
            self.large_len -= body.len();
            drop_body(body);
        }
        if self.voids == self.frames.len() {
            *self = Self::default();
        } else if self.voids > MIN_VOIDS && (self.voids > self.frames.len() / 2 || self.is_mostly_void()) {
            // The work is bounded by the number or the bytes of void frames.
            self.remove_voids();
        }
    }

    /// Returns whether void frames take most of the buffer.
    fn is_mostly_void(&self) -> bool {
        self.void_inline > WORTH_A_WRITE && self.void_inline > self.inline.len() / 2
    }

    /// Takes the void frames out.
    pub(super) fn remove_voids(&mut self) {
        let mut old = std::mem::take(self);
        let mut begun = std::mem::take(&mut old.started);
        self.started = begun;
        for frame in old.frames {
            // A frame's inline part goes out before its large one.
            let inline = old.inline.split_to(frame.inline.saturating_sub(begun));
            let large = if frame.large > 0 { old.large.pop_front() } else { None };
            begun = 0;
            if frame.void {
                continue;
            }
            self.inline.extend_from_slice(&inline);
            if let Some(LargeBody { body, number, .. }) = large {
                self.push_large(body, number);
            }
            self.frames.push_back(frame);
        }
    }

    /// [`fill_slices`](Self::fill_slices) frame by frame, without void ones.
    #[cold]
    pub(super) fn fill_slices_without_voids<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut used = 0;
        let mut large = self.large.iter();
        // The next range of `inline` without a void frame.
        let (mut from, mut to) = (0, 0);
        let mut started = self.started;
        for frame in &self.frames {
            let inline = frame.inline.saturating_sub(started);
            started = 0;
            let body = if frame.large > 0 { large.next() } else { None };
            if frame.void {
                if !push_slice(&self.inline[from..to], slices, &mut used) {
                    return used;
                }
                (from, to) = (to + inline, to + inline);
                continue;
            }
            to += inline;
            if let Some(body) = body {
                if !push_slice(&self.inline[from..to], slices, &mut used)
                    || !push_slice(&body.body, slices, &mut used)
                {
                    return used;
                }
                from = to;
            }
        }
        push_slice(&self.inline[from..to], slices, &mut used);
        used
    }

    /// [`advance`](Self::advance) frame by frame, over void ones.
    ///
    /// All counts are updated before any body is dropped, whose destructor may panic.
    #[cold]
    pub(super) fn advance_over_voids(&mut self, written: usize) {
        let mut left = written;
        let mut void = 0;
        while let Some(frame) = self.frames.front() {
            let length = frame.len() - self.started;
            if frame.void {
                self.voids -= 1;
                self.void_inline -= frame.inline;
                void += frame.inline;
            } else if length > left {
                self.started += left;
                break;
            } else {
                self.started = 0;
                left -= length;
            }
            self.frames.pop_front();
        }
        self.consume(written + void);
        // The bodies of void frames are dropped already, but their entries are not.
        let first = self.frames.front().map_or(u64::MAX, |frame| frame.number);
        while self.large.front().is_some_and(|large| large.number < first) {
            self.large.pop_front();
        }
    }
}

/// Adds a slice unless it is empty. Returns false when there is no place for it.
fn push_slice<'a>(bytes: &'a [u8], slices: &mut [IoSlice<'a>], used: &mut usize) -> bool {
    if bytes.is_empty() {
        return true;
    }
    let Some(slice) = slices.get_mut(*used) else { return false };
    *slice = IoSlice::new(bytes);
    *used += 1;
    true
}
