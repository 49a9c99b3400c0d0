//! Panics of code that isn't ours: `Debug` implementations of fields, and other layers. The data of a span,
//! whose lock another layer has poisoned, panics as well.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs code of the program's, whose panic must not end what we are doing. `None` if it panics.
pub(crate) fn contain<T>(code: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(code)).map_err(forget).ok()
}

/// Drops the payload of a panic. Its type is arbitrary, and its destructor may panic.
#[cold]
pub(crate) fn forget(panic: Box<dyn Any + Send>) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(panic);
    }
}
