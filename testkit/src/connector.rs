//! Connections to an embedded broker that has no port.

use std::io;

use async_trait::async_trait;
use metaq_protocol::BrokerAddr;
use metaq_transport::Dialer;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    sync::mpsc,
};

/// The number of bytes that each direction of a connection without a port buffers.
const PIPE_CAPACITY: usize = 64 * 1024;

/// Returns the two ends of a connection without a port.
pub(crate) fn pipe() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(PIPE_CAPACITY)
}

/// The stream of a connection.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Connects to a [`Broker`](crate::Broker) without a port; returned by
/// [`Broker::connector`](crate::Broker::connector).
#[derive(Clone, Debug)]
pub struct BrokerConnector {
    streams: mpsc::UnboundedSender<Box<dyn ByteStream>>,
}

impl BrokerConnector {
    pub(crate) fn new(streams: mpsc::UnboundedSender<Box<dyn ByteStream>>) -> Self {
        Self { streams }
    }

    /// Returns the client's end of a new connection.
    ///
    /// # Errors
    /// `ConnectionRefused` when the broker has ended.
    pub fn connect(&self) -> io::Result<DuplexStream> {
        let (client, server) = pipe();
        match self.streams.send(Box::new(server)) {
            Ok(()) => Ok(client),
            Err(_) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the embedded broker has ended")),
        }
    }
}

/// Connects to its broker, whatever the address.
#[async_trait]
impl Dialer for BrokerConnector {
    type Stream = DuplexStream;

    async fn dial(&self, _: &BrokerAddr) -> io::Result<DuplexStream> {
        self.connect()
    }
}
