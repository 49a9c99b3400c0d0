//! Frames that wait to be written, in order.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf as _, Bytes, BytesMut};
use metaq_protocol::{Command, PutRef};

/// Bodies from this size on are written from where they are; smaller ones are copied into the outbox, which
/// is cheaper than another slice for the kernel.
const BY_REFERENCE_FROM: usize = 8 * 1024;

/// The number of bytes that are worth a write.
const WORTH_A_WRITE: usize = 64 * 1024;

/// So few void frames are left where they are.
const MIN_VOIDS: usize = 32;

/// A drained buffer larger than this is given back to the allocator.
const KEEP_CAPACITY: usize = 1024 * 1024;

/// Encoded frames in the order in which they go out.
///
/// Small frames stand one after another in `inline`; a large body stays where the caller put it and is
/// spliced in by position. Two outboxes take turns: senders fill one while the other is being written.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    inline: BytesMut,
    /// The number of bytes that have left `inline` since it was empty of frames for the first time.
    inline_left: u64,
    large: VecDeque<LargeBody>,
    large_len: usize,
    frames: VecDeque<QueuedFrame>,
    /// The number of bytes of the first frame that were handed to the operating system.
    started: usize,
    /// The number of void frames.
    voids: usize,
    /// The bytes of void frames in `inline`.
    void_inline: usize,
}

#[derive(Debug)]
struct LargeBody {
    /// The number of bytes that have left `inline` when this body's turn comes.
    after: u64,
    /// The number of the frame that it belongs to.
    number: u64,
    body: Bytes,
}

#[derive(Debug)]
struct QueuedFrame {
    /// Number of the frame on its connection; later frames have higher ones.
    number: u64,
    inline: usize,
    large: usize,
    /// It is not written. Its bytes are skipped, or taken out together with those of others.
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

    /// Whether so much waits that senders should let it be written. A large body took its sender less work than as many
    /// bytes of small frames did, and no memory.
    #[inline]
    pub(crate) fn is_worth_a_write(&self) -> bool {
        self.inline.len() + self.large_len / 8 >= WORTH_A_WRITE
    }

    /// The number of frames that wait.
    pub(crate) fn frames(&self) -> usize {
        self.frames.len() - self.voids
    }

    /// The number of bytes that wait in the outbox's own buffer; large bodies don't count.
    pub(crate) fn inline_len(&self) -> usize {
        self.inline.len()
    }

    /// Appends the frame of `command`, which has this `number`.
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

    /// The same for a put; a large payload stays where it is.
    pub(crate) fn push_put(&mut self, number: u64, put: &PutRef<'_>) {
        let before = self.inline.len();
        // Both are empty where the put is too long to be written at all; then nothing is.
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

    /// Fills `slices` with what comes next; returns how many were used.
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

    /// The same, frame by frame.
    #[cold]
    fn fill_slices_without_voids<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut used = 0;
        let mut large = self.large.iter();
        // What of `inline` is to be written next, without a void frame within.
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

    /// Drops the first `written` bytes: the operating system has them.
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

    /// The same, frame by frame. What was written is known before any body is dropped, whose destructor may panic.
    #[cold]
    fn advance_over_voids(&mut self, written: usize) {
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
        // The bodies of void frames are gone, but not their places.
        let first = self.frames.front().map_or(u64::MAX, |frame| frame.number);
        while self.large.front().is_some_and(|large| large.number < first) {
            self.large.pop_front();
        }
    }

    /// Drops the first bytes, whatever frames they belong to.
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

    /// The number of the first frame of which no byte was written.
    pub(crate) fn first_unwritten(&self) -> Option<u64> {
        self.frames.get(usize::from(self.started > 0)).map(|frame| frame.number)
    }

    /// Sees to it that the frame with this number, of which nothing was written, never is; bodies go to `drop_body`.
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
            // It takes no more work than there are void frames.
            self.remove_voids();
        }
    }

    fn is_mostly_void(&self) -> bool {
        self.void_inline > WORTH_A_WRITE && self.void_inline > self.inline.len() / 2
    }

    /// Takes the void frames out.
    fn remove_voids(&mut self) {
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

    /// Keeps only what was begun; bodies of other frames go to `drop_body`.
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

    /// Nobody knows what of it was written: all of it may have been. Bodies go to `drop_body`.
    pub(crate) fn assume_written(&mut self, drop_body: impl FnMut(Bytes)) {
        std::mem::take(self).large.into_iter().map(|large| large.body).for_each(drop_body);
    }
}

