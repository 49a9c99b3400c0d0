//! The table of outstanding requests, by opaque.
//!
//! Each request has a slot, whose key is its opaque: `key`. A `slot` has a caller's and a broker's side, and
//! is taken until both are done with it. `expiry` fails the requests whose deadlines pass; `events` are what
//! the table reports to its caller, and `compact_response` is the form in which a slot keeps a response. The
//! table runs no user code, and knows neither sockets nor the lock that guards it.

use std::{cmp::Reverse, collections::BinaryHeap, task::Waker};

use metaq_protocol::Opaque;
use tokio::time::Instant;

use crate::{Progress, ReceivedResponse, TransportError, response::ResponseResult};

mod compact_response;
mod events;
mod expiry;
mod key;
mod slot;
#[cfg(test)]
mod tests;

pub(crate) use compact_response::CompactResponse;
pub(crate) use events::{Completion, Delivered, Expired, Notify, Released};
pub(crate) use key::SlotKey;
pub(crate) use slot::{Caller, SlotRequest};
use slot::{Expected, Slot};

/// The number of requests that can be outstanding on one connection: an opaque has sixteen bits for the slot.
pub(crate) const MAX_SLOTS: usize = 1 << 16;

/// The outstanding requests of one connection.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// A lower bound of the deadlines of outstanding requests that are not in `deadlines`.
    earliest: Option<Instant>,
    /// The deadlines of the requests that were outstanding at the last scan that found one overdue. Some may
    /// be out of date.
    deadlines: BinaryHeap<Reverse<(Instant, i32)>>,
    /// The number of slots that were scanned for deadlines.
    #[cfg(test)]
    scanned: usize,
}

impl Slots {
    /// Returns the number of free slots, less one that is kept for a heartbeat.
    #[inline]
    pub(crate) fn left(&self) -> usize {
        (MAX_SLOTS - 1 + self.free.len()).saturating_sub(self.slots.len())
    }

    /// Returns a lower bound of the deadlines of all outstanding requests, if there may be any.
    #[inline]
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match self.deadlines.peek() {
            None => self.earliest,
            Some(Reverse((next, _))) => Some(self.earliest.map_or(*next, |earliest| earliest.min(*next))),
        }
    }

    /// Makes sure that `next_deadline` is not after `deadline`.
    #[inline]
    pub(crate) fn expect_by(&mut self, deadline: Instant) {
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
    }

    /// Takes a slot for `request`. Returns none when all are taken.
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
            // Always gone. With the check, the compiler omits the drop of the old caller below.
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

    /// Returns the slot, unless it has another user by now.
    fn get(&mut self, key: SlotKey) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(key.index)).filter(|slot| slot.generation == key.generation)
    }

    /// Frees the slot if neither side needs it any more.
    fn free_if_finished(&mut self, index: u16) {
        let slot = &self.slots[usize::from(index)];
        if matches!(slot.caller, Caller::Gone) && slot.expected == Expected::Nothing {
            self.free.push(index);
        }
    }

    /// Delivers a response that was received at `now`; `on_completed` gets the request if that completes it.
    // Inlined with all that it calls: handing an outcome from function to function through memory takes as
    // long as decoding it.
    #[inline(always)]
    pub(crate) fn deliver(
        &mut self,
        opaque: Opaque,
        response: CompactResponse,
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
                let report = |response: CompactResponse| {
                    Ok(ReceivedResponse { body: response.into_body(is_put, opaque), received_at: now })
                };
                slot.finish(response, Caller::Responded, report, on_completed);
                if is_heartbeat { Delivered::Heartbeat } else { Delivered::Answered }
            }
        };
        self.free_if_finished(key.index);
        delivered
    }

    /// Takes the outcome out of its slot, if it is there.
    pub(crate) fn take_outcome(&mut self, key: SlotKey) -> Option<ResponseResult> {
        let slot = self.get(key)?;
        let received_at = slot.time;
        let outcome = match std::mem::replace(&mut slot.caller, Caller::Gone) {
            Caller::Responded(response) => {
                Ok(ReceivedResponse { body: response.into_body(slot.is_put, key.opaque()), received_at })
            }
            Caller::Failed(error) => Err(error),
            other => {
                slot.caller = other;
                return None;
            }
        };
        self.free_if_finished(key.index);
        Some(outcome)
    }

    /// Returns whether `waker` would wake the same task as the waker that the caller's future left.
    pub(crate) fn is_woken_by(&mut self, key: SlotKey, waker: &Waker) -> bool {
        match self.get(key).map(|slot| &slot.caller) {
            Some(Caller::Future(Some(known))) => known.will_wake(waker),
            _ => false,
        }
    }

    /// Sets the waker of the caller's future. Returns the waker that is to be dropped without the lock: the
    /// one that it replaces, or itself if no future waits.
    pub(crate) fn set_waker(&mut self, key: SlotKey, waker: Waker) -> Option<Waker> {
        match self.get(key).map(|slot| &mut slot.caller) {
            Some(Caller::Future(known)) => known.replace(waker),
            _ => Some(waker),
        }
    }

    /// Records that the caller's future was dropped. What is returned is to be dropped without the lock.
    pub(crate) fn abandon(&mut self, key: SlotKey) -> Caller {
        let Some(slot) = self.get(key) else { return Caller::Gone };
        let caller = std::mem::replace(&mut slot.caller, Caller::Gone);
        if !matches!(caller, Caller::Gone) {
            self.free_if_finished(key.index);
        }
        caller
    }

    /// Returns which listeners are still to be notified of something.
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

    /// Returns whether a listener waits for the release of a request that timed out.
    pub(crate) fn awaits_late_responses(&self) -> bool {
        let is_late = |slot: &Slot| matches!(slot.caller, Caller::TimedOut { .. } | Caller::TimingOut { .. });
        self.slots.iter().any(|slot| slot.expected == Expected::LateResponse && is_late(slot))
    }

    /// Fails every request whose frame was not written: those from number `first_unwritten` on.
    ///
    /// `error` makes the error, `on_completed` gets each request.
    pub(crate) fn fail_unwritten(
        &mut self,
        first_unwritten: u64,
        error: impl Fn(Progress) -> TransportError,
        mut on_completed: impl FnMut(Completion),
    ) {
        let is_affected = |slot: &Slot| slot.frame >= first_unwritten;
        self.fail(first_unwritten, is_affected, error, |completion, _| {
            completion.into_iter().for_each(&mut on_completed)
        });
    }

    /// Fails every request, because the connection is gone, and releases those that had timed out.
    ///
    /// `on_completed` gets each request, completed or released. Other parameters as for
    /// [`fail_unwritten`](Self::fail_unwritten).
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

    /// Fails the requests for which `is_affected` returns true.
    fn fail(
        &mut self,
        first_unwritten: u64,
        is_affected: impl Fn(&Slot) -> bool,
        error: impl Fn(Progress) -> TransportError,
        mut on_completed: impl FnMut(Option<Completion>, Option<Released>),
    ) {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if slot.expected == Expected::Nothing || !is_affected(slot) {
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
            self.free_if_finished(index as u16);
        }
    }
}
