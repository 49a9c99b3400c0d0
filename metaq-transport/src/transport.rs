//! The traits: what a producer asks of a way to reach brokers.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use metaq_protocol::{BrokerAddr, Command, PutRef};
use tokio::{sync::watch, time::Instant};

use crate::{
    Capacity, CompletionToken, PendingResponse, Reservation, TransportError, TransportErrorKind,
    completion_guard::CompletionGuard,
};

/// Makes connections to brokers.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync {
    /// A connection to `broker`, which looks after itself: it dials at once and in the background, and dials
    /// again whenever it is lost, until it is closed or dropped. Watch [`Connection::state`] to know when it is ready.
    ///
    /// # Errors
    /// Of kind [`InvalidConfig`](TransportErrorKind::InvalidConfig) when the settings can't be used, and of kind
    /// [`NoRuntime`](TransportErrorKind::NoRuntime) outside of a tokio runtime. A broker that is away is no error.
    ///
    /// # Cancel safety
    /// Nothing remains when the future is dropped before it is done.
    async fn connect(&self, broker: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError>;
}

/// A pipelined connection to one broker: many requests may be unanswered at a time, and answers come in
/// any order.
///
/// Dropping the last handle closes the connection after its outstanding requests have ended.
#[async_trait]
pub trait Connection: fmt::Debug + Send + Sync {
    /// The broker at the other end.
    fn broker(&self) -> &BrokerAddr;

    /// Queues `command`, whose opaque is replaced by one of the connection's own. Requests are written in the order
    /// of these calls. The returned future ends with the answer, at `deadline`, or when the connection is lost,
    /// whichever is first. It may be dropped at any time: the request goes on, its answer is dropped.
    ///
    /// # Errors
    /// When the connection isn't ready, was closed, or has no capacity for another unanswered request, or others wait for
    /// capacity; of kind [`TooLarge`](TransportErrorKind::TooLarge) when the body is longer than a frame can carry. Nothing was
    /// written then.
    fn submit(&self, command: &mut Command, deadline: Instant) -> Result<PendingResponse, TransportError>;

    /// Queues a put whose end is told to the ticket's [`Completions`](crate::Completions), in place of a future; else as
    /// [`submit`](Self::submit). A connection that has no way of its own for it awaits the answer on a task of its own.
    /// Returns whether so much waits to be written now, as far as the connection knows, that it is worth a write: one who
    /// submits without end had better let others run then.
    ///
    /// # Errors
    /// As for [`submit`](Self::submit). Nobody is told anything then. A connection that has no way of its own for it also fails
    /// with kind [`NoRuntime`](TransportErrorKind::NoRuntime) outside of a tokio runtime, and on one that has ended, when the
    /// error says that the put may have been written.
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
        let (completion_guard, accepted) = CompletionGuard::new(notify, self.broker());
        drop(runtime.spawn(async move { completion_guard.complete(pending.await) }));
        accepted.confirm().map(|()| false)
    }

    /// [`submit_put`](Self::submit_put) with capacity that was [reserved](Self::reserve), which is taken if it is this
    /// connection's and the put is accepted. A put that is larger than its reservation by no more than a kilobyte goes all the
    /// same, because what it takes is estimated.
    ///
    /// # Errors
    /// As for [`submit_put`](Self::submit_put). The reservation stays where it is then.
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

    /// Asks for capacity for one request of `bytes` bytes, payload, attribute and topic, first come, first served with all others
    /// who wait for it. Where there is none now, the ticket's [`Completions::capacity`](crate::Completions::capacity) is called
    /// when there is. A request that is larger than the whole limit waits until it can go alone.
    ///
    /// # Errors
    /// When the connection isn't ready or was closed; of kind [`Full`](TransportErrorKind::Full) when the connection can't
    /// announce capacity, which is what the default implementation says: then the caller has to try again from time to time.
    fn reserve(&self, bytes: usize, notify: CompletionToken<'_>) -> Result<Capacity, TransportError> {
        let _ = (bytes, notify);
        Err(TransportError::new(TransportErrorKind::Full, self.broker().clone()))
    }

    /// Ends the requests whose deadline has passed at `now`, on the calling thread, and a connection that is being closed once
    /// the deadline of that has passed. A connection does so by itself, and sees to it for requests that are submitted on
    /// another runtime than its own; this is for callers without a runtime who can't rely on the connection's being driven. The
    /// default implementation does nothing.
    fn expire(&self, now: Instant) {
        let _ = now;
    }

    /// Like [`submit`](Self::submit), but waits for capacity; those who wait, here or by [`reserve`](Self::reserve), are served
    /// in the order in which they came. Capacity is handed to a waiter as a reservation: one that isn't polled any more holds
    /// up nobody else.
    ///
    /// # Errors
    /// As for `submit`; in place of "no capacity", that `deadline` has passed. If the connection stops accepting requests
    /// meanwhile, the error says why. Of kind [`NoRuntime`](TransportErrorKind::NoRuntime) when it would have to wait and
    /// there is no tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future before it is done means that the command was not queued.
    async fn submit_when_free(
        &self,
        command: &mut Command,
        deadline: Instant,
    ) -> Result<PendingResponse, TransportError>;

    /// The counts of the connection since it was made. Zero everywhere for a connection that doesn't count.
    fn stats(&self) -> ConnectionStats {
        ConnectionStats::default()
    }

    /// The connection's state, now and as it changes.
    fn state(&self) -> watch::Receiver<ConnectionState>;

    /// Accepts no more requests, waits for the outstanding ones to end, but not beyond `deadline`, then
    /// closes. Returns at once; await [`ConnectionState::Closed`] to know when it is done. Requests that
    /// are still outstanding then end with an error of kind
    /// [`Closed`](crate::TransportErrorKind::Closed).
    fn close(&self, deadline: Instant);
}

/// The states of a connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectionState {
    /// No connection is established. It is being dialled, or about to be.
    #[non_exhaustive]
    Connecting {
        /// The reason why the last attempt failed, or the last connection was lost.
        last_error: Option<TransportError>,
    },
    /// Requests can be submitted.
    Ready,
    /// The broker has been silent for too long while it owes answers. Requests that were written are still awaited; those
    /// that were not were ended, and no more are accepted, until it speaks again or the connection is given up. A new one is
    /// dialled beside it meanwhile, which replaces it if the broker answers on that one alone: then this state is followed by
    /// [`Connecting`](Self::Connecting), with the reason, and at once by [`Ready`](Self::Ready).
    Stalled,
    /// It is closed for good. If nobody asked for that, because the runtime that it lives on has ended, the errors of
    /// requests say so.
    Closed,
}

impl ConnectionState {
    /// Not connected; `last_error` says why the last attempt failed or the last connection was lost.
    #[must_use]
    pub fn connecting(last_error: Option<TransportError>) -> Self {
        Self::Connecting { last_error }
    }

    /// Whether requests can be submitted.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Whether it is closed for good.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

/// Counts of one connection since it was made, over all times it was established.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// The number of times that it was established; attempts that were answered and never used don't count.
    pub established: u64,
    /// Requests that were accepted.
    pub requests: u64,
    /// Requests that were answered in time; heartbeats don't count.
    pub answered: u64,
    /// Answers that came when their requests had been given up, or that nobody asked for.
    pub ignored_responses: u64,
    /// Requests that are unanswered now.
    pub in_flight: usize,
    /// Bytes of those requests.
    pub in_flight_bytes: usize,
    /// Calls of the operating system that wrote.
    pub writes: u64,
    /// Bytes that were written.
    pub bytes_written: u64,
    /// Calls of the operating system that read.
    pub reads: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
}
