//! The future of a message's outcome.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{SendError, SendReceipt, send::unacknowledged::Unacknowledged, token::Token};

/// Ends with the outcome of a message that was accepted: stored at a place, or not, and then whether it may
/// be stored.
///
/// The message belongs to the producer: it is sent, sent again if need be, and counted, whether the handle is
/// polled or not.
///
/// It keeps no time of its own: a message that is in flight on a connection whose runtime isn't driven any
/// more ends when that runtime runs again, when something is sent on another one, or with
/// [`flush`](crate::Producer::flush) or [`close`](crate::Producer::close).
///
/// # Cancel safety
/// Dropping the handle loses the outcome, nothing else.
#[must_use = "the outcome of the message is lost without it"]
pub struct SendHandle {
    unacknowledged: Arc<Unacknowledged>,
    /// The message's token, and in the highest bits what becomes of the message if the handle is dropped: two
    /// words go from hand to hand in registers.
    word: u64,
}

/// Dropping the handle takes the message back, if it was not handed to a connection yet. Else the message
/// goes on.
const CANCELS: u64 = 1 << 63;
/// The outcome was taken.
const DONE: u64 = 1 << 62;
/// It was polled.
const POLLED: u64 = 1 << 61;

impl SendHandle {
    #[inline]
    pub(crate) fn new(unacknowledged: Arc<Unacknowledged>, token: Token) -> Self {
        Self { unacknowledged, word: token.into() }
    }

    /// The same handle, but dropping it takes the message back if it was not handed to a connection yet.
    pub(crate) fn that_cancels(self) -> Self {
        let mut this = self;
        this.word |= CANCELS;
        this
    }

    /// Has the failure handler get the message if it fails.
    pub(crate) fn give_to_failure_handler(mut self) {
        self.word |= DONE;
        self.unacknowledged.give_to_failure_handler(self.token());
    }

    #[inline]
    fn token(&self) -> Token {
        Token::from(self.word & !(CANCELS | DONE | POLLED))
    }

    #[inline]
    fn is_done(&self) -> bool {
        self.word & DONE != 0
    }
}

impl Future for SendHandle {
    type Output = Result<SendReceipt, SendError>;

    /// # Panics
    /// When polled again after it was done.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.is_done(), "polled after it was done");
        // A message that was just sent usually has no outcome yet.
        let is_likely_pending = self.word & (CANCELS | POLLED) == CANCELS;
        let outcome = self.unacknowledged.poll(self.token(), cx, is_likely_pending);
        self.word |= if outcome.is_ready() { DONE } else { POLLED };
        outcome
    }
}

impl Drop for SendHandle {
    fn drop(&mut self) {
        match self.word & (CANCELS | DONE) {
            0 => self.unacknowledged.unwatch(self.token()),
            CANCELS => self.unacknowledged.cancel(self.token()),
            _ => {}
        }
    }
}

impl fmt::Debug for SendHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendHandle").field("done", &self.is_done()).finish_non_exhaustive()
    }
}
