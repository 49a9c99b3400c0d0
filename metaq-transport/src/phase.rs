//! The phases of a connection, and what ends when they change.
//!
//! The phase, the number of the first frame that was not written, and the slots change together under the connection's lock:
//! a request that was submitted before a change has a known fate, one that comes after it is refused.

use std::{sync::Arc, task::Waker};

use tokio::time::Instant;

use crate::{
    ConnectionState, ConnectionStats, Progress, TransportError, TransportErrorKind,
    contain::contain,
    deferred::Deferred,
    error::LossReason,
    outbox::Outbox,
    shared::{ConnectionShared, LockedState},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Connecting,
    Ready,
    Stalled,
    Closing {
        deadline: Instant,
        /// Whether late answers are awaited, too.
        awaits_late_responses: bool,
    },
    Closed,
}

/// The time at which a connection that is being closed shall end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseTime {
    /// Nothing is outstanding. Saying goodbye may take until then.
    Now(Instant),
    At(Instant),
}

impl ConnectionShared {
    /// Publishes the latest state. One thread at a time does, so that states come in order.
    pub(crate) fn publish(&self) {
        loop {
            let state = {
                let mut locked = self.inner.lock();
                if locked.is_publishing {
                    return;
                }
                let Some(state) = locked.unpublished.take() else { return };
                locked.is_publishing = true;
                state
            };
            // Wakes receivers, and drops the last state with its error.
            let published = contain(|| drop(self.state.send_replace(state)));
            self.inner.lock().is_publishing = false;
            drop(published);
        }
    }

    /// A connection was established, over which `counts` was written and read. False when it was closed meanwhile.
    pub(crate) fn set_established(self: &Arc<Self>, counts: &ConnectionStats) -> bool {
        {
            let stats = &mut self.inner.lock().stats;
            stats.writes += counts.writes;
            stats.bytes_written += counts.bytes_written;
            stats.reads += counts.reads;
            stats.bytes_read += counts.bytes_read;
        }
        self.set_ready()
    }

    /// Requests are accepted from now on. False when the connection was closed meanwhile.
    pub(crate) fn set_ready(self: &Arc<Self>) -> bool {
        self.change(|locked, deferred| {
            match locked.phase {
                Phase::Connecting => locked.stats.established += 1,
                Phase::Stalled => {}
                _ => return false,
            }
            locked.phase = Phase::Ready;
            deferred.drop_error(locked.last_error.take());
            locked.publish(ConnectionState::Ready, deferred);
            true
        })
    }

    /// The broker is silent and owes answers: what was not written is ended, and no more is accepted for now. `writing` is what
    /// the session was writing.
    pub(crate) fn set_stalled(&self, writing: &mut Outbox, deferred: &mut Deferred) {
        self.with_lock(deferred, |locked, deferred| {
            if locked.phase == Phase::Ready {
                locked.phase = Phase::Stalled;
                locked.publish(ConnectionState::Stalled, deferred);
            }
            let first_unwritten = locked.first_unwritten(writing);
            writing.remove_unwritten(|body| deferred.drop_body(body));
            locked.outbox.remove_unwritten(|body| deferred.drop_body(body));
            let error = self.error(TransportErrorKind::Stalled);
            let LockedState { slots, limit, .. } = locked;
            slots.fail_unwritten(
                first_unwritten,
                |_| error.clone(),
                |completion| deferred.add(limit, completion),
            );
        });
    }

    /// There is no connection: `error` says why the last attempt failed or the last connection was lost. What is outstanding is
    /// left as it is.
    pub(crate) fn set_connecting(self: &Arc<Self>, error: &TransportError) {
        self.change(|locked, deferred| locked.set_connecting(error, deferred));
    }

    /// The connection is lost, and nothing more comes from it: ends everything outstanding. The session has given back what it
    /// was writing.
    pub(crate) fn set_lost(self: &Arc<Self>, error: &TransportError) {
        self.change(|locked, deferred| {
            locked.set_connecting(error, deferred);
            locked.fail_all(error, deferred);
        });
    }

    /// The error of a connection that is lost for `reason`.
    pub(crate) fn loss_error(&self, reason: LossReason) -> TransportError {
        self.error(TransportErrorKind::Lost).with_cause(reason)
    }

