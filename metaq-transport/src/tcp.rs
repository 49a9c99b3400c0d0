//! The TCP transport: dials, keeps a connection alive, dials again.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use metaq_protocol::{BrokerAddr, Command};
use tokio::{
    net::{TcpStream, lookup_host},
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    Connection, ConnectionState, PendingResponse, Refused, Transport, TransportError, TransportErrorKind,
    backoff::Backoff,
    link::Link,
    session::{Heartbeat, Session},
    slots::MAX_SLOTS,
};

/// Settings of the TCP transport.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TcpConfig {
    /// How long one attempt to connect may take, name resolution and all addresses of the name included.
    /// Default 3 s. Too short, and a distant broker is never reached; too long, and a broker that comes back behind a
    /// firewall that drops packets is noticed late.
    pub connect_timeout: Duration,
    /// The longest pause before the second attempt to connect; it doubles with each further failure. The actual pause
    /// is drawn at random between zero and that. Default 50 ms.
    pub first_pause: Duration,
    /// What the pause doesn't grow beyond. Default 5 s.
    pub longest_pause: Duration,
    /// After how long without a byte from the broker it is sent a heartbeat. Default 10 s, as the Java client
    /// (rule N-10). The broker closes connections that are idle for 300 s.
    pub heartbeat_after: Duration,
    /// How long the broker has to answer a heartbeat, or anything else, before the connection is given up and made
    /// anew. Default 5 s.
    pub heartbeat_timeout: Duration,
    /// The most unanswered requests on a connection, at most 65,536. Default 16,384.
    pub max_in_flight: usize,
    /// The most bytes of unanswered requests on a connection. One request may be larger if it is alone.
    /// Default 64 MiB.
    pub max_in_flight_bytes: usize,
    /// How long a connection waits for its outstanding answers when its last handle is dropped. Default 5 s.
    pub drain_timeout: Duration,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(5),
            heartbeat_after: Duration::from_secs(10),
            heartbeat_timeout: Duration::from_secs(5),
            max_in_flight: 16 * 1024,
            max_in_flight_bytes: 64 * 1024 * 1024,
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Connects to brokers by TCP.
///
/// Each connection has one task, which runs on the tokio runtime that [`connect`](Transport::connect) was called
/// on. Names are resolved anew at every attempt.
#[derive(Clone, Debug, Default)]
pub struct TcpTransport {
    config: TcpConfig,
}

impl TcpTransport {
    /// A transport with the given settings.
    #[must_use]
    pub fn new(config: TcpConfig) -> Self {
        Self { config }
    }
}

#[async_trait]
impl Transport for TcpTransport {
    async fn connect(&self, broker: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError> {
        let config = self.config.clone();
        let max_in_flight = config.max_in_flight.clamp(1, MAX_SLOTS);
        let link = Arc::new(Link::new(broker.clone(), max_in_flight, config.max_in_flight_bytes));
        let drain_timeout = config.drain_timeout;
        tokio::spawn(keep_connected(Arc::clone(&link), config));
        Ok(Arc::new(TcpConnection { link, drain_timeout }))
    }
}

/// A handle to a connection that [`keep_connected`] looks after.
#[derive(Debug)]
struct TcpConnection {
    link: Arc<Link>,
    drain_timeout: Duration,
}

#[async_trait]
impl Connection for TcpConnection {
    fn broker(&self) -> &BrokerAddr {
        &self.link.broker
    }

    fn submit(&self, command: Command, deadline: Instant) -> Result<PendingResponse, Box<Refused>> {
        self.link.submit(command, deadline)
    }

    async fn submit_when_free(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<PendingResponse, Box<Refused>> {
        self.link.submit_when_free(command, deadline).await
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.link.state()
    }

    fn close(&self, deadline: Instant) {
        self.link.request_close(deadline);
    }
}

impl Drop for TcpConnection {
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
async fn keep_connected(link: Arc<Link>, config: TcpConfig) {
    // While a session runs nobody knows how far it came if the task is dropped: all may have been written.
    let mut at_end = CloseAtEnd { link: Arc::clone(&link), first_unwritten: u64::MAX };
    let mut backoff = Backoff::new(config.first_pause, config.longest_pause);
    let heartbeat = Heartbeat { after: config.heartbeat_after, timeout: config.heartbeat_timeout };
    let mut reachable = None;
    loop {
        let dialled = tokio::select! {
            dialled = dial(&link.broker, config.connect_timeout) => dialled,
            () = link.close_requested.notified() => return,
        };
        match dialled {
            Ok(stream) => {
                if !link.set_ready() {
                    return;
                }
                backoff.reset();
                reachable = Some(true);
                tracing::info!(broker = %link.broker, "connected");
                let mut session = Session::new(&link, stream, heartbeat);
                let end = session.run().await;
                let first_unwritten = session.first_unwritten();
                drop(session);
                match end {
                    Ok(()) => {
                        at_end.first_unwritten = first_unwritten;
                        tracing::info!(broker = %link.broker, "disconnected as asked");
                        return;
                    }
                    Err(reason) => {
                        tracing::warn!(broker = %link.broker, %reason, "connection lost");
                        link.fail_all(first_unwritten, TransportErrorKind::Lost, Some(reason));
                    }
                }
            }
            Err(error) => {
                if reachable != Some(false) {
                    tracing::warn!(broker = %link.broker, %error, "broker is unreachable; trying on");
                    reachable = Some(false);
                }
                link.set_connecting(link.error(TransportErrorKind::NotConnected).with_cause(error));
            }
        }
        if link.is_closing() {
            return;
        }
        tokio::select! {
            () = sleep(backoff.next_pause()) => {}
            () = link.close_requested.notified() => return,
        }
    }
}

/// Resolves the broker's name and tries all its addresses, each with an equal share of the time that is left.
async fn dial(broker: &BrokerAddr, limit: Duration) -> io::Result<TcpStream> {
    let too_late = || io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"));
    let deadline = Instant::now() + limit;
    let resolved = timeout_at(deadline, lookup_host((broker.host(), broker.port())));
    let addresses: Vec<_> = resolved.await.map_err(|_| too_late())??.collect();
    let mut error = io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", broker.host()));
    for (n, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / (addresses.len() - n) as u32;
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                socket2::SockRef::from(&stream).set_keepalive(true)?;
                return Ok(stream);
            }
            Ok(Err(refused)) => error = refused,
            Err(_) => error = too_late(),
        }
    }
    Err(error)
}
