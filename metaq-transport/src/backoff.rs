//! Pauses between attempts to reach a broker.

use std::time::Duration;

use crate::deadline::FAR;

/// The smallest ceiling of a pause.
const SHORTEST: Duration = Duration::from_millis(1);

/// The upper bound of the backoff after `failures` failures in a row, the first of which is 0: `initial` doubled with each,
/// but never above `max`. The backoff itself is drawn between zero and that ("full jitter"), so that clients which failed
/// together don't come back in step.
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
    /// Pauses below a millisecond, with which a broker that is away would be dialled without end, count as one.
    pub(crate) fn new(initial: Duration, max: Duration) -> Self {
        let [initial, max] = [initial, max].map(|pause| pause.clamp(SHORTEST, FAR));
        Self { initial, max, failures: 0, rng: fastrand::Rng::new() }
    }

    /// Forgets earlier failures.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure.
    pub(crate) fn next_pause(&mut self) -> Duration {
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
            let pauses: Duration = (0..100).map(|_| backoff.next_pause()).sum();
            assert!(pauses >= SHORTEST && pauses <= FAR * 100, "{first:?} {longest:?}: {pauses:?}");
        }
    }

    #[test]
    fn grows_to_the_ceiling_and_is_never_above_it() {
        let (first, longest) = (Duration::from_millis(50), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, longest);
        for n in 0..40_u32 {
            let ceiling = first.saturating_mul(1 << n.min(20)).min(longest);
            assert!(backoff.next_pause() <= ceiling, "pause {n}");
        }
        let late: Vec<_> = (0..200).map(|_| backoff.next_pause()).collect();
        assert!(late.iter().any(|pause| *pause > longest / 2), "late pauses use the whole range");
        assert!(late.iter().any(|pause| *pause < longest / 2), "and are not all alike");
        backoff.reset();
        assert!(backoff.next_pause() <= first);
    }
}
