//! Reserved capacity, and places in the queue for capacity.

use std::{fmt, sync::Arc};

use super::ConnectionShared;

/// Capacity for one request, set aside for its holder.
///
/// Dropping it hands the capacity to the next waiter, which may be notified from within the drop: don't drop
/// it under a lock that [`Completions::capacity`](crate::Completions::capacity) takes. If it is dropped
/// within that method, the next waiter is notified after the method has returned.
#[must_use = "dropping a reservation gives it back"]
pub struct Reservation {
    release: Release,
}

/// A place in the queue for capacity. Dropping it gives up the place, and may notify the next waiters from
/// within.
#[must_use = "dropping it gives up the place"]
pub struct CapacityWait {
    leave: Leave,
}

/// The result of [`Connection::reserve`](crate::Connection::reserve).
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "there is no third possibility")]
pub enum Capacity {
    /// There was capacity, and no other waiter.
    Reserved(Reservation),
    /// The caller is in the queue.
    Waiting(CapacityWait),
}

/// The way in which a reservation is given back.
enum Release {
    Nothing,
    Custom(Box<dyn FnOnce() + Send + Sync>),
    Connection { shared: Arc<ConnectionShared>, bytes: u32 },
}

/// The way in which a place is given up.
enum Leave {
    Nothing,
    Custom(Box<dyn FnOnce() + Send + Sync>),
    Connection { shared: Arc<ConnectionShared>, waiter: u64 },
}

impl Reservation {
    /// Creates a reservation that calls `release` when it is dropped, for implementations of
    /// [`Connection`](crate::Connection).
    pub fn new(release: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self { release: Release::Custom(Box::new(release)) }
    }

    /// Creates a reservation of nothing, for implementations of [`Connection`](crate::Connection) that only
    /// announce when they have capacity again.
    pub fn untracked() -> Self {
        Self { release: Release::Nothing }
    }

    pub(crate) fn on_connection(shared: Arc<ConnectionShared>, bytes: u32) -> Self {
        Self { release: Release::Connection { shared, bytes } }
    }

    /// Returns the number of reserved bytes, if it is a reservation of this connection.
    pub(crate) fn bytes_on(&self, shared: &Arc<ConnectionShared>) -> Option<u32> {
        match &self.release {
            Release::Connection { shared: own, bytes } if Arc::ptr_eq(own, shared) => Some(*bytes),
            _ => None,
        }
    }

    /// Drops the reservation without giving it back: a request has taken its capacity.
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
    /// Creates a place that is given up by calling `leave`, for implementations of
    /// [`Connection`](crate::Connection).
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
