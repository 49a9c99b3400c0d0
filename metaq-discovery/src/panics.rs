//! Containment of panics in foreign code: wakers, subscribers of `tracing`, client libraries.

#[cfg(any(feature = "etcd", feature = "file", feature = "mock", feature = "zookeeper"))]
use std::task::Poll;
use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::{Context, Wake, Waker},
};

/// Records an event with `tracing`. A panic of the subscriber has no effect.
pub(crate) fn log(record: impl FnOnce()) {
    forget_panic(catch_unwind(AssertUnwindSafe(record)));
}

/// Runs foreign code, such as wakers. A panic is logged and has no other effect.
pub(crate) fn contain(run: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
        let panic = take_message(payload);
        log(|| tracing::error!(panic, "code that watches a registry panicked when it was woken"));
    }
}

/// Waits for a future of tokio's, which wakes others after the caller's task: a waker that panics would leave
/// them asleep.
pub(crate) async fn with_contained_waker<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| {
        let contained = Waker::from(Arc::new(ContainedWaker(Some(context.waker().clone()))));
        future.as_mut().poll(&mut Context::from_waker(&contained))
    })
    .await
}

/// The waker of a task; `None` once it was dropped.
struct ContainedWaker(Option<Waker>);

impl Wake for ContainedWaker {
    fn wake(self: Arc<Self>) {
        contain(|| self.0.iter().for_each(Waker::wake_by_ref));
    }
}

impl Drop for ContainedWaker {
    fn drop(&mut self) {
        contain(|| drop(self.0.take()));
    }
}

/// Returns the message of a panic.
fn take_message(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    forget_panic(Err(payload));
    text.unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Drops the payload of a panic, which may itself panic.
fn forget_panic(result: Result<(), Box<dyn Any + Send>>) {
    if let Err(payload) = result
        && let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload)))
    {
        std::mem::forget(again);
    }
}

/// Returns the future's output, or the message of its panic.
#[cfg(any(feature = "etcd", feature = "file", feature = "mock", feature = "zookeeper"))]
pub(crate) async fn catch<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = pin!(future);
    let caught = poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(payload) => Poll::Ready(Err(payload)),
    });
    caught.await.map_err(take_message)
}
