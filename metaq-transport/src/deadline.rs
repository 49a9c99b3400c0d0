//! Deadlines that saturate: arithmetic on instants that can't overflow.

use std::time::Duration;

use tokio::time::Instant;

/// The longest delay that is kept exactly, thirty years. Longer ones count as this one.
pub const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Returns the instant `delay` after `from`, or one in the far future if there is no such instant.
#[must_use]
pub fn after(from: Instant, delay: Duration) -> Instant {
    from.checked_add(delay.min(FAR)).unwrap_or(from)
}

/// Returns the instant `delay` from now, or one in the far future if there is no such instant.
#[must_use]
pub fn from_now(delay: Duration) -> Instant {
    after(Instant::now(), delay)
}

/// Returns `deadline`, or the far future if it is later: timers overflow on deadlines beyond it.
#[must_use]
pub fn for_timer(deadline: Instant) -> Instant {
    deadline.min(from_now(FAR))
}

/// Returns the instant `delay` before `from`, or `from` if there is no such instant.
pub(crate) fn before(from: Instant, delay: Duration) -> Instant {
    from.checked_sub(delay).unwrap_or(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_overflows_and_never_goes_back() {
        let now = Instant::now();
        let seconds = [0, 1, 1000, u64::from(u32::MAX), u64::MAX / 4, u64::MAX];
        let delays =
            seconds.map(Duration::from_secs).into_iter().chain([Duration::from_nanos(1), Duration::MAX]);
        for delay in delays {
            let once = after(now, delay);
            assert!(once >= now && (delay > FAR || once - now == delay), "{delay:?}");
            let mut later = once;
            for _ in 0..64 {
                assert!(after(later, delay) >= later);
                later = after(later, delay);
            }
            assert!(for_timer(later) <= from_now(FAR));
            assert!(before(now, delay) <= now);
        }
    }
}