    /// Accepts no more requests; the task closes when the outstanding ones have ended, or at `deadline`.
    pub(crate) fn request_close(self: &Arc<Self>, deadline: Instant, awaits_late_responses: bool) {
        let (is_closed, task) = self.change(|locked, _| {
            match &mut locked.phase {
                Phase::Closing { deadline: earlier, awaits_late_responses: too } => {
                    *earlier = deadline.min(*earlier);
                    *too &= awaits_late_responses;
                }
                Phase::Closed => return (true, None),
                phase => *phase = Phase::Closing { deadline, awaits_late_responses },
            }
            (false, locked.idle_task.take())
        });
        if is_closed {
            return;
        }
        self.close_requested.notify_one();
        task.into_iter().for_each(Waker::wake);
        self.ensure_watchdog();
    }

    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.inner.lock().phase, Phase::Closing { .. } | Phase::Closed)
    }

    /// Closed for good: what is outstanding, waiting for capacity or yet to come fails. `reason` says why if nobody asked for it.
    pub(crate) fn set_closed(self: &Arc<Self>, reason: Option<LossReason>) {
        let error = self.error(TransportErrorKind::Closed);
        let error = match reason {
            Some(reason) => error.with_cause(reason),
            None => error,
        };
        self.change(|locked, deferred| locked.set_closed(&error, deferred));
        self.drop_listeners();
    }

    /// Lets go of the listeners of a closed connection, unless another thread is about to tell them of something.
    pub(crate) fn drop_listeners(&self) {
        let listeners = {
            let mut locked = self.inner.lock();
            if locked.phase != Phase::Closed || locked.slots.listeners_in_use().contains(&true) {
                return;
            }
            std::mem::take(&mut locked.listeners)
        };
        for listener in listeners {
            drop(contain(|| drop(listener)));
        }
    }
}

impl LockedState {
    #[inline]
    pub(crate) fn refusal(&self) -> Option<TransportErrorKind> {
        match self.phase {
            Phase::Ready => None,
            Phase::Stalled => Some(TransportErrorKind::Stalled),
            Phase::Connecting => Some(TransportErrorKind::NotConnected),
            Phase::Closing { .. } | Phase::Closed => Some(TransportErrorKind::Closed),
        }
    }

    fn publish(&mut self, state: ConnectionState, deferred: &mut Deferred) {
        if let Some(ConnectionState::Connecting { last_error }) = self.unpublished.replace(state) {
            deferred.drop_error(last_error);
        }
        if self.phase == Phase::Closed {
            deferred.closed = true;
        } else {
            deferred.state_changed = true;
        }
    }

    pub(crate) fn set_connecting(&mut self, error: &TransportError, deferred: &mut Deferred) {
        let is_known = self.phase == Phase::Connecting
            && self.last_error.as_ref().is_some_and(|known| known.is_same(error));
        if matches!(self.phase, Phase::Connecting | Phase::Ready | Phase::Stalled) && !is_known {
            self.phase = Phase::Connecting;
            deferred.drop_error(self.last_error.replace(error.clone()));
            self.publish(ConnectionState::connecting(Some(error.clone())), deferred);
        }
    }

    pub(crate) fn set_closed(&mut self, error: &TransportError, deferred: &mut Deferred) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            deferred.drop_error(self.last_error.replace(error.clone()));
            self.publish(ConnectionState::Closed, deferred);
        }
        self.fail_all(error, deferred);
    }

    /// The number of the first frame that was not written, where `writing` is being written.
    pub(crate) fn first_unwritten(&self, writing: &Outbox) -> u64 {
        writing.first_unwritten().or_else(|| self.outbox.first_unwritten()).unwrap_or(self.next_frame)
    }

    /// Ends everything outstanding.
    fn fail_all(&mut self, error: &TransportError, deferred: &mut Deferred) {
        let first_unwritten = self.first_unwritten(&self.writing);
        self.writing.assume_written(|body| deferred.drop_body(body));
        self.outbox.assume_written(|body| deferred.drop_body(body));
        let unwritten = error.clone().with_progress(Progress::NotWritten);
        let written = error.clone().with_progress(Progress::Written);
        let error_for = |progress| match progress {
            Progress::NotWritten => unwritten.clone(),
            Progress::Written => written.clone(),
        };
        let Self { slots, limit, .. } = self;
        slots.fail_all(first_unwritten, error_for, |completion, released| {
            if let Some(completion) = completion {
                deferred.add(limit, completion);
            }
            if let Some(released) = released {
                deferred.add_released(released);
            }
        });
        deferred.drop_error(Some(unwritten));
        deferred.drop_error(Some(written));
    }

    /// Until when to wait for outstanding requests, when the connection is being closed and there are any.
    pub(crate) fn close_time(&self) -> Option<CloseTime> {
        match self.phase {
            Phase::Closing { deadline, awaits_late_responses }
                if self.limit.is_idle() && !(awaits_late_responses && self.slots.awaits_late_responses()) =>
            {
                Some(CloseTime::Now(deadline))
            }
            Phase::Closing { deadline, .. } => Some(CloseTime::At(deadline)),
            Phase::Closed => Some(CloseTime::Now(Instant::now())),
            _ => None,
        }
    }
}
