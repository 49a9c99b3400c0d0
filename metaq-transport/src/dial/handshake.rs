//! The first request on a new stream, by whose response a broker proves to be one and to be alive.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use metaq_protocol::{Command, Decoder, Opaque, VersionCommand};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    time::Instant,
};

use crate::{ConnectionStats, error::LossReason};

/// The number of bytes of the response that are read at a time.
const READ: usize = 1024;

/// The opaque of the first request.
///
/// A copy of its response that comes later must not reach another request: this is the key of the slot that
/// is taken last, after it was used 65,535 times.
const OPAQUE: Opaque = Opaque(-1);

/// A stream on which the first request is being written, or its response read.
pub(super) struct Handshake<S> {
    pub(super) stream: S,
    /// The time at which the stream was there.
    pub(super) started: Instant,
    /// The part of the first request that is not written yet.
    request: BytesMut,
    flushed: bool,
    /// The bytes that were read and not decoded.
    pub(super) unread: BytesMut,
    decoder: Decoder,
    /// The counts of what was written and read.
    pub(super) counts: ConnectionStats,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Handshake<S> {
    pub(super) fn new(stream: S) -> Self {
        let mut request = BytesMut::new();
        Command::from(VersionCommand::new(OPAQUE)).encode(&mut request);
        Self {
            stream,
            started: Instant::now(),
            request,
            flushed: false,
            unread: BytesMut::new(),
            decoder: Decoder::new(),
            counts: ConnectionStats::default(),
        }
    }

    /// Writes the request and reads the response; ready when the broker has answered.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LossReason>> {
        while !self.request.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.request)) {
                Ok(0) => return Poll::Ready(Err(LossReason::Write(io::ErrorKind::WriteZero.into()))),
                Ok(written) => {
                    self.counts.writes += 1;
                    self.counts.bytes_written += written as u64;
                    self.request.advance(written);
                }
                Err(error) => return Poll::Ready(Err(LossReason::Write(error))),
            }
        }
        if !self.flushed {
            match ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
                Ok(()) => self.flushed = true,
                Err(error) => return Poll::Ready(Err(LossReason::Write(error))),
            }
        }
        loop {
            let used = match self.decoder.decode_response_in_place(&self.unread) {
                Ok(Some((_, used))) => used,
                Ok(None) => {
                    if let Err(reason) = ready!(self.poll_read(cx)) {
                        return Poll::Ready(Err(reason));
                    }
                    continue;
                }
                Err(error) => return Poll::Ready(Err(LossReason::Garbage(error))),
            };
            self.unread.advance(used);
            return Poll::Ready(Ok(()));
        }
    }

    /// Reads once into `unread`.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LossReason>> {
        self.unread.reserve(READ);
        Poll::Ready(match ready!(pin!(self.stream.read_buf(&mut self.unread)).poll(cx)) {
            Ok(0) => Err(LossReason::ClosedByBroker),
            Ok(read) => {
                self.counts.reads += 1;
                self.counts.bytes_read += read as u64;
                Ok(())
            }
            Err(error) => Err(LossReason::Read(error)),
        })
    }
}
