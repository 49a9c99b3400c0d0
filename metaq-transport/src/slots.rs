//! The requests of one connection that await their answers, found again by their opaque.

use std::task::Waker;

use metaq_protocol::{Opaque, Response};
use tokio::time::Instant;

use crate::{Progress, TransportError};

pub(crate) type Outcome = Result<Response, TransportError>;

/// The most requests one connection can await at once: an opaque has sixteen bits for the slot.
pub(crate) const MAX_SLOTS: usize = 1 << 16;

/// A slot and which of its successive users is meant.
///
/// The opaque on the wire is this key: the index in the low half, the generation in the high half. An answer that
/// comes twice, or was never asked for, finds another generation and is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotKey {
    pub(crate) index: u16,
    generation: u16,
}

impl SlotKey {
    pub(crate) fn opaque(self) -> Opaque {
        Opaque(i32::from_be_bytes([
            self.generation.to_be_bytes()[0],
            self.generation.to_be_bytes()[1],
            self.index.to_be_bytes()[0],
            self.index.to_be_bytes()[1],
        ]))
    }

    pub(crate) fn from_opaque(opaque: Opaque) -> Self {
        let [g0, g1, i0, i1] = opaque.0.to_be_bytes();
        Self { index: u16::from_be_bytes([i0, i1]), generation: u16::from_be_bytes([g0, g1]) }
    }
}

/// What the caller's side of a request is doing.
#[derive(Debug)]
enum Caller {
    /// Nobody will ask for the outcome: it was taken, or the future was dropped.
    Gone,
    /// The outcome is awaited; the waker is that of the caller's future, once it was polled.
    Waiting(Option<Waker>),
    /// The outcome waits for the caller's future.
    Done(Outcome),
}

/// What the broker's side of a request is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// No answer is to be expected.
    None,
    /// The answer is awaited.
    Awaited,
    /// The caller was told that time is up, but the request was written: the slot stays taken until the answer
    /// comes or the connection ends, so that a late answer can't meet another request.
    Overdue,
}

/// A slot is free when the caller is gone and no answer is expected.
#[derive(Debug)]
struct Slot {
    generation: u16,
    caller: Caller,
    answer: Answer,
    deadline: Instant,
    /// The number of the request's frame on its connection.
    frame: u64,
    /// What the request counts for in the limit of bytes.
    bytes: usize,
}

/// What became of an answer.
pub(crate) enum Delivered {
    /// It was awaited. The room of so many bytes is free again, and this is who to wake.
    Answered { bytes: usize, waker: Option<Waker> },
    /// Its request had been given up already.
    Late,
    /// Nobody asked for it.
    Unknown,
}

#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u16>,
}

