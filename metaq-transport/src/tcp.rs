//! The TCP transport.

use std::{io, sync::Arc};

use async_trait::async_trait;
use metaq_protocol::BrokerAddr;
use tokio::net::{TcpStream, lookup_host};

use crate::{
    Connection, ConnectionConfig, Dialer, StreamTransport, Transport, TransportError, race::first_to_connect,
};

/// Connects to brokers by TCP.
///
/// Names are resolved anew at every attempt, and all addresses of a name are tried. Each connection has one task, which runs
/// on the tokio runtime that [`connect`](Transport::connect) was called on.
#[derive(Clone, Debug)]
pub struct TcpTransport {
    streams: StreamTransport<TcpDialer>,
}

impl TcpTransport {
    /// A transport with the given settings.
    #[must_use]
    pub fn new(config: ConnectionConfig) -> Self {
        Self { streams: StreamTransport::new(TcpDialer, config) }
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

#[derive(Debug)]
pub(crate) struct TcpDialer;

#[async_trait]
impl Dialer for TcpDialer {
    type Stream = TcpStream;

    async fn dial(&self, broker: &BrokerAddr) -> io::Result<TcpStream> {
        let addresses: Vec<_> = lookup_host((broker.host(), broker.port())).await?.collect();
        if addresses.is_empty() {
            let text = format!("{} has no address", broker.host());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        let stream = first_to_connect(&addresses).await?;
        stream.set_nodelay(true)?;
        socket2::SockRef::from(&stream).set_keepalive(true)?;
        Ok(stream)
    }
}
