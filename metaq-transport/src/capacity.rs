//! Waiting for capacity on a connection.

use std::{fmt, sync::Arc};

use crate::shared::ConnectionShared;

/// Capacity for one request, set aside for its holder. Dropping it gives the capacity to the next who waits, who may be
/// notified from within: don't drop it under a lock that [`Completions::capacity`](crate::Completions::capacity) takes. Where
/// it is dropped within that method, the next is notified after it has returned.
#[must_use = "dropping a reservation gives it back"]
pub struct Reservation {
    release: Release,
}

/// A place among those who wait for capacity. Dropping it gives up the place; the next waiters may be notified from within.
#[must_use = "dropping it gives up the place"]
pub struct CapacityWait {
    leave: Leave,
}

/// The result of [`Connection::reserve`](crate::Connection::reserve) returns.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "there is no third possibility")]
pub enum Capacity {
    /// There is capacity, and nobody waits for it.
    Reserved(Reservation),
    /// The caller waits in turn.
    Waiting(CapacityWait),
}

/// The means to give a reservation back.
enum Release {
    Nothing,
    Custom(Box<dyn FnOnce() + Send + Sync>),
    Connection { shared: Arc<ConnectionShared>, bytes: u32 },
}

/// The means to give up a place.
enum Leave {
    Nothing,
    Custom(Box<dyn FnOnce() + Send + Sync>),
    Connection { shared: Arc<ConnectionShared>, waiter: u64 },
}

impl Reservation {
    /// A reservation that calls `release` when it is dropped, for a [`Connection`](crate::Connection) of one's own.
    pub fn new(release: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self { release: Release::Custom(Box::new(release)) }
    }

    /// A reservation of nothing: for a connection of one's own that only announces when it has capacity again.
    pub fn untracked() -> Self {
        Self { release: Release::Nothing }
    }

    pub(crate) fn on_connection(shared: Arc<ConnectionShared>, bytes: u32) -> Self {
        Self { release: Release::Connection { shared, bytes } }
    }

    /// The number of bytes that it holds, if it is one of `shared`.
    pub(crate) fn bytes_on(&self, shared: &Arc<ConnectionShared>) -> Option<u32> {
        match &self.release {
            Release::Connection { shared: own, bytes } if Arc::ptr_eq(own, shared) => Some(*bytes),
            _ => None,
        }
    }

    /// Hands what it holds to a request.
    pub(crate) fn use_up(mut self) {
        self.release = Release::Nothing;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.release, Release::Nothing) {
            Release::Nothing => {}
            Release::Custom(release) => release(),
            Release::Connection { shared, bytes } => shared.release(bytes),
        }
    }
}

impl CapacityWait {
    /// A place that is given up by calling `leave`, for a [`Connection`](crate::Connection) of one's own.
    pub fn new(leave: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self { leave: Leave::Custom(Box::new(leave)) }
    }

    pub(crate) fn on_connection(shared: Arc<ConnectionShared>, waiter: u64) -> Self {
        Self { leave: Leave::Connection { shared, waiter } }
    }
}

impl Drop for CapacityWait {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.leave, Leave::Nothing) {
            Leave::Nothing => {}
            Leave::Custom(leave) => leave(),
            Leave::Connection { shared, waiter } => shared.leave(waiter),
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tracked = !matches!(self.release, Release::Nothing);
        f.debug_struct("Reservation").field("tracked", &tracked).finish()
    }
}

impl fmt::Debug for CapacityWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = !matches!(self.leave, Leave::Nothing);
        f.debug_struct("CapacityWait").field("waiting", &waiting).finish()
    }
}
