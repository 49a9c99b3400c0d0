//! Panics of code that isn't ours: `Debug` implementations of fields, and other layers.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs code of the program's, whose panic must not end what we are doing.
pub(crate) fn contain(code: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(code)) {
        forget(panic);
    }
}

/// Drops the payload of a panic. Its type is arbitrary, and its destructor may panic.
#[cold]
pub(crate) fn forget(panic: Box<dyn Any + Send>) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(panic);
    }
}
