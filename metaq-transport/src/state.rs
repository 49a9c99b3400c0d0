//! The state and the counts that a connection publishes.

use crate::TransportError;

/// The states of a connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectionState {
    /// No stream is established. The broker is being dialled, or is about to be.
    #[non_exhaustive]
    Connecting {
        /// The reason why the last attempt failed, or why the last stream was lost.
        last_error: Option<TransportError>,
    },
    /// Requests can be submitted.
    Ready,
    /// The broker has been silent for [`stall_after`](crate::ConnectionConfig::stall_after) while responses
    /// are outstanding.
    ///
    /// Requests that were written still wait for their responses. Those that were not written have failed,
    /// and the connection accepts no more, until the broker answers or the connection is given up. A new
    /// stream is dialled meanwhile, and replaces the silent one if the broker answers on the new one alone.
    /// Then this state is followed by [`Connecting`](Self::Connecting), with the reason, and at once by
    /// [`Ready`](Self::Ready).
    Stalled,
    /// The connection is closed for good. If that was not requested, but follows from the end of the
    /// connection's runtime, the errors of requests say so.
    Closed,
}

impl ConnectionState {
    /// Returns [`Connecting`](Self::Connecting), where `last_error` is the reason why the last attempt failed
    /// or the last stream was lost.
    #[must_use]
    pub fn connecting(last_error: Option<TransportError>) -> Self {
        Self::Connecting { last_error }
    }

    /// Returns whether requests can be submitted.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Returns whether the connection is closed for good.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

/// The counts of one connection since it was made, over all its streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// The number of times that the connection was established. Streams that were answered and never used
    /// don't count.
    pub established: u64,
    /// Requests that were accepted.
    pub requests: u64,
    /// Requests that were answered in time. Heartbeats don't count.
    pub answered: u64,
    /// Responses to requests that had been given up, or to no request at all.
    pub ignored_responses: u64,
    /// Requests that are in flight now: accepted and not completed.
    pub in_flight: usize,
    /// Bytes of the requests in flight.
    pub in_flight_bytes: usize,
    /// System calls that wrote.
    pub writes: u64,
    /// Bytes that were written.
    pub bytes_written: u64,
    /// System calls that read.
    pub reads: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
}
