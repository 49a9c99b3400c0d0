//! The TCP transport.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use metaq_protocol::BrokerAddr;
use tokio::net::TcpStream;

use crate::{
    Connection, ConnectionConfig, Dialer, StreamTransport, Transport, TransportError, lookup::Lookups,
    race::first_to_connect,
};

/// Connects to brokers by TCP.
///
/// Names are resolved anew at every attempt, one lookup for each broker at a time, on a thread of its own; all addresses of a
/// name are tried. Each connection has one task, which runs
/// on the tokio runtime that [`connect`](Transport::connect) was called on.
#[derive(Clone, Debug)]
pub struct TcpTransport {
    streams: StreamTransport<TcpDialer>,
}

impl TcpTransport {
    /// A transport with the given settings.
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
    lookups: Lookups,
}

#[async_trait]
impl Dialer for TcpDialer {
    type Stream = TcpStream;

    async fn dial(&self, broker: &BrokerAddr) -> io::Result<TcpStream> {
        let addresses = self.lookups.find(broker.host(), broker.port()).await?;
        let stream = first_to_connect(&addresses).await?;
        stream.set_nodelay(true)?;
        socket2::SockRef::from(&stream).set_keepalive(true)?;
        Ok(stream)
    }

    /// Has the system discard what it has not sent, which it would go on sending for minutes otherwise.
    fn abort(&self, stream: &TcpStream) {
        // One that has failed already has nothing left to send.
        let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
}
