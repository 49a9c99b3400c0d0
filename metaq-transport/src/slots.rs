//! The requests of one connection that await their answers, found again by their opaque.

use std::{cmp::Reverse, collections::BinaryHeap, task::Waker};

use metaq_protocol::{BooleanCommand, Opaque, PutResponse, Response, ResponseRef, Status};
use tokio::time::Instant;

use crate::{Progress, ReceivedResponse, ResponseBody, TransportError, response::ResponseResult};

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

/// The caller's side of a request.
#[derive(Debug)]
pub(crate) enum Caller {
    /// Nobody will ask for the outcome: it was taken, or the future was dropped.
    Gone,
    /// The outcome is awaited; the waker is that of the caller's future, once it was polled.
    Future(Option<Waker>),
    /// The outcome is told to the connection's n-th listener, by this token.
    Listener {
        listener: u8,
        token: u64,
    },
    /// A thread is about to tell the listener that time is up.
    TimingOut {
        listener: u8,
        token: u64,
    },
    /// The listener was told that time is up, and is to be told when the broker is done with the request.
    TimedOut {
        listener: u8,
        token: u64,
    },
    /// The outcome waits for the caller's future.
    Responded(CompactResponse),
    Failed(TransportError),
}

/// An answer on its way to the caller. The answer to a put is kept as the three numbers that it is; everything else is rare,
/// hence boxed: a slot is one cache line.
#[derive(Debug)]
pub(crate) enum CompactResponse {
    Stored(PutResponse),
    Other(Box<Response>),
}

impl CompactResponse {
    pub(crate) fn read(response: &ResponseRef<'_>) -> Self {
        match response.put_response() {
            Ok(stored) if response.status() == Some(Status::SUCCESS) => Self::Stored(stored),
            _ => Self::Other(Box::new(response.to_response())),
        }
    }

    /// The answer to a put, or to something else.
    #[inline]
    fn into_body(self, is_put: bool, opaque: Opaque) -> ResponseBody {
        match self {
            Self::Stored(stored) if is_put => ResponseBody::Stored(stored),
            Self::Stored(stored) => {
                ResponseBody::Other(BooleanCommand::new(Status::SUCCESS, stored.to_body(), opaque).into())
            }
            Self::Other(response) => ResponseBody::Other(*response),
        }
    }
}

/// The broker's side of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// No answer is to be expected.
    Nothing,
    /// The answer is awaited.
    Response,
    /// The caller was told that time is up, but the request was written: the slot stays taken until the answer
    /// comes or the connection ends, so that a late answer can't meet another request.
    LateResponse,
}

/// A slot is free when the caller is gone and no answer is expected.
#[derive(Debug)]
struct Slot {
    caller: Caller,
    /// The deadline of the answer; once it is there, the time at which it came.
    time: Instant,
    /// The number of the request's frame on its connection.
    frame: u64,
    /// The bytes that the request counts for in the limit.
    bytes: u32,
    generation: u16,
    expected: Expected,
    is_put: bool,
}

/// A request to find a slot for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotRequest {
    pub(crate) deadline: Instant,
    /// The number of its frame on its connection.
    pub(crate) frame: u64,
    /// The bytes that it counts for in the limit.
    pub(crate) bytes: u32,
    /// Whether its answer may say where a message was stored.
    pub(crate) is_put: bool,
    /// The listener for its end; none when a future awaits it.
    pub(crate) listener: Option<(u8, u64)>,
}

/// A request that ended: the room that is free again, and whom that concerns.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) bytes: u32,
    pub(crate) notify: Notify,
}

/// The one whom the end of a request concerns.
#[derive(Debug)]
pub(crate) enum Notify {
    /// The caller is gone, or will look for himself.
    None,
    Waker(Waker),
    Listener {
        listener: u8,
        token: u64,
        outcome: ResponseResult,
    },
}

/// A request that had ended before, and that the broker is done with now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Released {
    pub(crate) listener: u8,
    pub(crate) token: u64,
}

/// A request that ended: its key, its frame, and its progress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expired {
    pub(crate) key: SlotKey,
    pub(crate) frame: u64,
    pub(crate) progress: Progress,
}

