//! Connections without ports that end or go wrong at a byte.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use metaq_producer::BrokerAddr;
use metaq_testkit::EmbeddedRegistry;
use metaq_transport::Dialer;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// The fault that the open connection suffers, once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spoiling {
    /// The bytes that still reach the broker.
    pub(crate) to_broker: Option<u64>,
    /// The bytes that still reach the client.
    pub(crate) to_client: Option<u64>,
    /// The replacement of the byte after those, if the connection doesn't end there.
    pub(crate) instead: Option<Vec<u8>>,
    pub(crate) end: End,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// As by FIN.
    #[default]
    Closed,
    /// As by RST.
    Reset,
}

#[derive(Clone, Debug)]
pub(crate) struct Spoiler {
    pub(crate) registry: EmbeddedRegistry,
    pub(crate) next: Arc<Mutex<Spoiling>>,
}

#[async_trait]
impl Dialer for Spoiler {
    type Stream = Spoiled;

    async fn dial(&self, broker: &BrokerAddr) -> io::Result<Spoiled> {
        let stream = self.registry.connect(broker)?;
        Ok(Spoiled { stream, spoiling: Arc::clone(&self.next), ended: None })
    }
}

/// The client's end of a connection without a port, which the test spoils.
pub(crate) struct Spoiled {
    stream: DuplexStream,
    spoiling: Arc<Mutex<Spoiling>>,
    ended: Option<End>,
}

impl Spoiled {
    /// Ends the fault: the next connection is healthy.
    fn happened(&self) {
        *self.spoiling.lock() = Spoiling::default();
    }
}

impl AsyncRead for Spoiled {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Spoiling { to_client, instead, end, .. } = this.spoiling.lock().clone();
        if to_client == Some(0) && this.ended.is_none() {
            if let Some(instead) = instead {
                let mut replaced = [0; 1];
                ready!(Pin::new(&mut this.stream).poll_read(cx, &mut ReadBuf::new(&mut replaced)))?;
                buf.put_slice(&instead);
                this.happened();
                // Nothing would be the end of the stream.
                return if instead.is_empty() {
                    Pin::new(this).poll_read(cx, buf)
                } else {
                    Poll::Ready(Ok(()))
                };
            }
            this.ended = Some(end);
            this.happened();
        }
        match this.ended {
            Some(End::Closed) => return Poll::Ready(Ok(())),
            Some(End::Reset) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None => {}
        }
        let most = to_client.map_or(usize::MAX, |left| left as usize).min(buf.remaining());
        let mut bytes = vec![0; most];
        let mut part = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
        buf.put_slice(part.filled());
        let read = part.filled().len();
        if let Some(left) = &mut this.spoiling.lock().to_client {
            *left -= read as u64;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Spoiled {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Spoiling { to_broker, end, .. } = this.spoiling.lock().clone();
        if to_broker == Some(0) && this.ended.is_none() {
            this.ended = Some(end);
            this.happened();
            // It reads as well, and hears of a FIN so.
            cx.waker().wake_by_ref();
        }
        match this.ended {
            Some(End::Closed) => return Poll::Pending,
            Some(End::Reset) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            None => {}
        }
        let most = to_broker.map_or(usize::MAX, |left| left as usize).min(bytes.len());
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, &bytes[..most]))?;
        if let Some(left) = &mut this.spoiling.lock().to_broker {
            *left -= written as u64;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
