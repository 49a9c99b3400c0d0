//! Access to tokio's runtime that doesn't panic where there is none.

use tokio::{
    runtime::Handle,
    time::{Instant, Sleep},
};

use crate::{deadline, panics::catch};

/// Returns the runtime of the caller, if there is one.
pub(crate) fn current() -> Option<Handle> {
    Handle::try_current().ok()
}

/// Returns a timer on the runtime of the caller, or none where there is no runtime, or one without timers.
pub(crate) fn sleep_until(deadline: Instant) -> Option<Sleep> {
    current()?;
    catch(|| tokio::time::sleep_until(deadline::for_timer(deadline))).ok()
}