/// The delivery of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// It was awaited.
    Answered,
    /// It was awaited, but by nobody outside: a heartbeat.
    Heartbeat,
    /// Its request had been given up already; who is told of that.
    Late(Option<Released>),
    /// Nobody asked for it.
    Unknown,
}

#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// No deadline of an awaited answer that isn't in `deadlines` is before this.
    earliest: Option<Instant>,
    /// The deadlines of what was awaited when something was overdue last. Some may be out of date.
    deadlines: BinaryHeap<Reverse<(Instant, i32)>>,
    /// The number of slots that were looked at for deadlines.
    #[cfg(test)]
    looked_at: usize,
}

impl Slots {
    /// The number of further requests that there are slots for; one is kept for a heartbeat.
    #[inline]
    pub(crate) fn left(&self) -> usize {
        (MAX_SLOTS - 1 + self.free.len()).saturating_sub(self.slots.len())
    }

    /// No deadline of an awaited answer is before this, if there is any.
    #[inline]
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match self.deadlines.peek() {
            None => self.earliest,
            Some(Reverse((next, _))) => Some(self.earliest.map_or(*next, |earliest| earliest.min(*next))),
        }
    }

    /// Sees to it that `next_deadline` is not after `deadline`.
    #[inline]
    pub(crate) fn expect_by(&mut self, deadline: Instant) {
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
    }

    /// Takes a slot; none when all are taken.
    #[inline(always)]
    pub(crate) fn take(&mut self, request: SlotRequest) -> Option<SlotKey> {
        let SlotRequest { deadline: time, frame, bytes, is_put, listener } = request;
        let expected = Expected::Response;
        let caller = match listener {
            Some((listener, token)) => Caller::Listener { listener, token },
            None => Caller::Future(None),
        };
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[usize::from(index)];
            // It is gone. Seen here, nothing has to be dropped below.
            if !matches!(slot.caller, Caller::Gone) {
                slot.caller = Caller::Gone;
            }
            slot.caller = caller;
            slot.time = time;
            slot.frame = frame;
            slot.bytes = bytes;
            slot.generation = slot.generation.wrapping_add(1);
            slot.expected = expected;
            slot.is_put = is_put;
            return Some(SlotKey { index, generation: slot.generation });
        }
        let index = u16::try_from(self.slots.len()).ok()?;
        self.slots.push(Slot { caller, time, frame, bytes, generation: 0, expected, is_put });
        Some(SlotKey { index, generation: 0 })
    }

    fn get(&mut self, key: SlotKey) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(key.index)).filter(|slot| slot.generation == key.generation)
    }

    fn free_if_over(&mut self, index: u16) {
        let slot = &self.slots[usize::from(index)];
        if matches!(slot.caller, Caller::Gone) && slot.expected == Expected::Nothing {
            self.free.push(index);
        }
    }

    /// Puts the answer that came at `now` into its slot; `ended` is told if its request ends by it.
    // Inlined with all that it calls: an outcome that goes through memory from hand to hand takes as long as to read it.
    #[inline(always)]
    pub(crate) fn deliver(
        &mut self,
        opaque: Opaque,
        reply: CompactResponse,
        now: Instant,
        on_completed: impl FnOnce(Completion),
    ) -> Delivered {
        let key = SlotKey::from_opaque(opaque);
        let Some(slot) = self.get(key) else {
            return Delivered::Unknown;
        };
        let delivered = match std::mem::replace(&mut slot.expected, Expected::Nothing) {
            Expected::Nothing => return Delivered::Unknown,
            Expected::LateResponse => Delivered::Late(slot.release()),
            Expected::Response => {
                let is_heartbeat = slot.bytes == 0;
                slot.time = now;
                let is_put = slot.is_put;
                let report = |reply: CompactResponse| {
                    Ok(ReceivedResponse { body: reply.into_body(is_put, opaque), received_at: now })
                };
                slot.finish(reply, Caller::Responded, report, on_completed);
                if is_heartbeat { Delivered::Heartbeat } else { Delivered::Answered }
            }
        };
        self.free_if_over(key.index);
        delivered
    }

    /// Takes the outcome out of the slot, if it is there.
    pub(crate) fn take_outcome(&mut self, key: SlotKey) -> Option<ResponseResult> {
        let slot = self.get(key)?;
        let received_at = slot.time;
        let outcome = match std::mem::replace(&mut slot.caller, Caller::Gone) {
            Caller::Responded(reply) => {
                Ok(ReceivedResponse { body: reply.into_body(slot.is_put, key.opaque()), received_at })
            }
            Caller::Failed(error) => Err(error),
            other => {
                slot.caller = other;
                return None;
            }
        };
        self.free_if_over(key.index);
        Some(outcome)
    }

    /// Whether `waker` is the one that the caller's future left.
    pub(crate) fn is_woken_by(&mut self, key: SlotKey, waker: &Waker) -> bool {
        match self.get(key).map(|slot| &slot.caller) {
            Some(Caller::Future(Some(known))) => known.will_wake(waker),
            _ => false,
        }
    }

    /// Leaves the waker of the caller's future; returns the one that it replaces, to be dropped without the lock.
    pub(crate) fn set_waker(&mut self, key: SlotKey, waker: Waker) -> Option<Waker> {
        match self.get(key).map(|slot| &mut slot.caller) {
            Some(Caller::Future(known)) => known.replace(waker),
            _ => Some(waker),
        }
    }

    /// The caller's future is gone: nobody will take the outcome. What is returned is to be dropped without the lock.
    pub(crate) fn abandon(&mut self, key: SlotKey) -> Caller {
        let Some(slot) = self.get(key) else { return Caller::Gone };
        let caller = std::mem::replace(&mut slot.caller, Caller::Gone);
        if !matches!(caller, Caller::Gone) {
            self.free_if_over(key.index);
        }
        caller
    }

    /// The listeners that are still to be notified.
    pub(crate) fn listeners_in_use(&self) -> [bool; 256] {
        let mut in_use = [false; 256];
        for slot in &self.slots {
            if let Caller::Listener { listener, .. }
            | Caller::TimingOut { listener, .. }
            | Caller::TimedOut { listener, .. } = slot.caller
            {
                in_use[usize::from(listener)] = true;
            }
        }
        in_use
    }

    /// Ends every request that awaits its answer beyond its deadline. `progress_of` says how far a frame came, `error` makes
    /// the error, `ended` is told of each. [`timeout_reported`](Self::timeout_reported) is to be called for each that was written, once its listener
    /// was told: on another thread the connection may end meanwhile.
    ///
    /// It doesn't look at all slots each time: only if a request that came since is overdue.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        progress_of: impl Fn(u64) -> Progress,
        error: impl Fn(Progress) -> TransportError,
        mut on_completed: impl FnMut(Expired, Completion),
    ) {
        if self.earliest.is_some_and(|earliest| earliest <= now) {
            self.look_at_all(now);
        }
        while let Some(Reverse((deadline, opaque))) = self.deadlines.peek().copied() {
            let key = SlotKey::from_opaque(Opaque(opaque));
            // Generations come again after a while; with the same deadline it is no matter which request it was.
            let is_awaited = self
                .get(key)
                .is_some_and(|slot| slot.expected == Expected::Response && slot.time == deadline);
            if is_awaited && deadline > now {
                break;
            }
            self.deadlines.pop();
            if !is_awaited {
                continue;
            }
            let slot = &mut self.slots[usize::from(key.index)];
            let frame = slot.frame;
            let progress = progress_of(frame);
            let late = match (progress, &slot.caller) {
                (Progress::Written, &Caller::Listener { listener, token }) => {
                    Some(Caller::TimingOut { listener, token })
                }
                _ => None,
            };
            slot.expected = match progress {
                Progress::NotWritten => Expected::Nothing,
                Progress::Written => Expected::LateResponse,
            };
            slot.finish(error(progress), Caller::Failed, Err, |completion| {
                on_completed(Expired { key, frame, progress }, completion);
            });
            if let Some(late) = late {
                slot.caller = late;
            }
            self.free_if_over(key.index);
        }
        if self.deadlines.is_empty() && self.deadlines.capacity() > 1024 {
            self.deadlines = BinaryHeap::new();
        }
    }

    /// Finds the deadlines of all that is awaited. Where nothing is overdue, the earliest is all that matters.
    fn look_at_all(&mut self, now: Instant) {
        #[cfg(test)]
        {
            self.looked_at += self.slots.len();
        }
        let awaited = self.slots.iter().filter(|slot| slot.expected == Expected::Response);
        self.earliest = awaited.map(|slot| slot.time).min();
        let any_overdue = self.earliest.is_some_and(|earliest| earliest <= now);
        let mut deadlines = std::mem::take(&mut self.deadlines).into_vec();
        deadlines.clear();
        if any_overdue {
            self.earliest = None;
            let slots = self.slots.iter().enumerate();
            deadlines.extend(slots.filter(|(_, slot)| slot.expected == Expected::Response).map(
                |(index, slot)| {
                    let key = SlotKey { index: index as u16, generation: slot.generation };
                    Reverse((slot.time, key.opaque().0))
                },
            ));
        }
        self.deadlines = deadlines.into();
    }

    /// The listener was told that time is up for this request, by [`expire`](Self::expire). Returns whom to tell
    /// that the broker is done with it, if it is.
    pub(crate) fn timeout_reported(&mut self, key: SlotKey) -> Option<Released> {
        let slot = self.get(key)?;
        let Caller::TimingOut { listener, token } = slot.caller else { return None };
        if slot.expected == Expected::LateResponse {
            slot.caller = Caller::TimedOut { listener, token };
            return None;
        }
        slot.caller = Caller::Gone;
        self.free_if_over(key.index);
        Some(Released { listener, token })
    }

    /// Whether a listener waits for the broker to be done with a request that timed out.
    pub(crate) fn awaits_late_responses(&self) -> bool {
        let is_late = |slot: &Slot| matches!(slot.caller, Caller::TimedOut { .. } | Caller::TimingOut { .. });
        self.slots.iter().any(|slot| slot.expected == Expected::LateResponse && is_late(slot))
    }

    /// Ends every request whose frame was not written: those from number `first_unwritten` on. `error` makes the error,
    /// `ended` is told of each.
    pub(crate) fn fail_unwritten(
        &mut self,
        first_unwritten: u64,
        error: impl Fn(Progress) -> TransportError,
        mut on_completed: impl FnMut(Completion),
    ) {
        let which = |slot: &Slot| slot.frame >= first_unwritten;
        self.fail(first_unwritten, which, error, |completion, _| {
            completion.into_iter().for_each(&mut on_completed)
        });
    }

    /// The connection is gone: ends every request, overdue ones too, of which `ended` is told that the broker is done with them.
    /// Other parameters as for [`fail_unwritten`](Self::fail_unwritten).
    pub(crate) fn fail_all(
        &mut self,
        first_unwritten: u64,
        error: impl Fn(Progress) -> TransportError,
        on_completed: impl FnMut(Option<Completion>, Option<Released>),
    ) {
        self.earliest = None;
        self.deadlines = BinaryHeap::new();
        self.fail(first_unwritten, |_| true, error, on_completed);
    }

    /// Ends the requests that `which` names.
    fn fail(
        &mut self,
        first_unwritten: u64,
        which: impl Fn(&Slot) -> bool,
        error: impl Fn(Progress) -> TransportError,
        mut on_completed: impl FnMut(Option<Completion>, Option<Released>),
    ) {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if slot.expected == Expected::Nothing || !which(slot) {
                continue;
            }
            let progress =
                if slot.frame >= first_unwritten { Progress::NotWritten } else { Progress::Written };
            match std::mem::replace(&mut slot.expected, Expected::Nothing) {
                Expected::Response => {
                    slot.finish(error(progress), Caller::Failed, Err, |completion| {
                        on_completed(Some(completion), None)
                    });
                }
                _ => on_completed(None, slot.release()),
            }
            self.free_if_over(index as u16);
        }
    }
}

