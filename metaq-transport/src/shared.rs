//! The state that the callers of a connection and its task share.

use std::{
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use metaq_protocol::{BrokerAddr, Command, PutRef, VersionCommand};
use parking_lot::Mutex;
use tokio::{
    runtime,
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    CompletionToken, Completions, ConnectionState, ConnectionStats, PendingResponse, Reservation,
    TransportError, TransportErrorKind,
    contain::contain,
    deadline,
    deferred::Deferred,
    in_flight_limit::InFlightLimit,
    outbox::Outbox,
    phase::Phase,
    request::{CompletionPut, OutgoingRequest},
    response::ResponseResult,
    slots::{SlotKey, SlotRequest, Slots},
};

/// The shared half of a connection.
#[derive(Debug)]
pub(crate) struct ConnectionShared {
    pub(crate) broker: BrokerAddr,
    /// The runtime that the connection's task lives on.
    pub(crate) home: runtime::Id,
    pub(crate) inner: Mutex<LockedState>,
    pub(crate) state: watch::Sender<ConnectionState>,
    /// Tells the task that is dialling or pausing that it shall close.
    pub(crate) close_requested: Notify,
}

/// The state under the lock. Nobody holds it across an await, a system call, or code of others: what runs such code is put into
/// a [`Deferred`].
#[derive(Debug)]
pub(crate) struct LockedState {
    pub(crate) phase: Phase,
    pub(crate) slots: Slots,
    pub(crate) outbox: Outbox,
    /// The outbox that the session is writing, while its task doesn't run and it isn't empty.
    pub(crate) writing: Outbox,
    /// Whether the session has taken what it writes; how much of it was written is known to it alone then.
    pub(crate) driver_writes: bool,
    pub(crate) next_frame: u64,
    /// Wakes the connection's task when it has nothing to do.
    pub(crate) idle_task: Option<Waker>,
    /// The deadlines about that of the first request that the session has not taken yet. One with another either came so much
    /// later that the task should have run, or can't tell.
    pub(crate) deadline_window: Option<(Instant, Instant)>,
    pub(crate) limit: InFlightLimit,
    pub(crate) stats: ConnectionStats,
    /// The listeners for the ends of puts; usually one.
    pub(crate) listeners: Vec<Arc<dyn Completions>>,
    /// The reason why there is no connection, or why it was closed unasked.
    pub(crate) last_error: Option<TransportError>,
    /// The state that is yet to be published.
    pub(crate) unpublished: Option<ConnectionState>,
    pub(crate) is_publishing: bool,
    /// The runtimes that have a guard.
    pub(crate) watchdogs: Vec<runtime::Id>,
}

/// The number of requests that are worth a write when the broker has nothing else to do: it works on them while more are made.
pub(crate) const FIRST_BATCH: usize = 32;

/// A request may be so much larger than what was reserved for it, because what it takes is estimated.
const RESERVATION_SLACK: usize = 1024;

/// A task that was woken this long ago and has not run may be on a runtime that nobody drives.
const TASK_OVERDUE_AFTER: Duration = Duration::from_millis(10);

impl ConnectionShared {
    pub(crate) fn new(broker: BrokerAddr, home: runtime::Id, limit: InFlightLimit) -> Self {
        Self {
            broker,
            home,
            inner: Mutex::new(LockedState {
                phase: Phase::Connecting,
                slots: Slots::default(),
                outbox: Outbox::default(),
                writing: Outbox::default(),
                driver_writes: false,
                next_frame: 0,
                idle_task: None,
                deadline_window: None,
                limit,
                stats: ConnectionStats::default(),
                listeners: Vec::new(),
                last_error: None,
                unpublished: None,
                is_publishing: false,
                watchdogs: Vec::new(),
            }),
            state: watch::Sender::new(ConnectionState::connecting(None)),
            close_requested: Notify::new(),
        }
    }

    /// Runs `work` under the lock, sees to it that capacity that was released is handed on, and collects in `deferred` what is
    /// to be [run](Deferred::run) afterwards.
    #[inline]
    pub(crate) fn with_lock<T>(
        &self,
        deferred: &mut Deferred,
        work: impl FnOnce(&mut LockedState, &mut Deferred) -> T,
    ) -> T {
        let mut locked = self.inner.lock();
        let result = work(&mut locked, deferred);
        locked.finish(deferred);
        result
    }

    /// [`with_lock`](Self::with_lock), and runs what was deferred.
    pub(crate) fn change<T>(self: &Arc<Self>, work: impl FnOnce(&mut LockedState, &mut Deferred) -> T) -> T {
        let mut deferred = Deferred::default();
        let result = self.with_lock(&mut deferred, work);
        deferred.run(self);
        result
    }

    pub(crate) fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    pub(crate) fn stats(&self) -> ConnectionStats {
        let locked = self.inner.lock();
        let (in_flight, in_flight_bytes) = locked.limit.in_flight();
        ConnectionStats { in_flight, in_flight_bytes, ..locked.stats }
    }

    pub(crate) fn error(&self, kind: TransportErrorKind) -> TransportError {
        TransportError::new(kind, self.broker.clone())
    }

    pub(crate) fn submit(
        self: &Arc<Self>,
        command: &mut Command,
        deadline: Instant,
    ) -> Result<PendingResponse, TransportError> {
        self.queue(command, deadline, None).map(|(key, _)| self.pending(key))
    }

    /// Submits with capacity that was reserved, which is given back if that fails.
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

    /// The same with capacity that was reserved on this connection, which is used up if the put is accepted. It notifies nobody.
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

    /// Puts the request into the outbox if there is capacity; returns whether what waits there is worth a write, too.
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
            let is_task_overdue = locked.is_task_overdue(deadline);
            let should_yield = locked.outbox.is_worth_a_write() || locked.is_first_batch(FIRST_BATCH);
            (key, should_yield, locked.idle_task.take(), is_task_overdue)
        };
        if task.is_some() || is_task_overdue {
            self.ensure_watchdog();
        }
        if let Some(task) = task {
            task.wake();
        }
        if dropped.is_some() {
            drop_contained(dropped);
        }
        Ok((key, should_yield))
    }

    /// An error of `kind` with the reason why there is no connection, where one is known.
    #[cold]
    pub(crate) fn refusal_error(&self, kind: TransportErrorKind) -> TransportError {
        let error = self.error(kind);
        let last_error = self.inner.lock().last_error.clone();
        match (kind, last_error) {
            (TransportErrorKind::NotConnected, Some(last)) => error.with_cause(last),
            (TransportErrorKind::Closed, Some(last)) if last.kind() == TransportErrorKind::Closed => last,
            _ => error,
        }
    }

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
        // Wakers are cloned and dropped without the lock, because that runs code of others.
        let waker = waker.clone();
        let outcome = self.change(|locked, deferred| {
            let outcome = locked.slots.take_outcome(key);
            let unused = if outcome.is_none() { locked.slots.set_waker(key, waker) } else { Some(waker) };
            deferred.drop_waker(unused);
            outcome
        });
        outcome.map_or(Poll::Pending, Poll::Ready)
    }

    pub(crate) fn abandon(self: &Arc<Self>, key: SlotKey) {
        self.change(|locked, deferred| deferred.drop_caller(locked.slots.abandon(key)));
    }

    /// Queues a heartbeat, which no caller waits for and which counts for nothing.
    pub(crate) fn queue_heartbeat(&self, deadline: Instant) {
        let mut locked = self.inner.lock();
        let mut heartbeat = VersionCommand::default().into();
        if let Some(key) = locked.push(&mut &mut heartbeat, deadline, 0, &mut None) {
            // Nobody has left a waker.
            drop(locked.slots.abandon(key));
        }
    }
}

