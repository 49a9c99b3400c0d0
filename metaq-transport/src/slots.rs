//! The requests of one connection that await their answers, found again by their opaque.

use std::task::Waker;

use metaq_protocol::{BooleanCommand, Opaque, PutAnswer, Response, ResponseRef, Status};
use tokio::time::Instant;

use crate::{Answer, AnswerBody, Progress, TransportError};

pub(crate) type Outcome = Result<Answer, TransportError>;

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
    /// The outcome is told to the connection's n-th listener, by this token.
    Told {
        listener: u8,
        token: u64,
    },
    /// The outcome waits for the caller's future.
    Answered(Reply),
    Failed(TransportError),
}

/// An answer on its way to the caller. The answer to a put is kept as the three numbers that it is; everything else is rare,
/// hence boxed: a slot is one cache line.
#[derive(Debug)]
pub(crate) enum Reply {
    Stored(PutAnswer),
    Other(Box<Response>),
}

impl Reply {
    pub(crate) fn read(response: &ResponseRef<'_>) -> Self {
        match response.put_answer() {
            Ok(stored) if response.status() == Some(Status::SUCCESS) => Self::Stored(stored),
            _ => Self::Other(Box::new(response.to_response())),
        }
    }

    /// The answer to a put, or to something else.
    #[inline]
    fn into_body(self, is_put: bool, opaque: Opaque) -> AnswerBody {
        match self {
            Self::Stored(stored) if is_put => AnswerBody::Stored(stored),
            Self::Stored(stored) => {
                AnswerBody::Other(BooleanCommand::new(Status::SUCCESS, stored.to_body(), opaque).into())
            }
            Self::Other(response) => AnswerBody::Other(*response),
        }
    }
}

/// What the broker's side of a request is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// No answer is to be expected.
    Nothing,
    /// The answer is awaited.
    Answer,
    /// The caller was told that time is up, but the request was written: the slot stays taken until the answer
    /// comes or the connection ends, so that a late answer can't meet another request.
    LateAnswer,
}

/// A slot is free when the caller is gone and no answer is expected.
#[derive(Debug)]
struct Slot {
    caller: Caller,
    /// When time is up for the answer; once it is there, when it came.
    time: Instant,
    /// The number of the request's frame on its connection.
    frame: u64,
    /// What the request counts for in the limit of bytes.
    bytes: u32,
    generation: u16,
    expected: Expected,
    is_put: bool,
}

/// A request to find a slot for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) deadline: Instant,
    /// The number of its frame on its connection.
    pub(crate) frame: u64,
    /// What it counts for in the limit of bytes.
    pub(crate) bytes: u32,
    /// Whether its answer may say where a message was stored.
    pub(crate) is_put: bool,
    /// Who is told of its end; none when a future awaits it.
    pub(crate) told: Option<(u8, u64)>,
}

/// A request that ended: the room that is free again, and whom that concerns.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) bytes: u32,
    pub(crate) whom: Whom,
}

