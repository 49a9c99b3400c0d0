//! Reports of many outcomes at a time, in place of a future for each request.

use std::{fmt, sync::Arc};

use crate::{ReceivedResponse, Reservation, TransportError};

/// A listener that gets the outcomes of requests, many at a time.
///
/// It serves a producer that has thousands of messages in flight.
pub trait Completions: fmt::Debug + Send + Sync {
    /// Reports the outcome of each request exactly once. Implementations must drain `completed`.
    ///
    /// It is called on the connection's task, which is blocked meanwhile, or from within
    /// [`expire`](crate::Connection::expire). It is never called from within
    /// [`submit_put`](crate::Connection::submit_put) or
    /// [`submit_reserved_put`](crate::Connection::submit_reserved_put), so that it may take a lock that is
    /// held around those. If it panics, the outcomes that it was given are not reported again, and the
    /// connection is lost.
    fn completed(&self, completed: &mut Vec<(u64, Result<ReceivedResponse, TransportError>)>);

    /// Reports that the capacity for which [`reserve`](crate::Connection::reserve) made the caller wait is
    /// reserved.
    ///
    /// The error is that of a [`submit`](crate::Connection::submit) at the time: the connection no longer
    /// accepts requests. It is called once for each [`Waiting`](crate::Capacity::Waiting) that was not
    /// dropped before, without any lock, on any thread, maybe before `reserve` has returned.
    ///
    /// Everything that releases capacity calls it: the connection's task, `expire`,
    /// [`close`](crate::Connection::close), or the drop of a [`Reservation`], a
    /// [`CapacityWait`](crate::CapacityWait) or a [`PendingResponse`](crate::PendingResponse). So a lock that
    /// it takes must not be held around those. It is never called from within `submit`, `submit_put`,
    /// `submit_reserved_put` or `reserve`.
    fn capacity(&self, token: u64, granted: Result<Reservation, TransportError>) {
        drop((token, granted));
    }

    /// Reports that the broker is done with these requests. Implementations must drain `tokens`.
    ///
    /// They were written and failed with kind [`TimedOut`](crate::TransportErrorKind::TimedOut); now their
    /// responses have come or the connection is gone. It is called once for each such request, after
    /// [`completed`](Self::completed), and in the same contexts.
    fn released(&self, tokens: &mut Vec<u64>) {
        tokens.clear();
    }
}

/// The listener for the outcome of a request, and the token by which the listener knows the request.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a pair with names")]
pub struct CompletionToken<'a> {
    /// The listener.
    pub completions: &'a Arc<dyn Completions>,
    /// The token by which the listener knows the request.
    pub token: u64,
}
