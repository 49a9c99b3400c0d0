//! The state that the callers of a connection and its task share, and the lock around it.

use std::{sync::Arc, task::Waker};

use metaq_protocol::BrokerAddr;
use parking_lot::Mutex;
use tokio::{
    runtime,
    sync::{Notify, watch},
    time::Instant,
};

use super::{Completions, Deferred, InFlightLimit, Outbox, Phase, Slots};
use crate::{ConnectionState, ConnectionStats, TransportError, TransportErrorKind, error::LossReason};

/// The part of a connection that its callers and its task share.
#[derive(Debug)]
pub(crate) struct ConnectionShared {
    pub(crate) broker: BrokerAddr,
    /// The runtime of the connection's task.
    pub(crate) home: runtime::Id,
    pub(crate) inner: Mutex<LockedState>,
    pub(crate) state: watch::Sender<ConnectionState>,
    /// Notifies a task that is dialling or backing off that the connection is to be closed.
    pub(crate) close_requested: Notify,
}

/// The state under the lock.
///
/// The lock is never held across an await, a system call, or user code. What runs user code is collected in a
/// [`Deferred`].
#[derive(Debug)]
pub(crate) struct LockedState {
    pub(crate) phase: Phase,
    pub(crate) slots: Slots,
    pub(crate) outbox: Outbox,
    /// The outbox that the driver is writing, while the driver isn't polled and the outbox isn't empty.
    pub(crate) writing: Outbox,
    /// Set while the driver holds the outbox that it writes. Only the driver knows then how much of it was
    /// written.
    pub(crate) driver_writes: bool,
    pub(crate) next_frame: u64,
    /// Wakes the connection's task when it is idle.
    pub(crate) idle_task: Option<Waker>,
    /// The deadlines that are about that of the first request which the driver has not taken yet.
    ///
    /// A deadline outside may belong to a request that came so much later that the task should have run
    /// meanwhile: see [`is_task_overdue`](Self::is_task_overdue).
    pub(crate) deadline_window: Option<(Instant, Instant)>,
    pub(crate) limit: InFlightLimit,
    pub(crate) stats: ConnectionStats,
    /// The listeners for the outcomes of puts; usually one.
    pub(crate) listeners: Vec<Arc<dyn Completions>>,
    /// The reason why no stream is established, or why the connection was closed without a request.
    pub(crate) last_error: Option<TransportError>,
    /// The state that is yet to be published.
    pub(crate) unpublished: Option<ConnectionState>,
    pub(crate) is_publishing: bool,
    /// The runtimes that have a watchdog.
    pub(crate) watchdogs: Vec<runtime::Id>,
}

/// The number of requests with which the driver begins to write to an idle broker, which works on them while
/// more are made.
pub(crate) const FIRST_BATCH: usize = 32;

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

    /// Runs `work` under the lock and hands on the capacity that it released.
    ///
    /// The caller has to [run](Deferred::run) what is collected in `deferred` afterwards.
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

    /// Returns an error of `kind` that concerns this connection's broker.
    pub(crate) fn error(&self, kind: TransportErrorKind) -> TransportError {
        TransportError::new(kind, self.broker.clone())
    }

    /// Returns the error of a stream that is lost for `reason`.
    pub(crate) fn loss_error(&self, reason: LossReason) -> TransportError {
        self.error(TransportErrorKind::Lost).with_cause(reason)
    }

    /// Returns the error of a refused request, with the reason why no stream is established, if one is known.
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
}

impl LockedState {
    /// Completes every change under the lock: hands on capacity, and looks up the listeners that are to be
    /// notified.
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

    /// Returns whether exactly `frames` requests wait to be written and nothing else is in flight.
    pub(super) fn is_first_batch(&self, frames: usize) -> bool {
        self.outbox.frames() == frames && self.limit.in_flight().0 == frames
    }

    /// Returns whether the broker is idle and enough requests wait for it to begin with.
    pub(crate) fn has_first_batch(&self) -> bool {
        let frames = self.outbox.frames();
        frames >= FIRST_BATCH && self.is_first_batch(frames)
    }
}