impl Slot {
    /// The broker is done with a request that had ended: whom to tell.
    fn release(&mut self) -> Option<Released> {
        let Caller::TimedOut { listener, token } = self.caller else { return None };
        self.caller = Caller::Gone;
        Some(Released { listener, token })
    }

    /// Hands the outcome to the caller, if there still is one: kept in the slot as `keep` makes it, or told to `ended` as
    /// `tell` does.
    #[inline(always)]
    fn finish<T>(
        &mut self,
        outcome: T,
        keep: impl FnOnce(T) -> Caller,
        report: impl FnOnce(T) -> ResponseResult,
        on_completed: impl FnOnce(Completion),
    ) {
        let bytes = self.bytes;
        match &mut self.caller {
            Caller::Listener { listener, token } => {
                let (listener, token) = (*listener, *token);
                self.caller = Caller::Gone;
                on_completed(Completion {
                    bytes,
                    notify: Notify::Listener { listener, token, outcome: report(outcome) },
                });
            }
            Caller::Future(waker) => {
                let notify = waker.take().map_or(Notify::None, Notify::Waker);
                self.caller = keep(outcome);
                on_completed(Completion { bytes, notify });
            }
            _ => on_completed(Completion { bytes, notify: Notify::None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use metaq_protocol::BrokerAddr;

    use super::*;
    use crate::TransportErrorKind;

    fn request(deadline: Instant, frame: u64, bytes: u32) -> SlotRequest {
        SlotRequest { deadline, frame, bytes, is_put: true, listener: None }
    }

    fn deliver(slots: &mut Slots, key: SlotKey) -> (Delivered, Option<Completion>) {
        let response = BooleanCommand::new(Status::SUCCESS, Bytes::new(), key.opaque());
        let mut completion = None;
        let reply = CompactResponse::Other(Box::new(response.into()));
        (slots.deliver(key.opaque(), reply, Instant::now(), |ended| completion = Some(ended)), completion)
    }

    fn poll(slots: &mut Slots, key: SlotKey) -> Option<ResponseResult> {
        slots.take_outcome(key)
    }

    /// Ends what is overdue; frames from number `first_unwritten` on were not written. With `telling`, listeners are not told
    /// yet.
    fn expire(slots: &mut Slots, now: Instant, first_unwritten: u64, telling: bool) -> Vec<(Progress, u32)> {
        let mut ended = Vec::new();
        let progress_of =
            |frame| if frame >= first_unwritten { Progress::NotWritten } else { Progress::Written };
        let mut keys = Vec::new();
        slots.expire(now, progress_of, error, |failed, completion| {
            ended.push((failed.progress, completion.bytes));
            keys.push(failed.key);
        });
        if !telling {
            assert!(keys.into_iter().all(|key| slots.timeout_reported(key).is_none()));
        }
        ended
    }

    fn take(slots: &mut Slots, request: SlotRequest) -> SlotKey {
        slots.expect_by(request.deadline);
        slots.take(request).unwrap()
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
        let first = take(&mut slots, request(now, 0, 1));
        assert!(matches!(
            deliver(&mut slots, first),
            (Delivered::Answered, Some(Completion { bytes: 1, .. }))
        ));
        assert!(poll(&mut slots, first).unwrap().is_ok());
        let second = take(&mut slots, request(now, 1, 1));
        assert_eq!(second.index, first.index, "the slot is used again");
        assert!(matches!(deliver(&mut slots, first), (Delivered::Unknown, None)));
        assert!(poll(&mut slots, second).is_none());
    }

    #[test]
    fn an_overdue_slot_is_kept_for_the_late_answer_only_if_the_request_was_written() {
        let now = Instant::now();
        let mut slots = Slots::default();
        let written = take(&mut slots, request(now, 0, 10));
        let unwritten = take(&mut slots, request(now, 1, 20));
        let later = take(&mut slots, request(now + Duration::from_secs(1), 2, 30));
        let mut ended = expire(&mut slots, now, 1, false);
        ended.sort_by_key(|(_, bytes)| *bytes);
        assert_eq!(ended, [(Progress::Written, 10), (Progress::NotWritten, 20)]);
        for key in [written, unwritten] {
            let error = poll(&mut slots, key).unwrap().unwrap_err();
            assert_eq!(error.kind(), TransportErrorKind::TimedOut);
        }
        assert_eq!(slots.free, [unwritten.index]);
        assert!(matches!(deliver(&mut slots, written), (Delivered::Late(None), None)));
        assert_eq!(slots.free, [unwritten.index, written.index]);
        assert_eq!(slots.next_deadline(), Some(now + Duration::from_secs(1)));
        assert!(poll(&mut slots, later).is_none());
    }

    #[test]
    fn an_abandoned_request_frees_its_slot_when_it_is_answered() {
        let mut slots = Slots::default();
        let key = take(&mut slots, request(Instant::now(), 0, 1));
        slots.abandon(key);
        assert!(slots.free.is_empty(), "its answer is still to come");
        assert!(matches!(deliver(&mut slots, key), (Delivered::Answered, Some(_))));
        assert_eq!(slots.free, [key.index]);
    }

    #[test]
    fn a_lost_connection_ends_everything_and_frees_every_slot() {
        let now = Instant::now();
        let mut slots = Slots::default();
        let keys: Vec<_> = (0..4).map(|n| take(&mut slots, request(now, n, 1))).collect();
        expire(&mut slots, now, 1, false);
        let more = take(&mut slots, request(now, 9, 1));
        slots.abandon(more);
        let mut count = 0;
        slots.fail_all(9, error, |completion, _| count += usize::from(completion.is_some()));
        assert_eq!(count, 1, "the others had ended before");
        keys.iter().for_each(|key| assert!(poll(&mut slots, *key).unwrap().is_err()));
        let mut free = slots.free.clone();
        free.sort_unstable();
        assert_eq!(free, [0, 1, 2, 3, 4].map(|n| n as u16)[..slots.slots.len()]);
    }

    #[test]
    fn what_was_not_written_can_be_taken_back() {
        let (now, mut slots) = (Instant::now(), Slots::default());
        let keys: Vec<_> = (0..4).map(|n| take(&mut slots, request(now, n, 1))).collect();
        let mut ended = Vec::new();
        slots.fail_unwritten(2, error, |completion| ended.push(completion.bytes));
        assert_eq!(ended, [1, 1]);
        assert!(poll(&mut slots, keys[0]).is_none() && poll(&mut slots, keys[1]).is_none());
        assert!(poll(&mut slots, keys[2]).unwrap().is_err());
        assert!(poll(&mut slots, keys[3]).unwrap().is_err());
        assert_eq!(slots.free, [2, 3]);
    }

    #[test]
    fn only_a_put_is_answered_with_a_place() {
        let (now, mut slots) = (Instant::now(), Slots::default());
        let put = take(&mut slots, request(now, 0, 1));
        let other = take(&mut slots, SlotRequest { is_put: false, ..request(now, 1, 1) });
        let place = PutResponse::new(1, 2, 3);
        for key in [put, other] {
            slots.deliver(key.opaque(), CompactResponse::Stored(place), now, |_| {});
        }
        assert_eq!(poll(&mut slots, put).unwrap().unwrap().body, ResponseBody::Stored(place));
        let other = poll(&mut slots, other).unwrap().unwrap();
        assert!(
            matches!(other.into_response(), Some(Response::Boolean(answer)) if &*answer.body == b"1 2 3")
        );
    }

    #[test]
    fn who_was_told_that_time_is_up_is_told_when_the_broker_is_done() {
        let (now, mut slots) = (Instant::now(), Slots::default());
        let with_listener = |token| SlotRequest { listener: Some((3, token)), ..request(now, 0, 1) };
        let keys: Vec<_> = (0..4).map(|token| take(&mut slots, with_listener(token))).collect();
        let unwritten = take(&mut slots, SlotRequest { listener: Some((3, 9)), ..request(now, 9, 1) });
        assert_eq!(expire(&mut slots, now, 9, false).len(), 5);
        let released = |token| Some(Released { listener: 3, token });
        assert_eq!(deliver(&mut slots, keys[1]).0, Delivered::Late(released(1)));
        assert_eq!(deliver(&mut slots, keys[1]).0, Delivered::Unknown);
        assert_eq!(deliver(&mut slots, unwritten).0, Delivered::Unknown);
        let mut all = Vec::new();
        slots.fail_all(9, error, |completion, released| {
            assert!(completion.is_none());
            all.extend(released.map(|released| released.token));
        });
        assert_eq!(all, [0, 2, 3]);
        assert_eq!(slots.free.len(), 5);
    }

    #[test]
    fn the_broker_is_not_done_before_the_listener_was_told_that_time_is_up() {
        let (now, mut slots) = (Instant::now(), Slots::default());
        let with_listener = |token| SlotRequest { listener: Some((3, token)), ..request(now, 0, 1) };
        let [early, late] = [0, 1].map(|token| take(&mut slots, with_listener(token)));
        assert_eq!(expire(&mut slots, now, 9, true).len(), 2);
        assert_eq!(deliver(&mut slots, early).0, Delivered::Late(None), "the other thread is still telling");
        assert_eq!(slots.timeout_reported(early), Some(Released { listener: 3, token: 0 }));
        assert_eq!((slots.timeout_reported(late), slots.timeout_reported(early)), (None, None));
        assert_eq!(deliver(&mut slots, late).0, Delivered::Late(Some(Released { listener: 3, token: 1 })));
        assert_eq!(slots.free.len(), 2);
    }

    #[test]
    fn deadlines_that_pass_one_after_another_take_one_look_at_all_slots() {
        let (start, mut slots) = (Instant::now(), Slots::default());
        let at = |n: u64| start + Duration::from_millis(n);
        let keys: Vec<_> = (0..8_000).map(|n| take(&mut slots, request(at(n), n, 1))).collect();
        for n in 0..8_000 {
            if n % 3 == 0 {
                deliver(&mut slots, keys[n as usize]);
            }
            let ended = expire(&mut slots, at(n), 9_000, false).len();
            assert_eq!(ended, usize::from(n % 3 != 0), "{n}");
        }
        assert!(slots.looked_at <= 16_000, "{}", slots.looked_at);
        assert_eq!(slots.next_deadline(), None);
        let next = take(&mut slots, request(at(1), 9_000, 1));
        assert_eq!(expire(&mut slots, at(9_000), 9_999, false), [(Progress::Written, 1)]);
        assert!(poll(&mut slots, next).is_some());
    }

    #[test]
    fn a_deadline_is_not_taken_for_that_of_a_later_request_in_the_slot() {
        let (start, mut slots) = (Instant::now(), Slots::default());
        let at = |n: u64| start + Duration::from_secs(n);
        let overdue = take(&mut slots, request(at(0), 0, 1));
        let mut key = take(&mut slots, request(at(1), 1, 1));
        let first = key;
        assert_eq!(
            expire(&mut slots, at(0), 9, false).len(),
            1,
            "{overdue:?} leads to a look at all deadlines"
        );
        for n in 0..1 << 16 {
            deliver(&mut slots, key);
            assert!(poll(&mut slots, key).is_some());
            key = take(&mut slots, request(at(100), n, 1));
        }
        assert_eq!(key, first, "the generation has come again");
        assert_eq!(expire(&mut slots, at(1), 9, false), []);
        assert_eq!(expire(&mut slots, at(100), u64::MAX, false), [(Progress::Written, 1)]);
    }

    #[test]
    fn a_slot_is_a_cache_line() {
        assert_eq!(size_of::<Slot>(), 64);
    }

    #[test]
    fn there_is_an_end_to_the_slots() {
        let mut slots = Slots::default();
        let now = Instant::now();
        (0..MAX_SLOTS as u64).for_each(|n| assert!(slots.take(request(now, n, 0)).is_some()));
        assert!(slots.take(request(now, 0, 0)).is_none());
    }
}
