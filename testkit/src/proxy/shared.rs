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
    /// The connection is accepted and connected to the server. If the server can't be reached it is reset.
    #[default]
    Forward,
    /// The operating system refuses the connection, as on a port without a listener. The port stays reserved.
    Refuse,
    /// The connection is accepted and reset immediately.
    Reset,
    /// The connection is accepted, but nothing is read or answered, and the server doesn't see it. It ends
    /// with [`Proxy::close_all`](crate::Proxy::close_all) or [`Proxy::reset_all`](crate::Proxy::reset_all).
    Ignore,
}

/// The state that the proxy's handle, its listener and its connections share.
#[derive(Debug)]
pub(super) struct ProxyShared {
    pub(super) target: String,
    pub(super) plans: [watch::Sender<Arc<Plan>>; 2],
    /// The last way in which open connections were ended; they watch for changes.
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

/// Counts a connection as open while it lives.
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
