//! The results of operations on [`Slots`](super::Slots), which its caller passes on.

use std::task::Waker;

use super::SlotKey;
use crate::{Progress, response::ResponseResult};

/// A request that completed: the capacity that it frees, and the notification that is due.
#[derive(Debug)]
pub(crate) struct Completion {
    /// The bytes that the request counted for in the limit; zero for a heartbeat.
    pub(crate) bytes: u32,
    pub(crate) notify: Notify,
}

/// The notification of a completed request.
#[derive(Debug)]
pub(crate) enum Notify {
    /// None is due: the caller is gone, or has not polled yet.
    None,
    /// The caller's future is to be woken.
    Waker(Waker),
    /// The outcome is to be reported to the connection's n-th listener.
    Listener { listener: u8, token: u64, outcome: ResponseResult },
}

/// A request that had timed out, and that the broker is done with now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Released {
    pub(crate) listener: u8,
    pub(crate) token: u64,
}

/// A request whose deadline has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expired {
    pub(crate) key: SlotKey,
    /// The number of its frame on its connection.
    pub(crate) frame: u64,
    pub(crate) progress: Progress,
}

/// The result of delivering a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// A request completed.
    Answered,
    /// A heartbeat was answered.
    Heartbeat,
    /// The request had been given up already. The listener, if there is one, is to be notified of its
    /// release.
    Late(Option<Released>),
    /// No request with this opaque is outstanding.
    Unknown,
}
