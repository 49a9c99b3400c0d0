//! One slot: the caller's and the broker's side of one request.

use std::task::Waker;

use tokio::time::Instant;

use super::{CompactResponse, Completion, Notify, Released};
use crate::{TransportError, response::ResponseResult};

/// The caller's side of a request.
#[derive(Debug)]
pub(crate) enum Caller {
    /// The outcome was taken, or the caller's future was dropped.
    Gone,
    /// A future awaits the outcome. The waker is there once it was polled.
    Future(Option<Waker>),
    /// The outcome is to be reported to the connection's n-th listener, with this token.
    Listener { listener: u8, token: u64 },
    /// A thread is about to report the timeout to the listener.
    TimingOut { listener: u8, token: u64 },
    /// The timeout was reported to the listener, which is to be notified when the broker is done with the
    /// request.
    TimedOut { listener: u8, token: u64 },
    /// The response waits for the caller's future.
    Responded(CompactResponse),
    /// The error waits for the caller's future.
    Failed(TransportError),
}

/// The broker's side of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// No response is to come.
    Nothing,
    /// The response is outstanding.
    Response,
    /// The request was written and timed out. The slot stays taken until the response comes or the connection
    /// ends, so that a late response can't reach another request.
    LateResponse,
}

/// The state of one request. A slot is free when the caller is gone and no response is expected.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) caller: Caller,
    /// The deadline of the response; once it is there, the time at which it was received.
    pub(super) time: Instant,
    /// The number of the request's frame on its connection.
    pub(super) frame: u64,
    /// The bytes that the request counts for in the limit.
    pub(super) bytes: u32,
    pub(super) generation: u16,
    pub(super) expected: Expected,
    pub(super) is_put: bool,
}

/// A request that needs a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotRequest {
    pub(crate) deadline: Instant,
    /// The number of its frame on its connection.
    pub(crate) frame: u64,
    /// The bytes that it counts for in the limit.
    pub(crate) bytes: u32,
    /// Set if the response may say where a message was stored.
    pub(crate) is_put: bool,
    /// The listener for the outcome and its token; none when a future awaits it.
    pub(crate) listener: Option<(u8, u64)>,
}

impl Slot {
    /// Ends the wait for a late response. Returns the listener's part, if a listener waits for it.
    pub(super) fn release(&mut self) -> Option<Released> {
        let Caller::TimedOut { listener, token } = self.caller else { return None };
        self.caller = Caller::Gone;
        Some(Released { listener, token })
    }

    /// Hands the outcome to the caller, if there still is one.
    ///
    /// For a future, the slot keeps what `keep` makes of it. For a listener, `report` makes of it what
    /// `on_completed` gets.
    #[inline(always)]
    pub(super) fn finish<T>(
        &mut self,
        outcome: T,
        keep: impl FnOnce(T) -> Caller,
        report: impl FnOnce(T) -> ResponseResult,
        on_completed: impl FnOnce(Completion),
    ) {
        let bytes = self.bytes;
        match &mut self.caller {
            Caller::Listener { listener, token } => {
                let (listener, token) = (*listener, *token);
                self.caller = Caller::Gone;
                on_completed(Completion {
                    bytes,
                    notify: Notify::Listener { listener, token, outcome: report(outcome) },
                });
            }
            Caller::Future(waker) => {
                let notify = waker.take().map_or(Notify::None, Notify::Waker);
                self.caller = keep(outcome);
                on_completed(Completion { bytes, notify });
            }
            _ => on_completed(Completion { bytes, notify: Notify::None }),
        }
    }
}