/// Whom the end of a request concerns.
#[derive(Debug)]
pub(crate) enum Whom {
    /// The caller is gone, or will look for himself.
    Nobody,
    Waker(Waker),
    Listener {
        listener: u8,
        token: u64,
        outcome: Outcome,
    },
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// It was awaited.
    Answered,
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
    #[inline(always)]
    pub(crate) fn take(&mut self, request: Request) -> Option<SlotKey> {
        let Request { deadline: time, frame, bytes, is_put, told } = request;
        let expected = Expected::Answer;
        let caller = match told {
            Some((listener, token)) => Caller::Told { listener, token },
            None => Caller::Waiting(None),
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
        reply: Reply,
        now: Instant,
        ended: impl FnOnce(Ending),
    ) -> Delivered {
        let key = SlotKey::from_opaque(opaque);
        let Some(slot) = self.get(key) else {
            return Delivered::Unknown;
        };
        let delivered = match std::mem::replace(&mut slot.expected, Expected::Nothing) {
            Expected::Nothing => return Delivered::Unknown,
            Expected::LateAnswer => Delivered::Late,
            Expected::Answer => {
                slot.time = now;
                let is_put = slot.is_put;
                let tell =
                    |reply: Reply| Ok(Answer { body: reply.into_body(is_put, opaque), received_at: now });
                slot.finish(reply, Caller::Answered, tell, ended);
                Delivered::Answered
            }
        };
        self.free_if_over(key.index);
        delivered
    }

    /// Takes the outcome out of the slot, or leaves `waker` there to be told.
    pub(crate) fn poll(&mut self, key: SlotKey, waker: &Waker) -> Option<Outcome> {
        let slot = self.get(key)?;
        let received_at = slot.time;
        let outcome = match std::mem::replace(&mut slot.caller, Caller::Gone) {
            Caller::Answered(reply) => {
                Ok(Answer { body: reply.into_body(slot.is_put, key.opaque()), received_at })
            }
            Caller::Failed(error) => Err(error),
            Caller::Waiting(Some(known)) if known.will_wake(waker) => {
                slot.caller = Caller::Waiting(Some(known));
                return None;
            }
            Caller::Waiting(_) => {
                slot.caller = Caller::Waiting(Some(waker.clone()));
                return None;
            }
            gone @ (Caller::Gone | Caller::Told { .. }) => {
                slot.caller = gone;
                return None;
            }
        };
        self.free_if_over(key.index);
        Some(outcome)
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
        let awaited = self.slots.iter().filter(|slot| slot.expected == Expected::Answer);
        awaited.map(|slot| slot.time).min()
    }

    /// Whether the request in slot `index` awaits its answer beyond its deadline.
    pub(crate) fn is_overdue(&self, index: u16, now: Instant) -> bool {
        self.slots[usize::from(index)].is_overdue(now)
    }

    /// Ends every request that awaits its answer beyond its deadline. Frames from number `first_unwritten` on
    /// were not written. `error` makes the error, `ended` is told of each.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        first_unwritten: u64,
        error: impl Fn(Progress) -> TransportError,
        ended: impl FnMut(Progress, Ending),
    ) {
        let late = |progress| match progress {
            Progress::NotWritten => Expected::Nothing,
            Progress::Written => Expected::LateAnswer,
        };
        self.fail(first_unwritten, |slot| slot.is_overdue(now), late, error, ended);
    }

    /// Ends every request whose frame was not written. Parameters as for [`expire`](Self::expire).
    pub(crate) fn fail_unwritten(
        &mut self,
        first_unwritten: u64,
        error: impl Fn(Progress) -> TransportError,
        ended: impl FnMut(Progress, Ending),
    ) {
        self.fail(first_unwritten, |slot| slot.frame >= first_unwritten, |_| Expected::Nothing, error, ended);
    }

    /// The connection is gone: ends every request, overdue ones too. Parameters as for [`expire`](Self::expire).
    pub(crate) fn fail_all(
        &mut self,
        first_unwritten: u64,
        error: impl Fn(Progress) -> TransportError,
        ended: impl FnMut(Progress, Ending),
    ) {
        self.fail(first_unwritten, |_| true, |_| Expected::Nothing, error, ended);
    }

    /// Ends the requests that `which` names; `then` says what to expect for each from now on.
    fn fail(
        &mut self,
        first_unwritten: u64,
        which: impl Fn(&Slot) -> bool,
        then: impl Fn(Progress) -> Expected,
        error: impl Fn(Progress) -> TransportError,
        mut ended: impl FnMut(Progress, Ending),
    ) {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if slot.expected == Expected::Nothing || !which(slot) {
                continue;
            }
            let progress =
                if slot.frame >= first_unwritten { Progress::NotWritten } else { Progress::Written };
            let before = std::mem::replace(&mut slot.expected, then(progress));
            if before == Expected::Answer {
                slot.finish(error(progress), Caller::Failed, Err, |ending| ended(progress, ending));
            }
            self.free_if_over(index as u16);
        }
    }
}

impl Slot {
    fn is_overdue(&self, now: Instant) -> bool {
        self.expected == Expected::Answer && self.time <= now
    }

