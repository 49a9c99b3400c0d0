//! Points in time that no duration, however long, takes out of range.

use std::{future::Future, pin::pin, time::Duration};

use futures_util::poll;
use tokio::{runtime::Handle, time::Instant};

use crate::panics;

/// About 30 years, which stands for "never": adding more could overflow an [`Instant`].
pub(crate) const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);

/// The instant at which a timeout that begins now is over.
pub(crate) fn after(timeout: Duration) -> Instant {
    at(Instant::now(), timeout)
}

/// The instant at which a timeout that began at `start` is over. Timeouts beyond [`FAR`] are taken as that
/// long.
pub(crate) fn at(start: Instant, timeout: Duration) -> Instant {
    start.checked_add(timeout.min(FAR)).unwrap_or(start)
}

/// The runtime of the caller, if there is one that has timers.
pub(crate) fn runtime() -> Option<Handle> {
    let runtime = Handle::try_current().ok()?;
    // The only way to ask: where timers are not enabled it panics.
    panics::catch(|| drop(tokio::time::sleep(Duration::ZERO))).ok()?;
    Some(runtime)
}

/// The reason why a future was not awaited to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotReached {
    /// The deadline has passed.
    Elapsed,
    /// The caller is outside of any tokio runtime, or in one without timers, so that there is no clock to
    /// wait by.
    NoRuntime,
}

/// Waits for `future` until `deadline`. Outside of a tokio runtime with timers it looks once.
pub(crate) async fn timeout_at<T>(
    deadline: Instant,
    future: impl Future<Output = T>,
) -> Result<T, NotReached> {
    if runtime().is_none() {
        let mut future = pin!(future);
        return match poll!(future.as_mut()) {
            std::task::Poll::Ready(output) => Ok(output),
            std::task::Poll::Pending => Err(NotReached::NoRuntime),
        };
    }
    tokio::time::timeout_at(deadline, future).await.map_err(|_| NotReached::Elapsed)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_timeout_overflows(seconds: u64, nanos in 0..1_000_000_000_u32) {
            let timeout = Duration::new(seconds, nanos);
            let start = Instant::now();
            prop_assert_eq!(at(start, timeout) - start, timeout.min(FAR));
        }
    }

    #[test]
    fn the_longest_is_far_away_and_none_is_now() {
        let start = Instant::now();
        assert_eq!(at(start, Duration::ZERO), start);
        assert!(after(Duration::MAX) >= start + FAR);
        assert!(at(at(start, Duration::MAX), Duration::MAX) > start + FAR, "there is room for one more");
    }

    #[test]
    fn outside_of_a_runtime_nothing_is_waited_for() {
        let looked = |future| timeout_at(Instant::now(), future).now_or_never();
        assert_eq!(looked(std::future::ready(1).boxed_local()), Some(Ok(1)));
        assert_eq!(looked(std::future::pending().boxed_local()), Some(Err(NotReached::NoRuntime)));
    }
}
