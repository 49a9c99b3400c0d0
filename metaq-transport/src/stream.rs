//! Connections over streams of any kind: dials, keeps a connection alive, dials again.

use std::{fmt, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use metaq_protocol::{BodyTooLong, BrokerAddr, Command, PutRef};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::Instant,
};

use crate::{
    Capacity, CompletionToken, Connection, ConnectionConfig, ConnectionState, ConnectionStats,
    PendingResponse, Reservation, Transport, TransportError, TransportErrorKind, deadline,
    in_flight_limit::InFlightLimit,
    runtime,
    shared::ConnectionShared,
    supervisor::{CloseGuard, supervise},
};

/// Makes streams to brokers.
#[async_trait]
pub trait Dialer: fmt::Debug + Send + Sync + 'static {
    /// The stream that it makes.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send;

    /// A stream to `broker`, on which the broker's protocol can be spoken at once. It is dropped when it takes longer than
    /// [`ConnectionConfig::connect_timeout`], and called again after a pause when it fails.
    ///
    /// # Errors
    /// When the broker can't be reached now.
    async fn dial(&self, broker: &BrokerAddr) -> io::Result<Self::Stream>;

    /// A stream is given up as lost, and dropped next: what it was given and has not delivered yet had better never be. It
    /// might be stored after what is sent on the next stream. Must not block. Default: does nothing.
    fn abort(&self, stream: &Self::Stream) {
        let _ = stream;
    }
}

/// Connects to brokers by streams of one's own: for tests without ports, tunnels and the like. All that
/// [`TcpTransport`](crate::TcpTransport) does after dialling is done here.
///
/// Each connection has one task, which runs on the tokio runtime that [`connect`](Transport::connect) was called on. If it
/// panics, which only code of others can make it do, the connection is lost and dialled again. When that runtime ends, the
/// connection is closed; requests say so. Requests that are submitted on another runtime end by their deadlines even if that
/// one isn't driven.
#[derive(Debug)]
pub struct StreamTransport<D> {
    dialer: Arc<D>,
    config: ConnectionConfig,
}

impl<D: Dialer> StreamTransport<D> {
    /// A transport over what `dialer` makes.
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
        // It is made here, because a task that is never polled drops what it was given.
        let close_guard = CloseGuard::new(Arc::clone(&shared));
        drop(home.spawn(supervise(close_guard, Arc::clone(&self.dialer), config)));
        Ok(Arc::new(StreamConnection { shared, drain_timeout }))
    }
}

/// A handle to a connection that [`supervise`] looks after.
#[derive(Debug)]
struct StreamConnection {
    shared: Arc<ConnectionShared>,
    drain_timeout: Duration,
}

impl StreamConnection {
    /// Refuses a request that can't be written.
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
        // Listeners may wait for late answers: as long as one may come, the broker may still store the message.
        self.shared.request_close(deadline::from_now(self.drain_timeout), true);
    }
}
