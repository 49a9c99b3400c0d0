//! One attempt to connect: dials, and has the broker answer a first request.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use metaq_protocol::{BrokerAddr, Command, Decoder, Opaque, VersionCommand};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    time::Instant,
};

use crate::{
    ConnectionStats, Dialer, TransportError, TransportErrorKind,
    contain::{Panicked, contain},
    error::LossReason,
    shared::ConnectionShared,
};

type Dial<'a, S> = Pin<Box<dyn Future<Output = io::Result<S>> + Send + 'a>>;

/// The bytes of the answer that are read at a time.
const READ: usize = 1024;

/// The most bytes that a broker may send that was asked for nothing but the first answer.
const MAX_UNASKED: usize = 64 * READ;

/// The opaque of the first request. A copy of its answer that comes later must meet no other request: this is the key of the
/// slot that is taken last, after it was used 65,535 times.
const OPAQUE: Opaque = Opaque(-1);

/// An attempt to connect. It sets no timer: whoever polls it gives it up in time.
pub(crate) struct Attempt<'a, S> {
    started: Instant,
    step: Step<'a, S>,
}

enum Step<'a, S> {
    Dialling(Dial<'a, S>),
    Greeting(Box<Greeting<S>>),
    /// The broker has answered.
    Proven(Box<Greeting<S>>, Instant),
    Over,
}

struct Greeting<S> {
    stream: S,
    begun: Instant,
    /// The rest of the first request.
    request: BytesMut,
    flushed: bool,
    unread: BytesMut,
    decoder: Decoder,
    counts: ConnectionStats,
}

/// A stream on which a broker has answered.
pub(crate) struct Proven<S> {
    pub(crate) stream: S,
    /// The bytes that were read behind the answer.
    pub(crate) unread: BytesMut,
    /// The counts of what was written and read.
    pub(crate) counts: ConnectionStats,
}

/// The reason why an attempt failed.
enum Failure {
    Dial(io::Error),
    Lost(LossReason),
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Attempt<'a, S> {
    pub(crate) fn new<D: Dialer<Stream = S>>(dialer: &'a D, broker: &'a BrokerAddr) -> Self {
        let dial = Box::pin(async move { dialer.dial(broker).await });
        Self { started: Instant::now(), step: Step::Dialling(dial) }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The time at which the broker answered, if it has.
    pub(crate) fn proven_at(&self) -> Option<Instant> {
        match self.step {
            Step::Proven(_, at) => Some(at),
            _ => None,
        }
    }

    /// Ready when the broker has answered, or when the attempt has failed, also after the answer. Panics are failures.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        shared: &ConnectionShared,
    ) -> Poll<Result<(), TransportError>> {
        let failure = match contain(|| self.step.poll(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
            Ok(Poll::Ready(Err(failure))) => failure,
            Err(panicked) => Failure::Lost(LossReason::Panicked(panicked)),
        };
        let failure = self.end().map_or(failure, |panicked| Failure::Lost(LossReason::Panicked(panicked)));
        Poll::Ready(Err(match failure {
            Failure::Dial(error) => shared.error(TransportErrorKind::NotConnected).with_cause(error),
            Failure::Lost(reason) => shared.loss_error(reason),
        }))
    }

    /// The error of an attempt that has taken longer than `limit`.
    pub(crate) fn too_late(&self, limit: Duration, shared: &ConnectionShared) -> TransportError {
        match &self.step {
            Step::Greeting(greeting) => {
                let left = limit.saturating_sub(greeting.begun.saturating_duration_since(self.started));
                shared.loss_error(LossReason::NoGreeting(left))
            }
            _ => {
                let error =
                    io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"));
                shared.error(TransportErrorKind::NotConnected).with_cause(error)
            }
        }
    }

    /// The stream, if the broker has answered on it.
    pub(crate) fn into_proven(mut self) -> Option<Proven<S>> {
        match std::mem::replace(&mut self.step, Step::Over) {
            Step::Proven(greeting, _) => {
                let Greeting { stream, unread, counts, .. } = *greeting;
                Some(Proven { stream, unread, counts })
            }
            other => {
                self.step = other;
                None
            }
        }
    }
}

impl<S> Attempt<'_, S> {
    /// Drops the stream; returns what its destructor's panic said.
    fn end(&mut self) -> Option<Panicked> {
        let step = std::mem::replace(&mut self.step, Step::Over);
        contain(|| drop(step)).err()
    }
}

impl<S> Drop for Attempt<'_, S> {
    fn drop(&mut self) {
        drop(self.end());
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Step<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            match self {
                Self::Dialling(dial) => match ready!(dial.as_mut().poll(cx)) {
                    Ok(stream) => *self = Self::Greeting(Box::new(Greeting::new(stream))),
                    Err(error) => return Poll::Ready(Err(Failure::Dial(error))),
                },
                Self::Greeting(greeting) => {
                    if let Err(reason) = ready!(greeting.poll(cx)) {
                        return Poll::Ready(Err(Failure::Lost(reason)));
                    }
                    if let Self::Greeting(greeting) = std::mem::replace(self, Self::Over) {
                        *self = Self::Proven(greeting, Instant::now());
                    }
                    return Poll::Ready(Ok(()));
                }
                Self::Proven(greeting, _) => {
                    // A broker that isn't asked anything says nothing, so that it is its end that is waited for here.
                    return match ready!(greeting.poll_read(cx)) {
                        Ok(()) if greeting.unread.len() > MAX_UNASKED => {
                            let text = "the broker sent much that nobody had asked for";
                            let error = io::Error::new(io::ErrorKind::InvalidData, text);
                            Poll::Ready(Err(Failure::Lost(LossReason::Read(error))))
                        }
                        Ok(()) => Poll::Ready(Ok(())),
                        Err(reason) => Poll::Ready(Err(Failure::Lost(reason))),
                    };
                }
                Self::Over => return Poll::Pending,
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Greeting<S> {
    fn new(stream: S) -> Self {
        let mut request = BytesMut::new();
        Command::from(VersionCommand::new(OPAQUE)).encode(&mut request);
        Self {
            stream,
            begun: Instant::now(),
            request,
            flushed: false,
            unread: BytesMut::new(),
            decoder: Decoder::new(),
            counts: ConnectionStats::default(),
        }
    }

    /// Ready when the broker has answered.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LossReason>> {
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

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LossReason>> {
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
