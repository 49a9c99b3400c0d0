//! Being told of the ends of many requests, instead of awaiting each.

use std::{fmt, sync::Arc};

use crate::{ReceivedResponse, Reservation, TransportError};

/// Is told how requests ended, many at a time: what a producer needs that has thousands of messages in flight, whoever awaits
/// them.
pub trait Completions: fmt::Debug + Send + Sync {
    /// Reports the outcome of each request exactly once. Implementations must drain `ended`.
    ///
    /// It is called on the connection's task, which does nothing else meanwhile, or by whoever calls
    /// [`expire`](crate::Connection::expire); never from within [`submit_put`](crate::Connection::submit_put) or
    /// [`submit_reserved_put`](crate::Connection::submit_reserved_put), so it may wait for a lock that is held around those. If
    /// it panics, the outcomes that it was given are not reported again, and the connection is lost.
    fn completed(&self, completed: &mut Vec<(u64, Result<ReceivedResponse, TransportError>)>);

    /// Reports that the capacity that [`reserve`](crate::Connection::reserve) was asked for with this token is there, or that it
    /// never will be, because the connection left the state in which it accepts requests: the error is the one that a
    /// [`submit`](crate::Connection::submit) would have met. Called once for each [`Waiting`](crate::Capacity::Waiting) that was
    /// not dropped before, without any lock, on any thread, maybe before `reserve` has returned.
    ///
    /// Whoever releases capacity calls it: the connection's task, `expire`, [`close`](crate::Connection::close), or the drop of
    /// a [`Reservation`], a [`CapacityWait`](crate::CapacityWait) or a [`PendingResponse`](crate::PendingResponse). So a lock
    /// that it takes must not be held around those. It is never called from within `submit`, `submit_put`,
    /// `submit_reserved_put` or `reserve`.
    fn capacity(&self, token: u64, granted: Result<Reservation, TransportError>) {
        drop((token, granted));
    }

    /// Reports that the broker is done with these requests: they ended as
    /// [`TimedOut`](crate::TransportErrorKind::TimedOut) after they were written, and now their answers came or the connection
    /// is gone. Called once for each such request, after [`ended`](Self::ended), from where that is called. Implementations must
    /// drain `tokens`.
    fn released(&self, tokens: &mut Vec<u64>) {
        tokens.clear();
    }
}

/// The listener for the end of a request, and the token by which it knows the request.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a pair with names")]
pub struct CompletionToken<'a> {
    /// The listener.
    pub completions: &'a Arc<dyn Completions>,
    /// The token by which the listener knows the request.
    pub token: u64,
}
