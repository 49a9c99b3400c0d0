//! Exponential backoff between attempts to reach a broker.

use std::time::Duration;

use crate::deadline::FAR;

/// The smallest upper bound of a backoff.
const MIN_CEILING: Duration = Duration::from_millis(1);

/// Returns the upper bound of the backoff after one more failure, where `failures` preceded it: `initial`,
/// doubled with each of them, at most `max`.
///
/// The backoff itself is drawn between zero and that ("full jitter"), so that clients that failed together
/// don't return in step.
#[must_use]
pub fn backoff_ceiling(initial: Duration, max: Duration, failures: u32) -> Duration {
    initial.saturating_mul(1 << failures.min(20)).min(max)
}

/// Exponential backoff with full jitter.
#[derive(Debug)]
pub(crate) struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
    rng: fastrand::Rng,
}

impl Backoff {
    /// Bounds below a millisecond count as one: with a shorter backoff, a broker that is away would be
    /// dialled in a busy loop.
    pub(crate) fn new(initial: Duration, max: Duration) -> Self {
        let [initial, max] = [initial, max].map(|bound| bound.clamp(MIN_CEILING, FAR));
        Self { initial, max, failures: 0, rng: fastrand::Rng::new() }
    }

    /// Forgets earlier failures.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns the backoff after one more failure.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let ceiling = backoff_ceiling(self.initial, self.max, self.failures);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(self.rng.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_pauses_neither_overflow_nor_dial_without_end() {
        let durations =
            [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(u32::MAX.into()), Duration::MAX];
        for (first, longest) in durations.iter().flat_map(|first| durations.map(|longest| (*first, longest)))
        {
            let mut backoff = Backoff::new(first, longest);
            let pauses: Duration = (0..100).map(|_| backoff.next_delay()).sum();
            assert!(pauses >= MIN_CEILING && pauses <= FAR * 100, "{first:?} {longest:?}: {pauses:?}");
        }
    }

    #[test]
    fn grows_to_the_ceiling_and_is_never_above_it() {
        let (first, longest) = (Duration::from_millis(50), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, longest);
        for n in 0..40_u32 {
            let ceiling = first.saturating_mul(1 << n.min(20)).min(longest);
            assert!(backoff.next_delay() <= ceiling, "pause {n}");
        }
        let late: Vec<_> = (0..200).map(|_| backoff.next_delay()).collect();
        assert!(late.iter().any(|back_off| *back_off > longest / 2), "late pauses use the whole range");
        assert!(late.iter().any(|back_off| *back_off < longest / 2), "and are not all alike");
        backoff.reset();
        assert!(backoff.next_delay() <= first);
    }
}
