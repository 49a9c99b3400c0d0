//! The transport over streams of any kind, and the handle to its connections.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use metaq_protocol::{BodyTooLong, BrokerAddr, Command, PutRef};
use tokio::{sync::watch, time::Instant};

use crate::{
    Capacity, CompletionToken, Connection, ConnectionConfig, ConnectionState, ConnectionStats, Dialer,
    PendingResponse, Reservation, Transport, TransportError, TransportErrorKind,
    connection::{ConnectionShared, InFlightLimit},
    deadline, runtime,
    supervisor::{CloseGuard, supervise},
};

/// Connects to brokers by the streams of a [`Dialer`]: for tests without ports, tunnels and the like.
///
/// Does all that [`TcpTransport`](crate::TcpTransport) does after dialling. Each connection has one task,
/// which runs on the tokio runtime that [`connect`](Transport::connect) was called on. If the task panics,
/// which only user code can cause, the connection is lost and dialled again. When that runtime ends, the
/// connection is closed, and the errors of requests say so. Requests that are submitted on another runtime
/// fail by their deadlines even if the connection's runtime isn't driven.
#[derive(Debug)]
pub struct StreamTransport<D> {
    dialer: Arc<D>,
    config: ConnectionConfig,
}

impl<D: Dialer> StreamTransport<D> {
    /// Creates a transport over the streams of `dialer`.
    pub fn new(dialer: D, config: ConnectionConfig) -> Self {
        Self { dialer: Arc::new(dialer), config }
    }
}

impl<D> Clone for StreamTransport<D> {
    fn clone(&self) -> Self {
        Self { dialer: Arc::clone(&self.dialer), config: self.config.clone() }
    }
}

#[async_trait]
impl<D: Dialer> Transport for StreamTransport<D> {
    async fn connect(&self, broker: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError> {
        let error = |kind| TransportError::new(kind, broker.clone());
        let config = self.config.clone();
        config.validate().map_err(|cause| error(TransportErrorKind::InvalidConfig).with_cause(cause))?;
        let config = config.with_usable_durations();
        let home = runtime::current().ok_or_else(|| error(TransportErrorKind::NoRuntime))?;
        if runtime::sleep_until(Instant::now()).is_none() {
            return Err(error(TransportErrorKind::NoRuntime));
        }
        let limit = InFlightLimit::new(config.max_in_flight, config.max_in_flight_bytes);
        let shared = Arc::new(ConnectionShared::new(broker.clone(), home.id(), limit));
        let drain_timeout = config.drain_timeout;
        // Made here, because a task that is never polled drops what it owns, and the connection is closed
        // then, too.
        let close_guard = CloseGuard::new(Arc::clone(&shared));
        drop(home.spawn(supervise(close_guard, Arc::clone(&self.dialer), config)));
        Ok(Arc::new(StreamConnection { shared, drain_timeout }))
    }
}

/// A handle to a connection that [`supervise`] drives.
#[derive(Debug)]
struct StreamConnection {
    shared: Arc<ConnectionShared>,
    drain_timeout: Duration,
}

impl StreamConnection {
    /// Turns the failed check of a request that can't be written into an error.
    fn check(&self, checked: Result<(), BodyTooLong>) -> Result<(), TransportError> {
        checked.map_err(|too_long| {
            TransportError::new(TransportErrorKind::TooLarge, self.shared.broker.clone()).with_cause(too_long)
        })
    }
}

#[async_trait]
impl Connection for StreamConnection {
    fn broker(&self) -> &BrokerAddr {
        &self.shared.broker
    }

    fn submit(&self, command: &mut Command, deadline: Instant) -> Result<PendingResponse, TransportError> {
        self.check(command.check())?;
        self.shared.submit(command, deadline)
    }

    fn submit_put(
        &self,
        put: PutRef<'_>,
        deadline: Instant,
        notify: CompletionToken<'_>,
    ) -> Result<bool, TransportError> {
        self.check(put.check())?;
        self.shared.submit_put(put, deadline, notify)
    }

    fn submit_reserved_put(
        &self,
        put: PutRef<'_>,
        deadline: Instant,
        notify: CompletionToken<'_>,
        reservation: &mut Option<Reservation>,
    ) -> Result<bool, TransportError> {
        self.check(put.check())?;
        self.shared.submit_reserved_put(put, deadline, notify, reservation)
    }

    fn reserve(&self, bytes: usize, notify: CompletionToken<'_>) -> Result<Capacity, TransportError> {
        self.shared.reserve(bytes, notify)
    }

    fn expire(&self, now: Instant) {
        self.shared.expire(now);
    }

    async fn submit_when_free(
        &self,
        command: &mut Command,
        deadline: Instant,
    ) -> Result<PendingResponse, TransportError> {
        self.check(command.check())?;
        self.shared.submit_when_free(command, deadline).await
    }

    fn stats(&self) -> ConnectionStats {
        self.shared.stats()
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.shared.state()
    }

    fn close(&self, deadline: Instant) {
        self.shared.request_close(deadline, false);
    }
}

impl Drop for StreamConnection {
    fn drop(&mut self) {
        // Listeners may wait for late responses: as long as one may come, the broker may still store the
        // message.
        self.shared.request_close(deadline::from_now(self.drain_timeout), true);
    }
}
