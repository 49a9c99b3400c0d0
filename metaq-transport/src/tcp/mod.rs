//! TCP: the usual way to reach brokers.
//!
//! [`TcpTransport`] is a [`StreamTransport`] whose dialer resolves the broker's name (`resolver`) and
//! connects to the first of its addresses that answers (`happy_eyeballs`). What is particular to TCP sockets
//! belongs here; `tls` dials through this module. Attempts, timeouts and backoff belong to `dial`.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use metaq_protocol::BrokerAddr;
use tokio::net::TcpStream;

mod happy_eyeballs;
mod resolver;

use happy_eyeballs::first_to_connect;
use resolver::Resolver;

use crate::{Connection, ConnectionConfig, Dialer, StreamTransport, Transport, TransportError};

/// Connects to brokers by TCP.
///
/// Every attempt resolves the broker's name anew, one lookup for each broker at a time, on a thread of its
/// own, and tries all addresses of the name. Each connection has one task, which runs on the tokio runtime
/// that [`connect`](Transport::connect) was called on.
#[derive(Clone, Debug)]
pub struct TcpTransport {
    streams: StreamTransport<TcpDialer>,
}

impl TcpTransport {
    /// Creates a transport with the given settings.
    #[must_use]
    pub fn new(config: ConnectionConfig) -> Self {
        Self { streams: StreamTransport::new(TcpDialer::default(), config) }
    }
}

impl Default for TcpTransport {
    fn default() -> Self {
        Self::new(ConnectionConfig::default())
    }
}

#[async_trait]
impl Transport for TcpTransport {
    async fn connect(&self, broker: &BrokerAddr) -> Result<Arc<dyn Connection>, TransportError> {
        self.streams.connect(broker).await
    }
}

#[derive(Debug, Default)]
pub(crate) struct TcpDialer {
    resolver: Resolver,
}

#[async_trait]
impl Dialer for TcpDialer {
    type Stream = TcpStream;

    async fn dial(&self, broker: &BrokerAddr) -> io::Result<TcpStream> {
        let addresses = self.resolver.resolve(broker.host(), broker.port()).await?;
        let stream = first_to_connect(&addresses).await?;
        stream.set_nodelay(true)?;
        socket2::SockRef::from(&stream).set_keepalive(true)?;
        Ok(stream)
    }

    /// Makes the system discard what it has not sent; otherwise it would go on sending for minutes.
    fn abort(&self, stream: &TcpStream) {
        // A socket that has failed already has nothing left to send.
        let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
}