    /// Hands the outcome to the caller, if there still is one: kept in the slot as `keep` makes it, or told to `ended` as
    /// `tell` does.
    #[inline(always)]
    fn finish<T>(
        &mut self,
        outcome: T,
        keep: impl FnOnce(T) -> Caller,
        tell: impl FnOnce(T) -> Outcome,
        ended: impl FnOnce(Ending),
    ) {
        let bytes = self.bytes;
        match &mut self.caller {
            Caller::Told { listener, token } => {
                let (listener, token) = (*listener, *token);
                self.caller = Caller::Gone;
                ended(Ending { bytes, whom: Whom::Listener { listener, token, outcome: tell(outcome) } });
            }
            Caller::Waiting(waker) => {
                let whom = waker.take().map_or(Whom::Nobody, Whom::Waker);
                self.caller = keep(outcome);
                ended(Ending { bytes, whom });
            }
            _ => ended(Ending { bytes, whom: Whom::Nobody }),
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

    fn request(deadline: Instant, frame: u64, bytes: u32) -> Request {
        Request { deadline, frame, bytes, is_put: true, told: None }
    }

    fn deliver(slots: &mut Slots, key: SlotKey) -> (Delivered, Option<Ending>) {
        let response = BooleanCommand::new(Status::SUCCESS, Bytes::new(), key.opaque());
        let mut ending = None;
        let reply = Reply::Other(Box::new(response.into()));
        (slots.deliver(key.opaque(), reply, Instant::now(), |ended| ending = Some(ended)), ending)
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
        let first = slots.take(request(now, 0, 1)).unwrap();
        assert!(matches!(deliver(&mut slots, first), (Delivered::Answered, Some(Ending { bytes: 1, .. }))));
        assert!(slots.poll(first, Waker::noop()).unwrap().is_ok());
        let second = slots.take(request(now, 1, 1)).unwrap();
        assert_eq!(second.index, first.index, "the slot is used again");
        assert!(matches!(deliver(&mut slots, first), (Delivered::Unknown, None)));
        assert!(slots.poll(second, Waker::noop()).is_none());
    }

    #[test]
    fn an_overdue_slot_is_kept_for_the_late_answer_only_if_the_request_was_written() {
        let now = Instant::now();
        let mut slots = Slots::default();
        let written = slots.take(request(now, 0, 10)).unwrap();
        let unwritten = slots.take(request(now, 1, 20)).unwrap();
        let later = slots.take(request(now + Duration::from_secs(1), 2, 30)).unwrap();
        let mut ended = Vec::new();
        slots.expire(now, 1, error, |progress, ending| ended.push((progress, ending.bytes)));
        assert_eq!(ended, [(Progress::Written, 10), (Progress::NotWritten, 20)]);
        for key in [written, unwritten] {
            let error = slots.poll(key, Waker::noop()).unwrap().unwrap_err();
            assert_eq!(error.kind(), TransportErrorKind::TimedOut);
        }
        assert_eq!(slots.free, [unwritten.index]);
        assert!(matches!(deliver(&mut slots, written), (Delivered::Late, None)));
        assert_eq!(slots.free, [unwritten.index, written.index]);
        assert_eq!(slots.earliest_deadline(), Some(now + Duration::from_secs(1)));
        assert!(slots.poll(later, Waker::noop()).is_none());
    }

    #[test]
    fn an_abandoned_request_frees_its_slot_when_it_is_answered() {
        let mut slots = Slots::default();
        let key = slots.take(request(Instant::now(), 0, 1)).unwrap();
        slots.abandon(key);
        assert!(slots.free.is_empty(), "its answer is still to come");
        assert!(matches!(deliver(&mut slots, key), (Delivered::Answered, Some(_))));
        assert_eq!(slots.free, [key.index]);
    }

    #[test]
    fn a_lost_connection_ends_everything_and_frees_every_slot() {
        let now = Instant::now();
        let mut slots = Slots::default();
        let keys: Vec<_> = (0..4).map(|n| slots.take(request(now, n, 1)).unwrap()).collect();
        slots.expire(now, 1, error, |_, _| {});
        let more = slots.take(request(now, 9, 1)).unwrap();
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
    fn what_was_not_written_can_be_taken_back() {
        let (now, mut slots) = (Instant::now(), Slots::default());
        let keys: Vec<_> = (0..4).map(|n| slots.take(request(now, n, 1)).unwrap()).collect();
        let mut ended = Vec::new();
        slots.fail_unwritten(2, error, |progress, _| ended.push(progress));
        assert_eq!(ended, [Progress::NotWritten; 2]);
        assert!(slots.poll(keys[0], Waker::noop()).is_none() && slots.poll(keys[1], Waker::noop()).is_none());
        assert!(slots.poll(keys[2], Waker::noop()).unwrap().is_err());
        assert!(slots.poll(keys[3], Waker::noop()).unwrap().is_err());
        assert_eq!(slots.free, [2, 3]);
    }

    #[test]
    fn only_a_put_is_answered_with_a_place() {
        let (now, mut slots) = (Instant::now(), Slots::default());
        let put = slots.take(request(now, 0, 1)).unwrap();
        let other = slots.take(Request { is_put: false, ..request(now, 1, 1) }).unwrap();
        let place = PutAnswer::new(1, 2, 3);
        for key in [put, other] {
            slots.deliver(key.opaque(), Reply::Stored(place), now, |_| {});
        }
        assert_eq!(slots.poll(put, Waker::noop()).unwrap().unwrap().body, AnswerBody::Stored(place));
        let other = slots.poll(other, Waker::noop()).unwrap().unwrap();
        assert!(
            matches!(other.into_response(), Some(Response::Boolean(answer)) if &*answer.body == b"1 2 3")
        );
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