impl Slots {
    /// Takes a slot; none when all are taken.
    pub(crate) fn take(&mut self, deadline: Instant, frame: u64, bytes: usize) -> Option<SlotKey> {
        let (caller, answer) = (Caller::Waiting(None), Answer::Awaited);
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[usize::from(index)];
            let generation = slot.generation.wrapping_add(1);
            *slot = Slot { generation, caller, answer, deadline, frame, bytes };
            return Some(SlotKey { index, generation });
        }
        let index = u16::try_from(self.slots.len()).ok()?;
        self.slots.push(Slot { generation: 0, caller, answer, deadline, frame, bytes });
        Some(SlotKey { index, generation: 0 })
    }

    fn get(&mut self, key: SlotKey) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(key.index)).filter(|slot| slot.generation == key.generation)
    }

    fn free_if_over(&mut self, index: u16) {
        let slot = &self.slots[usize::from(index)];
        if matches!(slot.caller, Caller::Gone) && slot.answer == Answer::None {
            self.free.push(index);
        }
    }

    /// Puts the answer into its slot.
    pub(crate) fn deliver(&mut self, opaque: Opaque, response: impl FnOnce() -> Response) -> Delivered {
        let key = SlotKey::from_opaque(opaque);
        let Some(slot) = self.get(key) else {
            return Delivered::Unknown;
        };
        let delivered = match std::mem::replace(&mut slot.answer, Answer::None) {
            Answer::None => return Delivered::Unknown,
            Answer::Overdue => Delivered::Late,
            Answer::Awaited => {
                let waker = slot.finish(|| Ok(response()));
                Delivered::Answered { bytes: slot.bytes, waker }
            }
        };
        self.free_if_over(key.index);
        delivered
    }

    /// Takes the outcome out of the slot, or leaves `waker` there to be told.
    pub(crate) fn poll(&mut self, key: SlotKey, waker: &Waker) -> Option<Outcome> {
        let slot = self.get(key)?;
        match std::mem::replace(&mut slot.caller, Caller::Gone) {
            Caller::Done(outcome) => {
                self.free_if_over(key.index);
                Some(outcome)
            }
            Caller::Waiting(Some(known)) if known.will_wake(waker) => {
                slot.caller = Caller::Waiting(Some(known));
                None
            }
            Caller::Waiting(_) => {
                slot.caller = Caller::Waiting(Some(waker.clone()));
                None
            }
            Caller::Gone => None,
        }
    }

    /// The caller's future is gone: nobody will take the outcome.
    pub(crate) fn abandon(&mut self, key: SlotKey) {
        let Some(slot) = self.get(key) else { return };
        if !matches!(slot.caller, Caller::Gone) {
            slot.caller = Caller::Gone;
            self.free_if_over(key.index);
        }
    }

    /// The earliest deadline of all requests that await their answer.
    pub(crate) fn earliest_deadline(&self) -> Option<Instant> {
        let awaited = self.slots.iter().filter(|slot| slot.answer == Answer::Awaited);
        awaited.map(|slot| slot.deadline).min()
    }

    /// Whether the request in slot `index` awaits its answer beyond its deadline.
    pub(crate) fn is_overdue(&self, index: u16, now: Instant) -> bool {
        let slot = &self.slots[usize::from(index)];
        slot.answer == Answer::Awaited && slot.deadline <= now
    }

    /// Ends every request that awaits its answer beyond its deadline. Frames from number `first_unwritten` on
    /// were not written. `error` makes the error; `ended` is told how far the request came, the bytes it gives back
    /// and whom to wake.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        first_unwritten: u64,
        error: impl Fn(Progress) -> TransportError,
        mut ended: impl FnMut(Progress, usize, Option<Waker>),
    ) {
        for index in 0..self.slots.len() {
            if !self.is_overdue(index as u16, now) {
                continue;
            }
            let slot = &mut self.slots[index];
            let progress = slot.progress(first_unwritten);
            slot.answer = match progress {
                Progress::NotWritten => Answer::None,
                Progress::Written => Answer::Overdue,
            };
            let waker = slot.finish(|| Err(error(progress)));
            ended(progress, slot.bytes, waker);
            self.free_if_over(index as u16);
        }
    }

    /// The connection is gone: ends every request, overdue ones too. Parameters as for [`expire`](Self::expire).
    pub(crate) fn fail_all(
        &mut self,
        first_unwritten: u64,
        error: impl Fn(Progress) -> TransportError,
        mut ended: impl FnMut(usize, Option<Waker>),
    ) {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            match std::mem::replace(&mut slot.answer, Answer::None) {
                Answer::None => continue,
                Answer::Overdue => {}
                Answer::Awaited => {
                    let progress = slot.progress(first_unwritten);
                    let waker = slot.finish(|| Err(error(progress)));
                    ended(slot.bytes, waker);
                }
            }
            self.free_if_over(index as u16);
        }
    }
}

impl Slot {
    fn progress(&self, first_unwritten: u64) -> Progress {
        if self.frame >= first_unwritten { Progress::NotWritten } else { Progress::Written }
    }

