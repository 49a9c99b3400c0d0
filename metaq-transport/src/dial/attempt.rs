//! One attempt to connect: dials, and has the broker answer a first request.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use metaq_protocol::BrokerAddr;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{Dialer, handshake::Handshake};
use crate::{
    ConnectionStats, TransportError, TransportErrorKind,
    connection::ConnectionShared,
    error::LossReason,
    panics::{Panicked, catch},
};

type Dial<'a, S> = Pin<Box<dyn Future<Output = io::Result<S>> + Send + 'a>>;

/// The number of bytes that a broker may send beyond the first response before the attempt fails.
const MAX_UNASKED: usize = 64 * 1024;

/// An attempt to connect. It sets no timer: the caller drops it in time.
pub(crate) struct Attempt<'a, S> {
    started: Instant,
    state: AttemptState<'a, S>,
}

enum AttemptState<'a, S> {
    Dialing(Dial<'a, S>),
    Handshake(Box<Handshake<S>>),
    /// The broker has answered, at this time.
    Established(Box<Handshake<S>>, Instant),
    Finished,
}

/// A stream on which a broker has answered.
pub(crate) struct EstablishedStream<S> {
    pub(crate) stream: S,
    /// The bytes that were read behind the first response.
    pub(crate) unread: BytesMut,
    /// The counts of what was written and read.
    pub(crate) counts: ConnectionStats,
}

/// The reason why an attempt failed.
enum AttemptError {
    Dial(io::Error),
    Lost(LossReason),
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Attempt<'a, S> {
    pub(crate) fn new<D: Dialer<Stream = S>>(dialer: &'a D, broker: &'a BrokerAddr) -> Self {
        let dial = Box::pin(async move { dialer.dial(broker).await });
        Self { started: Instant::now(), state: AttemptState::Dialing(dial) }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Returns the time at which the broker answered, if it has.
    pub(crate) fn answered_at(&self) -> Option<Instant> {
        match self.state {
            AttemptState::Established(_, at) => Some(at),
            _ => None,
        }
    }

    /// Drives the attempt; ready when the broker has answered, or when the attempt has failed.
    ///
    /// May be polled on after the broker has answered: then it is ready again when bytes have arrived or the
    /// stream has failed. A panic is a failure.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        shared: &ConnectionShared,
    ) -> Poll<Result<(), TransportError>> {
        let error = match catch(|| self.state.poll(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
            Ok(Poll::Ready(Err(error))) => error,
            Err(panicked) => AttemptError::Lost(LossReason::Panicked(panicked)),
        };
        let error =
            self.finish().map_or(error, |panicked| AttemptError::Lost(LossReason::Panicked(panicked)));
        Poll::Ready(Err(match error {
            AttemptError::Dial(error) => shared.error(TransportErrorKind::NotConnected).with_cause(error),
            AttemptError::Lost(reason) => shared.loss_error(reason),
        }))
    }

    /// Returns the error of an attempt that has taken longer than `limit`.
    pub(crate) fn timeout_error(&self, limit: Duration, shared: &ConnectionShared) -> TransportError {
        match &self.state {
            AttemptState::Handshake(handshake) => {
                let left = limit.saturating_sub(handshake.started.saturating_duration_since(self.started));
                shared.loss_error(LossReason::HandshakeTimeout(left))
            }
            _ => {
                let error =
                    io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"));
                shared.error(TransportErrorKind::NotConnected).with_cause(error)
            }
        }
    }

    /// Returns the stream, if the broker has answered on it.
    pub(crate) fn into_established(mut self) -> Option<EstablishedStream<S>> {
        match std::mem::replace(&mut self.state, AttemptState::Finished) {
            AttemptState::Established(handshake, _) => {
                let Handshake { stream, unread, counts, .. } = *handshake;
                Some(EstablishedStream { stream, unread, counts })
            }
            other => {
                self.state = other;
                None
            }
        }
    }
}

impl<S> Attempt<'_, S> {
    /// Drops the stream. Returns the panic of its destructor, if there was one.
    fn finish(&mut self) -> Option<Panicked> {
        let state = std::mem::replace(&mut self.state, AttemptState::Finished);
        catch(|| drop(state)).err()
    }
}

impl<S> Drop for Attempt<'_, S> {
    fn drop(&mut self) {
        drop(self.finish());
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AttemptState<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        loop {
            match self {
                Self::Dialing(dial) => match ready!(dial.as_mut().poll(cx)) {
                    Ok(stream) => *self = Self::Handshake(Box::new(Handshake::new(stream))),
                    Err(error) => return Poll::Ready(Err(AttemptError::Dial(error))),
                },
                Self::Handshake(handshake) => {
                    if let Err(reason) = ready!(handshake.poll(cx)) {
                        return Poll::Ready(Err(AttemptError::Lost(reason)));
                    }
                    if let Self::Handshake(handshake) = std::mem::replace(self, Self::Finished) {
                        *self = Self::Established(handshake, Instant::now());
                    }
                    return Poll::Ready(Ok(()));
                }
                Self::Established(handshake, _) => {
                    // A broker without a request sends nothing, so that this waits for the end of the stream.
                    return match ready!(handshake.poll_read(cx)) {
                        Ok(()) if handshake.unread.len() > MAX_UNASKED => {
                            let text = "the broker sent more than 64 KiB without a request";
                            let error = io::Error::new(io::ErrorKind::InvalidData, text);
                            Poll::Ready(Err(AttemptError::Lost(LossReason::Read(error))))
                        }
                        Ok(()) => Poll::Ready(Ok(())),
                        Err(reason) => Poll::Ready(Err(AttemptError::Lost(reason))),
                    };
                }
                Self::Finished => return Poll::Pending,
            }
        }
    }
}