/// Adds a slice, if it isn't empty; false when there is no place for it.
fn push_slice<'a>(bytes: &'a [u8], slices: &mut [IoSlice<'a>], used: &mut usize) -> bool {
    if bytes.is_empty() {
        return true;
    }
    let Some(slice) = slices.get_mut(*used) else { return false };
    *slice = IoSlice::new(bytes);
    *used += 1;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use metaq_protocol::{Opaque, PutCommand, Topic};

    fn put(n: u16, size: usize) -> Command {
        let topic = Topic::new("t").unwrap();
        let mut put =
            PutCommand::new(topic, 0, Bytes::from(vec![b'a' + (n % 26) as u8; size]), Some("attribute"));
        put.opaque = Opaque(n.into());
        put.into()
    }

    fn puts(sizes: &[usize]) -> Vec<Command> {
        sizes.iter().enumerate().map(|(n, size)| put(n as u16, *size)).collect()
    }

    fn filled(commands: &[Command]) -> Outbox {
        let mut outbox = Outbox::default();
        commands.iter().enumerate().for_each(|(n, command)| outbox.push(n as u64, command));
        outbox
    }

    fn expected<'a>(commands: impl IntoIterator<Item = &'a Command>) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        commands.into_iter().for_each(|command| command.encode(&mut bytes));
        bytes.to_vec()
    }

    /// Writes everything through a few slices, at most `step` bytes at a time.
    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let used = outbox.fill_slices(&mut slices);
            let next: Vec<u8> =
                slices[..used].iter().flat_map(|slice| slice.iter().copied()).take(step).collect();
            assert!(!next.is_empty(), "something is left but no slice shows it");
            out.extend_from_slice(&next);
            outbox.advance(next.len());
        }
        assert_eq!((outbox.voids, outbox.void_inline, outbox.large_len, outbox.inline.len()), (0, 0, 0, 0));
        out
    }

    const SIZES: [usize; 7] = [5, BY_REFERENCE_FROM, 0, BY_REFERENCE_FROM + 1, BY_REFERENCE_FROM * 3, 17, 18];

    #[test]
    fn writes_small_and_large_frames_in_order_however_the_writes_are_cut() {
        let commands = puts(&SIZES);
        let wanted = expected(&commands);
        for step in [1, 7, 100, BY_REFERENCE_FROM, usize::MAX] {
            let mut outbox = filled(&commands);
            assert!(drain(&mut outbox, step) == wanted, "step {step}");
            assert_eq!(outbox.first_unwritten(), None);
        }
    }

    #[test]
    fn void_frames_are_skipped_wherever_they_are() {
        let commands = puts(&SIZES);
        for begun in [0, 1, 60, 200, BY_REFERENCE_FROM + 90] {
            let first = {
                let mut outbox = filled(&commands);
                outbox.advance(begun);
                outbox.first_unwritten().unwrap()
            };
            for pattern in 0..1_u32 << SIZES.len() {
                let is_void = |n: usize| n as u64 >= first && pattern & (1 << n) != 0;
                let kept = commands.iter().enumerate().filter(|(n, _)| !is_void(*n));
                let wanted = expected(kept.map(|(_, command)| command)).split_off(begun);
                for (step, removes) in [(7_000, false), (usize::MAX, false), (usize::MAX, true)] {
                    let mut outbox = filled(&commands);
                    outbox.advance(begun);
                    let mut bodies = 0;
                    for n in (0..SIZES.len()).filter(|n| is_void(*n)).rev() {
                        outbox.void(n as u64, |_| bodies += 1);
                        outbox.void(n as u64, |_| panic!("it is void already"));
                    }
                    if removes && !outbox.is_empty() {
                        outbox.remove_voids();
                    }
                    let large = |n: &usize| is_void(*n) && SIZES[*n] >= BY_REFERENCE_FROM;
                    assert_eq!(bodies, (0..SIZES.len()).filter(large).count());
                    assert!(drain(&mut outbox, step) == wanted, "begun {begun} pattern {pattern:b}");
                }
            }
        }
    }

    #[test]
    fn what_was_written_is_known_also_if_a_destructor_panics() {
        struct Panics;
        impl AsRef<[u8]> for Panics {
            fn as_ref(&self) -> &[u8] {
                &[7; BY_REFERENCE_FROM]
            }
        }
        impl Drop for Panics {
            fn drop(&mut self) {
                panic!("the payload's destructor panics");
            }
        }
        for has_void in [false, true] {
            let mut outbox = filled(&puts(&[5]));
            if has_void {
                outbox.push(1, &puts(&[5])[0]);
                outbox.void(1, |_| {});
            }
            let topic = Topic::new("t").unwrap();
            outbox.push(2, &PutCommand::new(topic, 0, Bytes::from_owner(Panics), None).into());
            outbox.push(3, &puts(&[5])[0]);
            outbox.push(4, &puts(&[5])[0]);
            let all: usize = outbox.frames.iter().filter(|frame| !frame.void).map(QueuedFrame::len).sum();
            let last = outbox.frames.back().unwrap().len();
            let advanced = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                outbox.advance(all - last);
            }));
            assert!(advanced.is_err());
            assert_eq!(outbox.first_unwritten(), Some(4), "with a void frame: {has_void}");
            std::mem::forget(outbox);
        }
    }

    #[test]
    fn only_what_was_begun_remains_of_a_connection_that_stalls() {
        let commands = puts(&SIZES);
        for begun in [0, 1, 25, 60, 200, BY_REFERENCE_FROM + 30] {
            let mut outbox = filled(&commands);
            outbox.advance(begun);
            let first = outbox.first_unwritten().unwrap();
            let mut bodies = 0;
            outbox.remove_unwritten(|_| bodies += 1);
            let whole = expected(commands.iter().take(first as usize));
            assert!(drain(&mut outbox, usize::MAX) == whole[begun..], "begun {begun}");
            let large = SIZES[first as usize..].iter().filter(|size| **size >= BY_REFERENCE_FROM).count();
            assert_eq!(bodies, large);
        }
    }

    #[test]
    fn a_small_frame_among_many_that_expire_is_moved_seldom() {
        let commands = puts(&[4096; 2_000]);
        let mut outbox = filled(&commands);
        let (mut moved, mut before) = (0, outbox.frames.len());
        for n in 0..1_999 {
            outbox.void(n, |_| {});
            if outbox.frames.len() < before {
                moved += outbox.frames.len();
                before = outbox.frames.len();
            }
        }
        assert!(moved <= 2_000, "{moved} frames were moved for 1999 that expired");
        assert!(outbox.inline.len() < 64 * 4200, "void frames take no memory for long");
        assert!(drain(&mut outbox, usize::MAX) == expected(&commands[1_999..]));
    }
}
