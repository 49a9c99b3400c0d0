//! Requests on their way into the outbox, and the futures that await their outcomes.

use std::{
    sync::Arc,
    task::{Poll, Waker},
};

use metaq_protocol::{Command, PutRef, VersionCommand};
use tokio::time::Instant;

use super::{
    CompletionToken, Completions, ConnectionShared, Deferred, PendingResponse, Reservation, SlotKey,
    SlotRequest,
    request::{CompletionPut, OutgoingRequest},
    shared::{FIRST_BATCH, LockedState},
};
use crate::{TransportError, TransportErrorKind, panics::catch, response::ResponseResult};

/// The number of bytes by which a request may exceed its reservation, which is an estimate.
const RESERVATION_SLACK: usize = 1024;

impl ConnectionShared {
    pub(crate) fn submit(
        self: &Arc<Self>,
        command: &mut Command,
        deadline: Instant,
    ) -> Result<PendingResponse, TransportError> {
        self.queue(command, deadline, None).map(|(key, _)| self.pending(key))
    }

    /// Submits with capacity that was reserved, and gives that back if it fails.
    pub(crate) fn submit_reserved(
        self: &Arc<Self>,
        command: &mut Command,
        deadline: Instant,
        reserved: u32,
    ) -> Result<PendingResponse, TransportError> {
        let queued = self.queue(command, deadline, Some(reserved));
        if queued.is_err() {
            self.release(reserved);
        }
        queued.map(|(key, _)| self.pending(key))
    }

    fn pending(self: &Arc<Self>, key: SlotKey) -> PendingResponse {
        PendingResponse::of_slot(Arc::clone(self), key)
    }

    pub(crate) fn submit_put(
        self: &Arc<Self>,
        mut put: PutRef<'_>,
        deadline: Instant,
        notify: CompletionToken<'_>,
    ) -> Result<bool, TransportError> {
        self.queue(CompletionPut(&mut put, notify), deadline, None).map(|(_, should_yield)| should_yield)
    }

    /// Submits a put with capacity that was reserved, which is used up if it is one of this connection and
    /// the put is accepted.
    ///
    /// No waiter is notified.
    pub(crate) fn submit_reserved_put(
        self: &Arc<Self>,
        mut put: PutRef<'_>,
        deadline: Instant,
        notify: CompletionToken<'_>,
        reservation: &mut Option<Reservation>,
    ) -> Result<bool, TransportError> {
        let reserved = reservation.as_ref().and_then(|reservation| reservation.bytes_on(self));
        let queued = self.queue(CompletionPut(&mut put, notify), deadline, reserved);
        if queued.is_ok() && reserved.is_some() {
            reservation.take().into_iter().for_each(Reservation::use_up);
        }
        queued.map(|(_, should_yield)| should_yield)
    }

    /// Queues the request if there is capacity. Returns its key, and whether the caller should yield so that
    /// the driver can write. `Driver::poll_write` writes it; its outcome comes by `Deferred::run`.
    #[inline(always)]
    fn queue(
        self: &Arc<Self>,
        mut request: impl OutgoingRequest,
        deadline: Instant,
        reserved: Option<u32>,
    ) -> Result<(SlotKey, bool), TransportError> {
        let bytes = request.bytes();
        let mut dropped = None;
        let (key, should_yield, task, is_task_overdue) = {
            let mut locked = self.inner.lock();
            if let Some(kind) = locked.refusal() {
                drop(locked);
                return Err(self.refusal_error(kind));
            }
            let left = locked.slots.left();
            let taken = match reserved {
                None => locked.limit.take(bytes, left),
                Some(reserved) => locked.limit.use_reservation(reserved, bytes, RESERVATION_SLACK),
            };
            let Some(taken) = taken else {
                drop(locked);
                return Err(self.error(TransportErrorKind::Full));
            };
            let Some(key) = locked.push(&mut request, deadline, taken, &mut dropped) else {
                locked.limit.free(taken);
                if let Some(reserved) = reserved {
                    locked.limit.restore_reservation(reserved);
                }
                drop(locked);
                return Err(self.error(TransportErrorKind::Full));
            };
            locked.stats.requests += 1;
            locked.slots.expect_by(deadline);
            let is_task_overdue = locked.check_task_overdue(deadline);
            let should_yield = locked.outbox.is_worth_writing() || locked.is_first_batch(FIRST_BATCH);
            (key, should_yield, locked.idle_task.take(), is_task_overdue)
        };
        if task.is_some() || is_task_overdue {
            self.ensure_watchdog();
        }
        if let Some(task) = task {
            task.wake();
        }
        if dropped.is_some() {
            drop_listener(dropped);
        }
        Ok((key, should_yield))
    }

