//! Panics of code that isn't ours: selectors, wakers, `tracing` subscribers.

use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::{Context, Wake, Waker},
};

/// Runs code that belongs to the user, whose panic must not end what we are doing. The panic itself was
/// reported by the program's panic hook.
#[inline]
pub(crate) fn contain(code: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(code)) {
        forget(panic);
    }
}

/// Runs code that belongs to the user with each of `items`. One that panics keeps the code from nothing but
/// itself.
#[inline]
pub(crate) fn contain_each<T>(items: impl Iterator<Item = T>, mut code: impl FnMut(T)) {
    let mut items = items.fuse();
    let mut is_over = false;
    // Entered once, and not for each item.
    while !is_over {
        contain(|| {
            items.by_ref().for_each(&mut code);
            is_over = true;
        });
    }
}

/// Waits for a future of tokio's, which wakes others after the caller's task: a waker that panics would keep
/// them waiting, and the code that notifies them from completing.
pub(crate) async fn with_contained_waker<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut known: Option<Arc<ContainedWaker>> = None;
    poll_fn(|cx| {
        let is_same = |known: &Arc<ContainedWaker>| {
            known.0.as_ref().is_some_and(|of_task| of_task.will_wake(cx.waker()))
        };
        let contained = match known.take().filter(is_same) {
            Some(same) => same,
            None => Arc::new(ContainedWaker(Some(cx.waker().clone()))),
        };
        let contained = Waker::from(Arc::clone(known.insert(contained)));
        future.as_mut().poll(&mut Context::from_waker(&contained))
    })
    .await
}

/// A task's waker; none when it was dropped.
struct ContainedWaker(Option<Waker>);

impl Wake for ContainedWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        contain(|| self.0.iter().for_each(Waker::wake_by_ref));
    }
}

impl Drop for ContainedWaker {
    fn drop(&mut self) {
        contain(|| drop(self.0.take()));
    }
}

/// Runs code that belongs to the user.
///
/// # Errors
/// What it panicked with.
#[inline(always)]
pub(crate) fn catch<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(value) => Ok(value),
        Err(panic) => Err(into_text(panic)),
    }
}

#[cold]
fn into_text(panic: Box<dyn Any + Send>) -> String {
    let text = text(&*panic).to_owned();
    forget(panic);
    text
}

/// Drops the payload of a panic. Its type is arbitrary, and its destructor may panic.
#[cold]
fn forget(panic: Box<dyn Any + Send>) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(panic);
    }
}

/// The text of a panic, if it has one.
pub(crate) fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_has_its_turn_although_others_panic() {
        let mut seen = Vec::new();
        contain_each(0..6, |item| {
            seen.push(item);
            assert!(item % 2 == 0, "an odd one");
        });
        assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
        contain_each(std::iter::empty::<()>(), drop);
    }
}
