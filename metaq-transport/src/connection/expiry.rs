//! Failing the requests whose deadlines pass, on the connection's task or on another thread.

use std::sync::Arc;

use tokio::time::Instant;

use super::{ConnectionShared, Deferred, Outbox, Phase, SlotKey, shared::LockedState};
use crate::{Progress, TransportErrorKind, error::LossReason};

impl ConnectionShared {
    /// Fails overdue requests on the connection's task, whose driver writes `writing`.
    ///
    /// Returns those that were written, which are to be passed to
    /// [`timeouts_reported`](Self::timeouts_reported) once `deferred` was run.
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

    /// Records that the timeouts of these requests, which were written, were reported to their listeners.
    pub(crate) fn timeouts_reported(&self, keys: Vec<SlotKey>, deferred: &mut Deferred) {
        self.with_lock(deferred, |locked, deferred| {
            for key in keys {
                if let Some(released) = locked.slots.timeout_reported(key) {
                    deferred.add_released(released);
                }
            }
        });
    }

    /// Fails overdue requests on any thread, unless the driver is being polled.
    pub(crate) fn expire(self: &Arc<Self>, now: Instant) {
        let mut written = Vec::new();
        let is_closed = self.change(|locked, deferred| {
            // The driver is being polled, and expires requests itself.
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
                // Without an idle task, the task was woken and not polled since.
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
}

impl LockedState {
    /// Fails overdue requests, where `writing` is being written. Adds those that were written to `written`.
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
        slots.expire(now, progress_of, error, |expired, completion| {
            match expired.progress {
                Progress::NotWritten => {
                    writing.void(expired.frame, |body| deferred.drop_body(body));
                    outbox.void(expired.frame, |body| deferred.drop_body(body));
                }
                Progress::Written => written.push(expired.key),
            }
            deferred.add(limit, completion);
        });
    }
}