    /// Takes the outcome of a request, or leaves `waker` to be woken when it is there.
    pub(crate) fn poll_outcome(self: &Arc<Self>, key: SlotKey, waker: &Waker) -> Poll<ResponseResult> {
        let look = |locked: &mut LockedState, _: &mut Deferred| {
            let outcome = locked.slots.take_outcome(key);
            let is_known = outcome.is_none() && locked.slots.is_woken_by(key, waker);
            (outcome, is_known)
        };
        match self.change(look) {
            (Some(outcome), _) => return Poll::Ready(outcome),
            (None, true) => return Poll::Pending,
            (None, false) => self.ensure_watchdog(),
        }
        // Wakers are cloned and dropped without the lock, because that runs user code.
        let waker = waker.clone();
        let outcome = self.change(|locked, deferred| {
            let outcome = locked.slots.take_outcome(key);
            let unused = if outcome.is_none() { locked.slots.set_waker(key, waker) } else { Some(waker) };
            deferred.drop_waker(unused);
            outcome
        });
        outcome.map_or(Poll::Pending, Poll::Ready)
    }

    /// Records that the future of a request was dropped.
    pub(crate) fn abandon(self: &Arc<Self>, key: SlotKey) {
        self.change(|locked, deferred| deferred.drop_caller(locked.slots.abandon(key)));
    }

    /// Queues a heartbeat. It has no caller, and doesn't count in the limit.
    pub(crate) fn queue_heartbeat(&self, deadline: Instant) {
        let mut locked = self.inner.lock();
        let mut heartbeat = VersionCommand::default().into();
        if let Some(key) = locked.push(&mut &mut heartbeat, deadline, 0, &mut None) {
            // There is no waker to drop without the lock.
            drop(locked.slots.abandon(key));
        }
    }
}

#[cold]
fn drop_listener(completions: Option<Arc<dyn Completions>>) {
    drop(catch(|| drop(completions)));
}

impl LockedState {
    /// Takes a slot for the request and appends its frame. Returns none when there is no slot, or no place
    /// for the listener.
    ///
    /// A listener that had to make way goes to `dropped`, to be dropped without the lock.
    #[inline(always)]
    fn push(
        &mut self,
        request: &mut impl OutgoingRequest,
        deadline: Instant,
        bytes: u32,
        dropped: &mut Option<Arc<dyn Completions>>,
    ) -> Option<SlotKey> {
        let listener = match request.notify() {
            Some(notify) => Some((self.listener_number(notify.completions, dropped)?, notify.token)),
            None => None,
        };
        let frame = self.next_frame;
        let key =
            self.slots.take(SlotRequest { deadline, frame, bytes, is_put: request.is_put(), listener })?;
        self.next_frame += 1;
        request.push(&mut self.outbox, frame, key);
        Some(key)
    }

    /// Returns the number of this listener, or none when there are too many.
    #[inline]
    fn listener_number(
        &mut self,
        completions: &Arc<dyn Completions>,
        dropped: &mut Option<Arc<dyn Completions>>,
    ) -> Option<u8> {
        match self.listeners.iter().position(|known| Arc::ptr_eq(known, completions)) {
            Some(number) => u8::try_from(number).ok(),
            None => self.new_listener(Arc::clone(completions), dropped),
        }
    }

    /// Registers a listener. If there is no place, it replaces one that is not in use, which goes to
    /// `dropped`.
    #[cold]
    fn new_listener(
        &mut self,
        completions: Arc<dyn Completions>,
        dropped: &mut Option<Arc<dyn Completions>>,
    ) -> Option<u8> {
        if let Ok(number) = u8::try_from(self.listeners.len()) {
            self.listeners.push(completions);
            return Some(number);
        }
        let unused = self.slots.listeners_in_use().iter().position(|in_use| !in_use)?;
        *dropped = Some(std::mem::replace(&mut self.listeners[unused], completions));
        u8::try_from(unused).ok()
    }
}
