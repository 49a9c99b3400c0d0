//! Connections over streams of any kind: dials, keeps a connection alive, dials again.

use std::{fmt, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use metaq_protocol::{BrokerAddr, Command, PutRef};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    Connection, ConnectionConfig, ConnectionState, ConnectionStats, PendingResponse, Ticket, Transport,
    TransportError, TransportErrorKind,
    backoff::Backoff,
    link::Link,
    session::{Patience, Session},
    slots::MAX_SLOTS,
};

/// Makes streams to brokers.
#[async_trait]
pub trait Dialer: fmt::Debug + Send + Sync + 'static {
    /// What it makes.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send;

    /// A stream to `broker`, on which the broker's protocol can be spoken at once. It is dropped when it takes longer than
    /// [`ConnectionConfig::connect_timeout`], and called again after a pause when it fails.
    ///
    /// # Errors
    /// When the broker can't be reached now.
    async fn dial(&self, broker: &BrokerAddr) -> io::Result<Self::Stream>;
}

/// Connects to brokers by streams of one's own: for tests without ports, tunnels and the like. All that
/// [`TcpTransport`](crate::TcpTransport) does after dialling is done here.
///
/// Each connection has one task, which runs on the tokio runtime that [`connect`](Transport::connect) was called on.
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
        let config = self.config.clone();
        let max_in_flight = config.max_in_flight.clamp(1, MAX_SLOTS);
        let link = Arc::new(Link::new(broker.clone(), max_in_flight, config.max_in_flight_bytes));
        let drain_timeout = config.drain_timeout;
        tokio::spawn(keep_connected(Arc::clone(&link), Arc::clone(&self.dialer), config));
        Ok(Arc::new(StreamConnection { link, drain_timeout }))
    }
}

/// A handle to a connection that [`keep_connected`] looks after.
#[derive(Debug)]
struct StreamConnection {
    link: Arc<Link>,
    drain_timeout: Duration,
}

#[async_trait]
impl Connection for StreamConnection {
    fn broker(&self) -> &BrokerAddr {
        &self.link.broker
    }

    fn submit(&self, command: &mut Command, deadline: Instant) -> Result<PendingResponse, TransportError> {
        self.link.submit(command, deadline)
    }

    fn submit_put(
        &self,
        put: PutRef<'_>,
        deadline: Instant,
        ticket: Ticket<'_>,
    ) -> Result<bool, TransportError> {
        self.link.submit_put(put, deadline, ticket)
    }

    async fn submit_when_free(
        &self,
        command: &mut Command,
        deadline: Instant,
    ) -> Result<PendingResponse, TransportError> {
        self.link.submit_when_free(command, deadline).await
    }

    fn stats(&self) -> ConnectionStats {
        self.link.stats()
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.link.state()
    }

    fn close(&self, deadline: Instant) {
        self.link.request_close(deadline);
    }
}

impl Drop for StreamConnection {
    fn drop(&mut self) {
        self.link.request_close(Instant::now() + self.drain_timeout);
    }
}

/// Marks the connection closed however its task ends, also when its runtime is shut down under it.
struct CloseAtEnd {
    link: Arc<Link>,
    first_unwritten: u64,
}

impl Drop for CloseAtEnd {
    fn drop(&mut self) {
        self.link.set_closed(self.first_unwritten);
    }
}

/// The task of one connection: dials until it succeeds, serves the connection until it is lost, and again.
async fn keep_connected<D: Dialer>(link: Arc<Link>, dialer: Arc<D>, config: ConnectionConfig) {
    // While a session runs nobody knows how far it came if the task is dropped: all may have been written.
    let mut at_end = CloseAtEnd { link: Arc::clone(&link), first_unwritten: u64::MAX };
    let mut backoff = Backoff::new(config.first_pause, config.longest_pause);
    let mut said_unreachable = false;
    loop {
        let started = Instant::now();
        let dialled = tokio::select! {
            biased;
            () = link.close_requested.notified() => return,
            dialled = timeout(config.connect_timeout, dialer.dial(&link.broker)) => dialled,
        };
        let limit = config.connect_timeout;
        let too_late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"));
        match dialled.map_err(too_late).flatten() {
            Ok(stream) => {
                let patience = Patience {
                    greeting: limit.saturating_sub(started.elapsed()),
                    stall_after: config.stall_after,
                    heartbeat_after: config.heartbeat_after,
                    heartbeat_timeout: config.heartbeat_timeout,
                };
                let mut session = Session::new(&link, stream, patience);
                let end = session.run().await;
                let (first_unwritten, proven) = (session.first_unwritten(), session.is_proven());
                drop(session);
                match end {
                    Ok(()) => {
                        at_end.first_unwritten = first_unwritten;
                        tracing::info!(broker = %link.broker, "disconnected as asked");
                        return;
                    }
                    Err(reason) => {
                        if proven {
                            backoff.reset();
                            said_unreachable = false;
                            tracing::warn!(broker = %link.broker, %reason, "connection lost");
                        } else if !std::mem::replace(&mut said_unreachable, true) {
                            tracing::warn!(broker = %link.broker, %reason, "broker doesn't answer; trying on");
                        }
                        link.fail_all(first_unwritten, TransportErrorKind::Lost, Some(reason));
                    }
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut said_unreachable, true) {
                    tracing::warn!(broker = %link.broker, %error, "broker is unreachable; trying on");
                }
                link.set_connecting(link.error(TransportErrorKind::NotConnected).with_cause(error));
            }
        }
        if link.is_closing() {
            return;
        }
        tokio::select! {
            biased;
            () = link.close_requested.notified() => return,
            () = sleep(backoff.next_pause()) => {}
        }
    }
}
