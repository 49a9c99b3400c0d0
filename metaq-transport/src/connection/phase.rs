//! The phases of a connection, and what their changes do to requests.
//!
//! The phase, the number of the first frame that was not written, and the slots change together under the
//! connection's lock: a request that was submitted before a change is completed by it or not, and a later one
//! is refused.

use std::{sync::Arc, task::Waker};

use tokio::time::Instant;

use super::{ConnectionShared, Deferred, Outbox, shared::LockedState};
use crate::{
    ConnectionState, ConnectionStats, Progress, TransportError, TransportErrorKind, error::LossReason,
    panics::catch,
};

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Connecting,
    Ready,
    Stalled,
    Closing {
        deadline: Instant,
        /// Set if late responses are awaited, too.
        awaits_late_responses: bool,
    },
    Closed,
}

/// The time at which a connection that is being closed is shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseTime {
    /// At once, because nothing is outstanding. The shutdown may take until this time.
    Now(Instant),
    /// At this time, unless everything has completed before.
    At(Instant),
}

impl ConnectionShared {
    /// Publishes the latest state. One thread at a time does, so that states are published in order.
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
            // Wakes receivers and drops the former state with its error, which is user code.
            let published = catch(|| drop(self.state.send_replace(state)));
            self.inner.lock().is_publishing = false;
            drop(published);
        }
    }

    /// Enters the ready phase with a new stream, on which `counts` was written and read. Returns false if the
    /// connection was closed meanwhile.
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

    /// Enters the ready phase, in which requests are accepted. Returns false if the connection was closed
    /// meanwhile.
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

    /// Enters the stalled phase: fails the requests that were not written, and accepts no more for now.
    ///
    /// `writing` is the outbox that the driver was writing.
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

    /// Enters the connecting phase, with the reason why the last attempt failed or the last stream was lost.
    ///
    /// Outstanding requests are left as they are.
    pub(crate) fn set_connecting(self: &Arc<Self>, error: &TransportError) {
        self.change(|locked, deferred| locked.set_connecting(error, deferred));
    }

    /// Enters the connecting phase after the loss of a stream, and fails everything outstanding.
    ///
    /// The driver must have handed over the outbox that it was writing.
    pub(crate) fn set_lost(self: &Arc<Self>, error: &TransportError) {
        self.change(|locked, deferred| {
            locked.set_connecting(error, deferred);
            locked.fail_all(error, deferred);
        });
    }

    /// Enters the closing phase: accepts no more requests, and has the task close the connection when the
    /// outstanding ones have completed, or at `deadline`.
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

    /// Enters the closed phase for good: fails requests that are outstanding, wait for capacity, or come
    /// later.
    ///
    /// `reason` is there if closing was not requested.
    pub(crate) fn set_closed(self: &Arc<Self>, reason: Option<LossReason>) {
        let error = self.error(TransportErrorKind::Closed);
        let error = match reason {
            Some(reason) => error.with_cause(reason),
            None => error,
        };
        self.change(|locked, deferred| locked.set_closed(&error, deferred));
        self.drop_listeners();
    }

    /// Drops the listeners of a closed connection, unless another thread is about to notify them.
    pub(crate) fn drop_listeners(&self) {
        let listeners = {
            let mut locked = self.inner.lock();
            if locked.phase != Phase::Closed || locked.slots.listeners_in_use().contains(&true) {
                return;
            }
            std::mem::take(&mut locked.listeners)
        };
        for listener in listeners {
            drop(catch(|| drop(listener)));
        }
    }
}

impl LockedState {
    /// Returns the kind of error with which requests are refused in this phase, or none in the ready phase.
    #[inline]
    pub(crate) fn refusal(&self) -> Option<TransportErrorKind> {
        match self.phase {
            Phase::Ready => None,
            Phase::Stalled => Some(TransportErrorKind::Stalled),
            Phase::Connecting => Some(TransportErrorKind::NotConnected),
            Phase::Closing { .. } | Phase::Closed => Some(TransportErrorKind::Closed),
        }
    }

    /// Leaves `state` to be published when the lock is released.
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

    /// Returns the number of the first frame of which nothing was written, where `writing` is being written.
    pub(crate) fn first_unwritten(&self, writing: &Outbox) -> u64 {
        writing.first_unwritten().or_else(|| self.outbox.first_unwritten()).unwrap_or(self.next_frame)
    }

    /// Fails everything outstanding.
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

    /// Returns the time at which the connection is to be shut down, if it is being closed.
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
