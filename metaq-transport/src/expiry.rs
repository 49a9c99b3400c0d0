//! Requests whose deadline passes, and who sees to it when the connection's task doesn't run.

use std::{sync::Arc, time::Duration};

use tokio::{runtime, time::Instant};

use crate::{
    Progress, TransportErrorKind, deadline,
    deferred::Deferred,
    error::LossReason,
    outbox::Outbox,
    phase::Phase,
    shared::{ConnectionShared, LockedState},
    slots::SlotKey,
};

/// The time after a deadline for which a guard leaves it to the connection's task.
const GRACE: Duration = Duration::from_millis(10);

/// The shortest sleep of a guard.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// The interval at which a guard looks.
const WATCHDOG_PERIOD: Duration = Duration::from_millis(20);

impl ConnectionShared {
    /// Ends what is overdue, on the connection's task, whose session writes `writing`; returns what of it was written, for
    /// [`timeouts_reported`](Self::timeouts_reported).
    pub(crate) fn expire_in_driver(
        &self,
        now: Instant,
        writing: &mut Outbox,
        deferred: &mut Deferred,
    ) -> Vec<SlotKey> {
        let mut written = Vec::new();
        self.with_lock(deferred, |locked, deferred| {
            if locked.slots.next_deadline().is_some_and(|next| next <= now) {
                locked.expire_overdue(now, writing, self, true, deferred, &mut written);
            }
        });
        written
    }

    /// Listeners were told that time is up for these requests, which were written.
    pub(crate) fn timeouts_reported(&self, keys: Vec<SlotKey>, deferred: &mut Deferred) {
        self.with_lock(deferred, |locked, deferred| {
            for key in keys {
                if let Some(released) = locked.slots.timeout_reported(key) {
                    deferred.add_released(released);
                }
            }
        });
    }

    /// Ends what is overdue, on any thread.
    pub(crate) fn expire(self: &Arc<Self>, now: Instant) {
        let mut written = Vec::new();
        let is_closed = self.change(|locked, deferred| {
            // The session is being polled, and keeps time itself.
            if locked.driver_writes {
                return false;
            }
            if let Phase::Closing { deadline, .. } = locked.phase
                && deadline <= now
            {
                locked.set_closed(&self.error(TransportErrorKind::Closed), deferred);
                return true;
            }
            if locked.slots.next_deadline().is_some_and(|next| next <= now) {
                let mut writing = std::mem::take(&mut locked.writing);
                // Woken, and not polled since.
                let is_driven = locked.idle_task.is_some() || locked.phase != Phase::Ready;
                locked.expire_overdue(now, &mut writing, self, is_driven, deferred, &mut written);
                locked.writing = writing;
                locked.mark_task_overdue();
            }
            false
        });
        if !written.is_empty() {
            let mut deferred = Deferred::default();
            self.timeouts_reported(written, &mut deferred);
            deferred.run(self);
        } else if !is_closed {
            return;
        }
        self.drop_listeners();
    }

    /// Sees to it that requests end by their deadlines if the caller is on another runtime than the connection's task, which
    /// may not be driven. The guard is one small task for each such runtime, while anything is in flight or the connection is
    /// being closed.
    #[cold]
    pub(crate) fn ensure_watchdog(self: &Arc<Self>) {
        let Some(runtime) = crate::runtime::current() else { return };
        let id = runtime.id();
        if id == self.home {
            return;
        }
        {
            let mut locked = self.inner.lock();
            if locked.watchdogs.contains(&id) || !locked.needs_watchdog() {
                return;
            }
            locked.watchdogs.push(id);
        }
        let watchdog = Watchdog { shared: Arc::clone(self), id: Some(id) };
        drop(runtime.spawn(watchdog.run()));
    }
}

impl LockedState {
    /// Ends what is overdue, where `writing` is being written; adds to `written` what of it was.
    fn expire_overdue(
        &mut self,
        now: Instant,
        writing: &mut Outbox,
        shared: &ConnectionShared,
        is_driven: bool,
        deferred: &mut Deferred,
        written: &mut Vec<SlotKey>,
    ) {
        let first_unwritten = self.first_unwritten(writing);
        let progress_of = |frame| match frame >= first_unwritten {
            true => Progress::NotWritten,
            false => Progress::Written,
        };
        let error = || match is_driven {
            true => shared.error(TransportErrorKind::TimedOut),
            false => shared.error(TransportErrorKind::TimedOut).with_cause(LossReason::NotDriven),
        };
        let errors =
            [Progress::NotWritten, Progress::Written].map(|progress| error().with_progress(progress));
        let error = |progress| match progress {
            Progress::NotWritten => errors[0].clone(),
            Progress::Written => errors[1].clone(),
        };
        let Self { slots, limit, outbox, .. } = self;
        slots.expire(now, progress_of, error, |failed, completion| {
            match failed.progress {
                Progress::NotWritten => {
                    writing.void(failed.frame, |body| deferred.drop_body(body));
                    outbox.void(failed.frame, |body| deferred.drop_body(body));
                }
                Progress::Written => written.push(failed.key),
            }
            deferred.add(limit, completion);
        });
    }

    fn remove_watchdog(&mut self, watchdog: Option<runtime::Id>) {
        self.watchdogs.retain(|id| Some(*id) != watchdog);
    }

    /// Whether there is anything that has to end at some time: a request, or the connection that is being closed.
    fn needs_watchdog(&self) -> bool {
        match self.phase {
            Phase::Closed => false,
            Phase::Closing { .. } => true,
            _ => !self.limit.is_idle(),
        }
    }
}

/// Keeps time on a runtime that isn't the connection's.
struct Watchdog {
    shared: Arc<ConnectionShared>,
    /// The runtime that it is on, as long as it is registered for it.
    id: Option<runtime::Id>,
}

impl Watchdog {
    async fn run(mut self) {
        loop {
            let next = {
                let mut locked = self.shared.inner.lock();
                if !locked.needs_watchdog() {
                    // Whoever submits from now on starts another.
                    locked.remove_watchdog(self.id.take());
                    return;
                }
                locked.slots.next_deadline()
            };
            let now = Instant::now();
            let period = deadline::after(now, WATCHDOG_PERIOD);
            let next = next.map_or(period, |next| deadline::after(next, GRACE));
            let next = next.clamp(deadline::after(now, SHORTEST_SLEEP), period);
            let Some(timer) = crate::runtime::sleep_until(next) else {
                self.shared.inner.lock().remove_watchdog(self.id.take());
                return;
            };
            timer.await;
            self.shared.expire(deadline::before(Instant::now(), GRACE));
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let mut locked = self.shared.inner.lock();
        if self.id.is_some() {
            // Its runtime ends. What it looked after is in the hands of whoever submits next.
            locked.mark_task_overdue();
        }
        locked.remove_watchdog(self.id.take());
    }
}
