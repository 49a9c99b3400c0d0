//! Watchdogs: they expire requests when the connection's task doesn't run.
//!
//! Requests may be submitted on another runtime than that of the connection's task, which may not be driven.
//! A watchdog is a small task on such a runtime, while anything is in flight or the connection is being
//! closed.

use std::{sync::Arc, time::Duration};

use tokio::{runtime, time::Instant};

use super::{ConnectionShared, Phase, shared::LockedState};
use crate::deadline;

/// The time after a deadline for which a watchdog leaves the request to the connection's task.
const GRACE: Duration = Duration::from_millis(10);

/// The shortest sleep of a watchdog.
const MIN_SLEEP: Duration = Duration::from_millis(1);

/// The longest sleep of a watchdog.
const WATCHDOG_PERIOD: Duration = Duration::from_millis(20);

/// The time after which a task that was woken and has not run may be on a runtime that isn't driven.
const TASK_OVERDUE_AFTER: Duration = Duration::from_millis(10);

impl ConnectionShared {
    /// Starts a watchdog if the caller is on another runtime than the connection's task, and one is needed
    /// there.
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
    /// Returns whether the task may be overdue: since the driver took the outbox, a deadline was not about
    /// this one.
    ///
    /// Deadlines stand for the time here, because reading the clock takes too long.
    #[inline]
    pub(super) fn check_task_overdue(&mut self, deadline: Instant) -> bool {
        match self.deadline_window {
            Some((from, to)) if from <= deadline && deadline <= to => false,
            known => {
                let from = deadline::before(deadline, TASK_OVERDUE_AFTER);
                self.deadline_window = Some((from, deadline::after(deadline, TASK_OVERDUE_AFTER)));
                known.is_some()
            }
        }
    }

    /// Makes [`check_task_overdue`](Self::check_task_overdue) true for the next request: the task should have
    /// run by now.
    pub(super) fn mark_task_overdue(&mut self) {
        let now = Instant::now();
        self.deadline_window = Some((now, now));
    }

    fn remove_watchdog(&mut self, watchdog: Option<runtime::Id>) {
        self.watchdogs.retain(|id| Some(*id) != watchdog);
    }

    /// Returns whether anything has a deadline: a request, or a connection that is being closed.
    fn needs_watchdog(&self) -> bool {
        match self.phase {
            Phase::Closed => false,
            Phase::Closing { .. } => true,
            _ => !self.limit.is_idle(),
        }
    }
}

/// Expires requests on a runtime that isn't the connection's.
struct Watchdog {
    shared: Arc<ConnectionShared>,
    /// The runtime of the watchdog, while it is registered there.
    id: Option<runtime::Id>,
}

impl Watchdog {
    async fn run(mut self) {
        loop {
            let next = {
                let mut locked = self.shared.inner.lock();
                if !locked.needs_watchdog() {
                    // The next submission starts another watchdog.
                    locked.remove_watchdog(self.id.take());
                    return;
                }
                locked.slots.next_deadline()
            };
            let now = Instant::now();
            let period = deadline::after(now, WATCHDOG_PERIOD);
            let next = next.map_or(period, |next| deadline::after(next, GRACE));
            let next = next.clamp(deadline::after(now, MIN_SLEEP), period);
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
            // The runtime ends. The next submission starts another watchdog elsewhere.
            locked.mark_task_overdue();
        }
        locked.remove_watchdog(self.id.take());
    }
}
