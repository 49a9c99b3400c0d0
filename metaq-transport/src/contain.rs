//! Code of others: wakers, completions, payload destructors, streams, log subscribers. Its panics are contained.

use std::{
    any::Any,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

/// The text of a panic.
#[derive(Clone, Debug)]
pub(crate) struct Panicked(String);

impl Panicked {
    fn new(payload: Box<dyn Any + Send>) -> Self {
        let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (_, Some(text)) => text.clone(),
            _ => "a panic without a text".to_owned(),
        };
        // The payload may have a destructor that panics.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        Self(text)
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs `code`, and returns its result or what its panic said.
#[inline]
pub(crate) fn contain<T>(code: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(code)).map_err(Panicked::new)
}

/// Logs with a macro of `tracing`, and goes on if the subscriber panics.
macro_rules! log {
    ($level:ident, $($arguments:tt)*) => {
        drop($crate::contain::contain(|| tracing::$level!($($arguments)*)))
    };
}
pub(crate) use log;

/// A future that ends with what its panic said if it panics.
pub(crate) struct Contained<F> {
    inner: Option<Pin<Box<F>>>,
}

impl<F: Future> Contained<F> {
    pub(crate) fn new(future: F) -> Self {
        Self { inner: Some(Box::pin(future)) }
    }
}

impl<F: Future> Future for Contained<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(inner) = &mut self.inner else { return Poll::Pending };
        let polled = contain(|| inner.as_mut().poll(cx));
        let ended = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panicked) => Err(panicked),
        };
        let inner = self.inner.take();
        match (ended, contain(|| drop(inner))) {
            (Ok(_), Err(panicked)) => Poll::Ready(Err(panicked)),
            (ended, _) => Poll::Ready(ended),
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
            Pin::new(&mut Contained::new(future)).poll(&mut Context::from_waker(Waker::noop()))
        }
        let panics = async { panic!("while {}", "polled") };
        let Poll::Ready(Err(panicked)) = poll(panics) else { panic!("it is contained") };
        assert_eq!(panicked.to_string(), "while polled");
        let guard = PanicsWhenDropped;
        assert!(matches!(poll(async move { std::mem::forget(guard) }), Poll::Ready(Ok(()))));
        let guard = PanicsWhenDropped;
        assert!(matches!(poll(async move { drop(guard) }), Poll::Ready(Err(_))));
        assert!(contain(|| std::panic::panic_any(7)).is_err());
    }
}
