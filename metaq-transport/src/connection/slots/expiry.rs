//! Requests whose deadlines pass.

use std::{cmp::Reverse, collections::BinaryHeap};

use metaq_protocol::Opaque;
use tokio::time::Instant;

use super::{Caller, Completion, Expected, Expired, Released, SlotKey, Slots};
use crate::{Progress, TransportError};

impl Slots {
    /// Fails every request whose deadline has passed at `now`.
    ///
    /// `progress_of` returns a frame's progress, `error` makes the error, `on_completed` gets each request.
    /// The caller has to report each one that was written to [`timeout_reported`](Self::timeout_reported)
    /// after it has notified the listener: the broker may be done with the request on another thread
    /// meanwhile.
    ///
    /// All slots are scanned only if a request that was added since the last scan is overdue.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        progress_of: impl Fn(u64) -> Progress,
        error: impl Fn(Progress) -> TransportError,
        mut on_completed: impl FnMut(Expired, Completion),
    ) {
        if self.earliest.is_some_and(|earliest| earliest <= now) {
            self.scan_deadlines(now);
        }
        while let Some(Reverse((deadline, opaque))) = self.deadlines.peek().copied() {
            let key = SlotKey::from_opaque(Opaque(opaque));
            // Generations recur after a while. With the same deadline it makes no difference which request it
            // was.
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
            self.free_if_finished(key.index);
        }
        if self.deadlines.is_empty() && self.deadlines.capacity() > 1024 {
            self.deadlines = BinaryHeap::new();
        }
    }

    /// Collects the deadlines of all outstanding requests, or only the earliest one if none is overdue.
    fn scan_deadlines(&mut self, now: Instant) {
        #[cfg(test)]
        {
            self.scanned += self.slots.len();
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

    /// Records that the timeout of a request, which [`expire`](Self::expire) failed, was reported to its
    /// listener.
    ///
    /// Returns the listener's part if the broker is done with the request already.
    pub(crate) fn timeout_reported(&mut self, key: SlotKey) -> Option<Released> {
        let slot = self.get(key)?;
        let Caller::TimingOut { listener, token } = slot.caller else { return None };
        if slot.expected == Expected::LateResponse {
            slot.caller = Caller::TimedOut { listener, token };
            return None;
        }
        slot.caller = Caller::Gone;
        self.free_if_finished(key.index);
        Some(Released { listener, token })
    }
}