#[cold]
fn drop_contained(completions: Option<Arc<dyn Completions>>) {
    drop(contain(|| drop(completions)));
}

impl LockedState {
    /// Runs after everything that changes something under the lock.
    #[inline]
    pub(crate) fn finish(&mut self, deferred: &mut Deferred) {
        if self.limit.has_waiters() {
            match self.refusal() {
                None => self.limit.grant(self.slots.left(), deferred),
                Some(kind) => self.limit.refuse_waiters(kind, deferred),
            }
        }
        deferred.resolve(&self.listeners);
    }

    /// Whether so many requests wait, and the broker owes nothing else.
    fn is_first_batch(&self, frames: usize) -> bool {
        self.outbox.frames() == frames && self.limit.in_flight().0 == frames
    }

    /// Whether the broker owes nothing, and there is enough to have it begin.
    pub(crate) fn has_first_batch(&self) -> bool {
        let frames = self.outbox.frames();
        frames >= FIRST_BATCH && self.is_first_batch(frames)
    }

    /// Whether it is not sure that the task runs soon enough for this deadline: since the session took the outbox last there
    /// was one that is not about the same. Deadlines tell the time here, because looking at the clock takes too long.
    #[inline]
    fn is_task_overdue(&mut self, deadline: Instant) -> bool {
        match self.deadline_window {
            Some((from, to)) if from <= deadline && deadline <= to => false,
            known => {
                let from = deadline::before(deadline, TASK_OVERDUE_AFTER);
                self.deadline_window = Some((from, deadline::after(deadline, TASK_OVERDUE_AFTER)));
                known.is_some()
            }
        }
    }

    /// Requests had to be ended without the task, which should have run by now: whatever comes is suspect.
    pub(crate) fn mark_task_overdue(&mut self) {
        let now = Instant::now();
        self.deadline_window = Some((now, now));
    }

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

    /// The number of this listener; none when there are too many.
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

    /// Takes the place of a listener that has nothing to be told of if there is no other; that one goes to `dropped`.
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
