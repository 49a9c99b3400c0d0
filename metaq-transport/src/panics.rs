//! Panics of user code: wakers, completions, payload destructors, streams, log subscribers.
//!
//! Such code runs without the connection's lock, and its panics are caught here.

use std::{
    any::Any,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

/// The message of a panic.
#[derive(Clone, Debug)]
pub(crate) struct Panicked(String);

impl Panicked {
    fn new(payload: Box<dyn Any + Send>) -> Self {
        let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (_, Some(text)) => text.clone(),
            _ => "a panic without a text".to_owned(),
        };
        // The payload's destructor may panic.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        Self(text)
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs `code`, and returns its result or its panic.
#[inline]
pub(crate) fn catch<T>(code: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(code)).map_err(Panicked::new)
}

/// Logs with a macro of `tracing`, and catches a panic of the subscriber.
macro_rules! log {
    ($level:ident, $($arguments:tt)*) => {
        drop($crate::panics::catch(|| tracing::$level!($($arguments)*)))
    };
}
pub(crate) use log;

/// A future that completes with the panic of the future inside, if that panics.
pub(crate) struct CatchPanic<F> {
    inner: Option<Pin<Box<F>>>,
}

impl<F: Future> CatchPanic<F> {
    pub(crate) fn new(future: F) -> Self {
        Self { inner: Some(Box::pin(future)) }
    }
}

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(inner) = &mut self.inner else { return Poll::Pending };
        let polled = catch(|| inner.as_mut().poll(cx));
        let result = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panicked) => Err(panicked),
        };
        let inner = self.inner.take();
        match (result, catch(|| drop(inner))) {
            (Ok(_), Err(panicked)) => Poll::Ready(Err(panicked)),
            (result, _) => Poll::Ready(result),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    struct PanicsWhenDropped;

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }

    #[test]
    fn a_panic_is_contained_wherever_it_comes_from() {
        fn poll(future: impl Future<Output = ()>) -> Poll<Result<(), Panicked>> {
            Pin::new(&mut CatchPanic::new(future)).poll(&mut Context::from_waker(Waker::noop()))
        }
        let panics = async { panic!("while {}", "polled") };
        let Poll::Ready(Err(panicked)) = poll(panics) else { panic!("it is contained") };
        assert_eq!(panicked.to_string(), "while polled");
        let guard = PanicsWhenDropped;
        assert!(matches!(poll(async move { std::mem::forget(guard) }), Poll::Ready(Ok(()))));
        let guard = PanicsWhenDropped;
        assert!(matches!(poll(async move { drop(guard) }), Poll::Ready(Err(_))));
        assert!(catch(|| std::panic::panic_any(7)).is_err());
    }
}
