//! The future of a response.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use metaq_protocol::BrokerAddr;
use tokio::sync::oneshot;

use super::{ConnectionShared, SlotKey};
use crate::{Progress, ReceivedResponse, TransportError, TransportErrorKind, response::ResponseResult};

/// A future that completes with the response to a request, or with the reason why there is none.
///
/// # Cancel safety
/// Dropping it doesn't cancel the request: it is still written, and its response is dropped.
#[must_use = "the outcome of the request is lost without it"]
pub struct PendingResponse {
    source: ResponseSource,
}

enum ResponseSource {
    Slot { shared: Arc<ConnectionShared>, key: SlotKey },
    Channel(Box<Channel>),
    Taken,
}

struct Channel {
    receiver: oneshot::Receiver<ResponseResult>,
    broker: BrokerAddr,
}

impl PendingResponse {
    pub(crate) fn of_slot(shared: Arc<ConnectionShared>, key: SlotKey) -> Self {
        Self { source: ResponseSource::Slot { shared, key } }
    }

    /// Creates a pending response and the responder that completes it, for implementations of
    /// [`Connection`](crate::Connection).
    ///
    /// When the responder is dropped, the request to `broker` fails as lost after it was written.
    pub fn channel(broker: BrokerAddr) -> (Responder, Self) {
        let (sender, receiver) = oneshot::channel();
        (
            Responder { sender },
            Self { source: ResponseSource::Channel(Box::new(Channel { receiver, broker })) },
        )
    }
}

impl Future for PendingResponse {
    type Output = Result<ReceivedResponse, TransportError>;

    /// # Panics
    /// When polled again after it has completed.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match &mut self.source {
            ResponseSource::Slot { shared, key } => ready!(shared.poll_outcome(*key, cx.waker())),
            ResponseSource::Channel(channel) => match ready!(Pin::new(&mut channel.receiver).poll(cx)) {
                Ok(outcome) => outcome,
                Err(_) => Err(TransportError::new(TransportErrorKind::Lost, channel.broker.clone())
                    .with_progress(Progress::Written)),
            },
            ResponseSource::Taken => panic!("polled after it was done"),
        };
        self.source = ResponseSource::Taken;
        Poll::Ready(outcome)
    }
}

impl Drop for PendingResponse {
    fn drop(&mut self) {
        if let ResponseSource::Slot { shared, key } = &self.source {
            shared.abandon(*key);
        }
    }
}

impl fmt::Debug for PendingResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingResponse").finish_non_exhaustive()
    }
}

/// Completes a [`PendingResponse`] that was made by [`PendingResponse::channel`].
#[derive(Debug)]
pub struct Responder {
    sender: oneshot::Sender<ResponseResult>,
}

impl Responder {
    /// Completes the pending response with `outcome`. Returns false if it was dropped.
    pub fn respond(self, outcome: Result<ReceivedResponse, TransportError>) -> bool {
        self.sender.send(outcome).is_ok()
    }
}
