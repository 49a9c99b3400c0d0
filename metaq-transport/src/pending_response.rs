//! The future of an answer.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use metaq_protocol::BrokerAddr;
use tokio::sync::oneshot;

use crate::{
    Progress, ReceivedResponse, TransportError, TransportErrorKind, response::ResponseResult,
    shared::ConnectionShared, slots::SlotKey,
};

/// Ends with the answer to a request, or with the reason why there is none.
///
/// # Cancel safety
/// Dropping it leaves the request as it is: what was queued is still written, and its answer is dropped.
#[must_use = "the outcome of the request is lost without it"]
pub struct PendingResponse {
    source: Source,
}

enum Source {
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
        Self { source: Source::Slot { shared, key } }
    }

    /// A pending response for a [`Connection`](crate::Connection) of one's own, and the other end, which answers it.
    /// When the other end is dropped, the request to `broker` fails as lost after it was written.
    pub fn channel(broker: BrokerAddr) -> (Responder, Self) {
        let (sender, receiver) = oneshot::channel();
        (Responder { sender }, Self { source: Source::Channel(Box::new(Channel { receiver, broker })) })
    }
}

impl Future for PendingResponse {
    type Output = Result<ReceivedResponse, TransportError>;

    /// # Panics
    /// When polled again after it was done.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match &mut self.source {
            Source::Slot { shared, key } => ready!(shared.poll_outcome(*key, cx.waker())),
            Source::Channel(channel) => match ready!(Pin::new(&mut channel.receiver).poll(cx)) {
                Ok(outcome) => outcome,
                Err(_) => Err(TransportError::new(TransportErrorKind::Lost, channel.broker.clone())
                    .with_progress(Progress::Written)),
            },
            Source::Taken => panic!("polled after it was done"),
        };
        self.source = Source::Taken;
        Poll::Ready(outcome)
    }
}

impl Drop for PendingResponse {
    fn drop(&mut self) {
        if let Source::Slot { shared, key } = &self.source {
            shared.abandon(*key);
        }
    }
}

impl fmt::Debug for PendingResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingResponse").finish_non_exhaustive()
    }
}

/// Answers a [`PendingResponse`] that was made by [`PendingResponse::channel`].
#[derive(Debug)]
pub struct Responder {
    sender: oneshot::Sender<ResponseResult>,
}

impl Responder {
    /// Ends the pending response with `outcome`. False when nobody waits for it any more.
    pub fn respond(self, outcome: Result<ReceivedResponse, TransportError>) -> bool {
        self.sender.send(outcome).is_ok()
    }
}
