//! The trait for what makes streams to brokers.

use std::{fmt, io};

use async_trait::async_trait;
use metaq_protocol::BrokerAddr;
use tokio::io::{AsyncRead, AsyncWrite};

/// Makes streams to brokers.
#[async_trait]
pub trait Dialer: fmt::Debug + Send + Sync + 'static {
    /// The type of the streams.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send;

    /// Opens a stream to `broker`, on which the broker's protocol can be spoken at once.
    ///
    /// The future is dropped when it takes longer than
    /// [`ConnectionConfig::connect_timeout`](crate::ConnectionConfig::connect_timeout). When it fails, the
    /// method is called again after a backoff.
    ///
    /// # Errors
    /// When the broker can't be reached now.
    async fn dial(&self, broker: &BrokerAddr) -> io::Result<Self::Stream>;

    /// Prepares a stream that is given up as lost for being dropped, which follows at once.
    ///
    /// Implementations should discard what the stream has accepted and not yet delivered: the broker might
    /// store it after what is sent on the next stream. Must not block. The default implementation does
    /// nothing.
    fn abort(&self, stream: &Self::Stream) {
        let _ = stream;
    }
}
