//! Frames that wait to be written, in order.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf as _, Bytes, BytesMut};
use metaq_protocol::{Command, PutRef};

/// Bodies from this size on are written from where they are; smaller ones are copied into the outbox, which
/// is cheaper than another slice for the kernel.
const BY_REFERENCE_FROM: usize = 8 * 1024;

/// So many bytes are worth a write.
const WORTH_A_WRITE: usize = 64 * 1024;

/// A drained buffer larger than this is given back to the allocator.
const KEEP_CAPACITY: usize = 1024 * 1024;

/// Encoded frames in the order in which they go out.
///
/// Small frames stand one after another in `inline`; a large body stays where the caller put it and is
/// spliced in by position. Two outboxes take turns: senders fill one while the other is being written.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    inline: BytesMut,
    /// How many bytes have left `inline` since it was empty of frames for the first time.
    inline_left: u64,
    large: VecDeque<LargeBody>,
    large_len: usize,
    frames: VecDeque<QueuedFrame>,
    /// How many bytes of the first frame were already handed to the operating system.
    started: usize,
}

#[derive(Debug)]
struct LargeBody {
    /// How many bytes have left `inline` when this body's turn comes.
    after: u64,
    body: Bytes,
}

#[derive(Debug)]
struct QueuedFrame {
    /// Number of the frame on its connection; later frames have higher ones.
    number: u64,
    slot: u16,
    inline: usize,
    large: usize,
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

    /// How many frames wait.
    pub(crate) fn frames(&self) -> usize {
        self.frames.len()
    }

    /// How many bytes wait in the outbox's own buffer; large bodies don't count.
    pub(crate) fn inline_len(&self) -> usize {
        self.inline.len()
    }

    /// Appends the frame of `command`, which has this `number` and belongs to `slot`.
    pub(crate) fn push(&mut self, number: u64, slot: u16, command: &Command) {
        if let Command::Put(put) = command {
            return self.push_put(number, slot, &put.as_put());
        }
        let before = self.inline.len();
        command.encode(&mut self.inline);
        self.frames.push_back(QueuedFrame { number, slot, inline: self.inline.len() - before, large: 0 });
    }

    /// The same for a put; a large payload stays where it is.
    pub(crate) fn push_put(&mut self, number: u64, slot: u16, put: &PutRef<'_>) {
        let before = self.inline.len();
        let payload = put.data.payload();
        let mut large = 0;
        if payload.len() < BY_REFERENCE_FROM {
            put.encode(&mut self.inline);
        } else {
            put.encode_head(&mut self.inline);
            self.inline.extend_from_slice(put.data.attribute_block());
            large = payload.len();
            self.push_large(payload.clone());
        }
        self.frames.push_back(QueuedFrame { number, slot, inline: self.inline.len() - before, large });
    }

    fn push_large(&mut self, body: Bytes) {
        self.large_len += body.len();
        self.large.push_back(LargeBody { after: self.inline_left + self.inline.len() as u64, body });
    }

    /// Fills `slices` with what comes next; returns how many were used.
    pub(crate) fn fill_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
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

    /// Drops the first `written` bytes: the operating system has them.
    pub(crate) fn advance(&mut self, written: usize) {
        self.started += written;
        while let Some(frame) = self.frames.front().filter(|frame| frame.len() <= self.started) {
            self.started -= frame.len();
            self.frames.pop_front();
        }
        let mut left = written;
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
        if self.frames.is_empty() && self.inline.capacity() > KEEP_CAPACITY {
            self.inline = BytesMut::new();
        }
    }

    /// The number of the first frame of which no byte was written.
    pub(crate) fn first_unwritten(&self) -> Option<u64> {
        self.frames.get(usize::from(self.started > 0)).map(|frame| frame.number)
    }

    /// Takes out the frames for whose slots `unwanted` holds, unless a part of them was written.
    pub(crate) fn remove_unwritten(&mut self, mut unwanted: impl FnMut(u16) -> bool) {
        let mut old = std::mem::take(self);
        let mut begun = std::mem::take(&mut old.started);
        self.started = begun;
        for frame in old.frames {
            // A frame's inline part goes out before its large one.
            let inline = old.inline.split_to(frame.inline.saturating_sub(begun));
            let large = if frame.large > 0 { old.large.pop_front() } else { None };
            if begun == 0 && unwanted(frame.slot) {
                continue;
            }
            begun = 0;
            self.inline.extend_from_slice(&inline);
            if let Some(LargeBody { body, .. }) = large {
                self.push_large(body);
            }
            self.frames.push_back(frame);
        }
    }
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

    fn expected(commands: &[&Command]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        commands.iter().for_each(|command| command.encode(&mut bytes));
        bytes.to_vec()
    }

    /// Writes everything through `slices` slices, at most `step` bytes at a time.
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
        out
    }

    #[test]
    fn writes_small_and_large_frames_in_order_however_the_writes_are_cut() {
        let sizes = [5, BY_REFERENCE_FROM, 0, BY_REFERENCE_FROM + 1, BY_REFERENCE_FROM * 3, 17, 18];
        let commands: Vec<_> = sizes.iter().enumerate().map(|(n, size)| put(n as u16, *size)).collect();
        let wanted = expected(&commands.iter().collect::<Vec<_>>());
        for step in [1, 7, 100, BY_REFERENCE_FROM, usize::MAX] {
            let mut outbox = Outbox::default();
            commands.iter().enumerate().for_each(|(n, command)| outbox.push(n as u64, n as u16, command));
            assert!(drain(&mut outbox, step) == wanted, "step {step}");
            assert_eq!(outbox.first_unwritten(), None);
        }
    }

    #[test]
    fn removes_only_frames_that_were_not_begun() {
        let commands: Vec<_> = [10, BY_REFERENCE_FROM, 20, BY_REFERENCE_FROM, 30]
            .iter()
            .enumerate()
            .map(|(n, s)| put(n as u16, *s))
            .collect();
        for begun in [0, 1, 25, 60, 200, BY_REFERENCE_FROM + 30] {
            let mut outbox = Outbox::default();
            commands.iter().enumerate().for_each(|(n, command)| outbox.push(n as u64, n as u16, command));
            outbox.advance(begun);
            let first = outbox.first_unwritten().unwrap();
            outbox.remove_unwritten(|slot| slot != 2);
            let kept = commands.iter().enumerate().filter(|(n, _)| (*n as u64) < first || *n == 2);
            let whole = expected(&kept.map(|(_, command)| command).collect::<Vec<_>>());
            assert!(drain(&mut outbox, usize::MAX) == whole[begun..], "begun {begun}");
        }
    }
}
