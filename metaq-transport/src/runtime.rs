//! Questions to tokio's runtime that don't panic where there is none.

use tokio::{
    runtime::Handle,
    time::{Instant, Sleep},
};

use crate::{contain::contain, deadline};

/// The runtime of the caller, if there is one.
pub(crate) fn current() -> Option<Handle> {
    Handle::try_current().ok()
}

/// A timer on the runtime of the caller; none where there is no runtime, or one without timers.
pub(crate) fn sleep_until(deadline: Instant) -> Option<Sleep> {
    current()?;
    contain(|| tokio::time::sleep_until(deadline::for_timer(deadline))).ok()
}
