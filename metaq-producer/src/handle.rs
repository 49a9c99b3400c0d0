//! The future of a message's outcome.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{SendError, SendReceipt, flights::Flights, slab::Token};

/// Ends with the outcome of a message that was accepted: stored at a place, or not, and then whether it may be stored.
///
/// The message belongs to the producer: it is sent, sent again if need be, and counted, whether the handle is polled or
/// not.
///
/// # Cancel safety
/// Dropping the handle loses the outcome, nothing else.
#[must_use = "the outcome of the message is lost without it"]
pub struct SendHandle {
    flights: Arc<Flights>,
    token: Option<Token>,
    cancels: bool,
}

impl SendHandle {
    pub(crate) fn new(flights: Arc<Flights>, token: Token) -> Self {
        Self { flights, token: Some(token), cancels: false }
    }

    /// The same handle, but dropping it takes the message back if it was not handed to a connection yet.
    pub(crate) fn that_cancels(self) -> Self {
        let mut this = self;
        this.cancels = true;
        this
    }
}

impl Future for SendHandle {
    type Output = Result<SendReceipt, SendError>;

    /// # Panics
    /// When polled again after it was done.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let token = self.token.expect("polled after it was done");
        let outcome = self.flights.poll(token, cx);
        if outcome.is_ready() {
            self.token = None;
        }
        outcome
    }
}

impl Drop for SendHandle {
    fn drop(&mut self) {
        match self.token {
            Some(token) if self.cancels => self.flights.cancel(token),
            Some(token) => self.flights.unwatch(token),
            None => {}
        }
    }
}

impl fmt::Debug for SendHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendHandle").field("done", &self.token.is_none()).finish_non_exhaustive()
    }
}
