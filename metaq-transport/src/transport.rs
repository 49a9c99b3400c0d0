//! The traits [`Transport`] and [`Connection`]: what a producer needs to reach brokers.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use metaq_protocol::{BrokerAddr, Command, PutRef};
use tokio::{sync::watch, time::Instant};

use crate::{
    Capacity, CompletionToken, ConnectionState, ConnectionStats, PendingResponse, Reservation,
    TransportError, TransportErrorKind, connection::CompletionGuard,
};

/// Makes connections to brokers.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync {
    /// Returns a connection to `broker`, which is dialled in the background: at once, and again whenever it
    /// is lost, until it is closed or dropped. [`Connection::state`] reports when it is ready.
    ///
    /// # Errors
    /// Of kind [`InvalidConfig`](TransportErrorKind::InvalidConfig) when the settings can't be used, and of
    /// kind [`NoRuntime`](TransportErrorKind::NoRuntime) outside of a tokio runtime. A broker that can't be
    /// reached is no error.
    ///
    /// # Cancel safety
    /// Dropping the future before it is done leaves nothing behind.
    async fn connect(&self, broker: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError>;
}

/// A pipelined connection to one broker: many requests may be in flight at a time, and their responses come
/// in any order.
///
/// Dropping the last handle closes the connection after its outstanding requests have completed.
#[async_trait]
pub trait Connection: fmt::Debug + Send + Sync {
    /// Returns the broker at the other end.
    fn broker(&self) -> &BrokerAddr;

    /// Queues `command`, whose opaque is replaced by one of the connection's own.
    ///
    /// Requests are written in the order of these calls. The returned future completes with the response, at
    /// `deadline`, or when the connection is lost, whichever is first. It may be dropped at any time: the
    /// request is sent all the same, and its response is dropped.
    ///
    /// # Errors
    /// When the connection isn't ready, was closed, has no capacity for another request, or others wait for
    /// capacity; of kind [`TooLarge`](TransportErrorKind::TooLarge) when the body is longer than a frame can
    /// carry. Nothing was written then.
    fn submit(&self, command: &mut Command, deadline: Instant) -> Result<PendingResponse, TransportError>;

    /// Queues a put whose outcome is reported to `notify`, in place of a future; otherwise like
    /// [`submit`](Self::submit).
    ///
    /// Returns whether the caller should yield: the write buffer is full enough for a write. The default
    /// implementation awaits the response on a task of its own, and returns `false`.
    ///
    /// # Errors
    /// As for [`submit`](Self::submit). Nothing is reported then. The default implementation also fails with
    /// kind [`NoRuntime`](TransportErrorKind::NoRuntime) outside of a tokio runtime, and on a runtime that
    /// has ended; in the second case the error says that the put may have been written.
    fn submit_put(
        &self,
        put: PutRef<'_>,
        deadline: Instant,
        notify: CompletionToken<'_>,
    ) -> Result<bool, TransportError> {
        let Some(runtime) = crate::runtime::current() else {
            return Err(TransportError::new(TransportErrorKind::NoRuntime, self.broker().clone()));
        };
        let pending = self.submit(&mut Command::from(put.to_put()), deadline)?;
        let (guard, spawn_check) = CompletionGuard::new(notify, self.broker());
        drop(runtime.spawn(async move { guard.complete(pending.await) }));
        spawn_check.confirm().map(|()| false)
    }

    /// [`submit_put`](Self::submit_put) with capacity that was [reserved](Self::reserve).
    ///
    /// The reservation is taken if it is one of this connection and the put is accepted. A put may exceed its
    /// reservation by a kilobyte, because reservations are estimates.
    ///
    /// # Errors
    /// As for [`submit_put`](Self::submit_put). The reservation is left in place then.
    fn submit_reserved_put(
        &self,
        put: PutRef<'_>,
        deadline: Instant,
        notify: CompletionToken<'_>,
        reservation: &mut Option<Reservation>,
    ) -> Result<bool, TransportError> {
        let _ = reservation;
        self.submit_put(put, deadline, notify)
    }

    /// Requests capacity for one request of `bytes` bytes (payload, attribute and topic), first come, first
    /// served.
    ///
    /// If there is none now, [`Completions::capacity`](crate::Completions::capacity) of `notify` is called
    /// when there is. A request that is larger than the whole limit waits until nothing else is in flight.
    ///
    /// # Errors
    /// When the connection isn't ready or was closed; of kind [`Full`](TransportErrorKind::Full) when the
    /// connection can't announce capacity, so that the caller has to try again from time to time. The default
    /// implementation always fails so.
    fn reserve(&self, bytes: usize, notify: CompletionToken<'_>) -> Result<Capacity, TransportError> {
        let _ = (bytes, notify);
        Err(TransportError::new(TransportErrorKind::Full, self.broker().clone()))
    }

    /// Fails the requests whose deadline has passed at `now`, and closes a connection whose deadline for
    /// closing has passed.
    ///
    /// Runs on the calling thread. A connection does both by itself, also for requests that are submitted on
    /// another runtime than its own. This method is for callers without a runtime that can't rely on the
    /// connection's runtime being driven. The default implementation does nothing.
    fn expire(&self, now: Instant) {
        let _ = now;
    }

    /// Like [`submit`](Self::submit), but waits for capacity.
    ///
    /// Waiters, here and by [`reserve`](Self::reserve), are served in the order in which they came. Capacity
    /// is handed to a waiter as a reservation, so that a future that is not polled any more doesn't delay the
    /// waiters behind it.
    ///
    /// # Errors
    /// As for `submit`, except that it fails with kind [`TimedOut`](TransportErrorKind::TimedOut) when there
    /// is no capacity before `deadline`. If the connection stops accepting requests meanwhile, the error says
    /// why. Of kind [`NoRuntime`](TransportErrorKind::NoRuntime) when it would have to wait and there is no
    /// tokio runtime with timers.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is done, the command was not queued.
    async fn submit_when_free(
        &self,
        command: &mut Command,
        deadline: Instant,
    ) -> Result<PendingResponse, TransportError>;

    /// Returns the counts of the connection since it was made. All are zero for a connection that doesn't
    /// count.
    fn stats(&self) -> ConnectionStats {
        ConnectionStats::default()
    }

    /// Returns the connection's state, now and as it changes.
    fn state(&self) -> watch::Receiver<ConnectionState>;

    /// Accepts no more requests, waits until the outstanding ones have completed or `deadline` has passed,
    /// and closes.
    ///
    /// Returns at once; await [`ConnectionState::Closed`] to know when it is done. Requests that are still
    /// outstanding then fail with kind [`Closed`](crate::TransportErrorKind::Closed).
    fn close(&self, deadline: Instant);
}