    /// Hands the outcome to the caller, if there still is one; returns whom to wake.
    fn finish(&mut self, outcome: impl FnOnce() -> Outcome) -> Option<Waker> {
        match std::mem::replace(&mut self.caller, Caller::Gone) {
            Caller::Waiting(waker) => {
                self.caller = Caller::Done(outcome());
                waker
            }
            other => {
                self.caller = other;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use metaq_protocol::{BooleanCommand, BrokerAddr, Status};

    use super::*;
    use crate::TransportErrorKind;

    fn response(key: SlotKey) -> Response {
        BooleanCommand::new(Status::SUCCESS, Bytes::new(), key.opaque()).into()
    }

    fn error(progress: Progress) -> TransportError {
        TransportError::new(TransportErrorKind::TimedOut, BrokerAddr::new("h", 1).unwrap())
            .with_progress(progress)
    }

    #[test]
    fn an_opaque_leads_back_to_its_slot() {
        for (index, generation) in [(0, 0), (1, 0), (65535, 1), (7, 65535), (65535, 65535), (0, 32768)] {
            let key = SlotKey { index, generation };
            assert_eq!(SlotKey::from_opaque(key.opaque()), key);
        }
    }

    #[test]
    fn a_repeated_answer_does_not_reach_the_next_user_of_the_slot() {
        let now = Instant::now();
        let mut slots = Slots::default();
        let first = slots.take(now, 0, 1).unwrap();
        assert!(matches!(
            slots.deliver(first.opaque(), || response(first)),
            Delivered::Answered { bytes: 1, .. }
        ));
        assert!(slots.poll(first, Waker::noop()).unwrap().is_ok());
        let second = slots.take(now, 1, 1).unwrap();
        assert_eq!(second.index, first.index, "the slot is used again");
        assert!(matches!(slots.deliver(first.opaque(), || response(first)), Delivered::Unknown));
        assert!(slots.poll(second, Waker::noop()).is_none());
    }

    #[test]
    fn an_overdue_slot_is_kept_for_the_late_answer_only_if_the_request_was_written() {
        let now = Instant::now();
        let mut slots = Slots::default();
        let written = slots.take(now, 0, 10).unwrap();
        let unwritten = slots.take(now, 1, 20).unwrap();
        let later = slots.take(now + Duration::from_secs(1), 2, 30).unwrap();
        let mut ended = Vec::new();
        slots.expire(now, 1, error, |progress, bytes, _| ended.push((progress, bytes)));
        assert_eq!(ended, [(Progress::Written, 10), (Progress::NotWritten, 20)]);
        for key in [written, unwritten] {
            let error = slots.poll(key, Waker::noop()).unwrap().unwrap_err();
            assert_eq!(error.kind(), TransportErrorKind::TimedOut);
        }
        assert_eq!(slots.free, [unwritten.index]);
        assert!(matches!(slots.deliver(written.opaque(), || response(written)), Delivered::Late));
        assert_eq!(slots.free, [unwritten.index, written.index]);
        assert_eq!(slots.earliest_deadline(), Some(now + Duration::from_secs(1)));
        assert!(slots.poll(later, Waker::noop()).is_none());
    }

    #[test]
    fn an_abandoned_request_frees_its_slot_when_it_is_answered() {
        let mut slots = Slots::default();
        let key = slots.take(Instant::now(), 0, 1).unwrap();
        slots.abandon(key);
        assert!(slots.free.is_empty(), "its answer is still to come");
        assert!(matches!(slots.deliver(key.opaque(), || response(key)), Delivered::Answered { .. }));
        assert_eq!(slots.free, [key.index]);
    }

    #[test]
    fn a_lost_connection_ends_everything_and_frees_every_slot() {
        let now = Instant::now();
        let mut slots = Slots::default();
        let keys: Vec<_> = (0..4).map(|n| slots.take(now, n, 1).unwrap()).collect();
        slots.expire(now, 1, error, |_, _, _| {});
        let more = slots.take(now, 9, 1).unwrap();
        slots.abandon(more);
        let mut count = 0;
        slots.fail_all(9, error, |_, _| count += 1);
        assert_eq!(count, 1, "the others had ended before");
        keys.iter().for_each(|key| assert!(slots.poll(*key, Waker::noop()).unwrap().is_err()));
        let mut free = slots.free.clone();
        free.sort_unstable();
        assert_eq!(free, [0, 1, 2, 3, 4].map(|n| n as u16)[..slots.slots.len()]);
    }

    #[test]
    fn there_is_an_end_to_the_slots() {
        let mut slots = Slots::default();
        let now = Instant::now();
        (0..MAX_SLOTS as u64).for_each(|n| assert!(slots.take(now, n, 0).is_some()));
        assert!(slots.take(now, 0, 0).is_none());
    }
}
