//! The state that the proxy's handle, its listener and its connections share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::watch;

use super::plan::Plan;

/// The directions of a connection's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Direction {
    /// The bytes that the client sends.
    ToServer,
    /// The bytes that the server sends.
    ToClient,
}

/// The treatment of new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnConnect {
    /// It is accepted, and connected to the server. Where the server can't be reached it is reset.
    #[default]
    Forward,
    /// It is refused by the system, as where nobody listens. The port stays taken.
    Refuse,
    /// It is accepted and reset at once.
    Reset,
    /// It is accepted, and nothing is ever read or answered; the server doesn't hear of it. It ends with
    /// [`Proxy::close_all`](crate::Proxy::close_all) or [`Proxy::reset_all`](crate::Proxy::reset_all).
    Ignore,
}

/// The state that the proxy's handle, its listener and its connections share.
#[derive(Debug)]
pub(super) struct ProxyShared {
    pub(super) target: String,
    pub(super) plans: [watch::Sender<Arc<Plan>>; 2],
    /// The way in which open connections are to end; they watch for a change.
    pub(super) end: watch::Sender<End>,
    /// The number of times that the open connections were stranded.
    pub(super) strandings: watch::Sender<u64>,
    pub(super) accepted: AtomicUsize,
    pub(super) open: AtomicUsize,
    pub(super) forwarded: [AtomicU64; 2],
}

/// The ways in which a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Reset,
}

/// Counts a connection as open.
pub(super) struct OpenConnection<'a>(&'a ProxyShared);

impl<'a> OpenConnection<'a> {
    pub(super) fn new(shared: &'a ProxyShared) -> Self {
        shared.open.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}
