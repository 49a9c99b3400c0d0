//! The pauses of a queue that can't be replayed.

use std::time::Duration;

use tokio::time::Instant;

const INITIAL: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(30);

/// A pause that doubles with each failure, and is drawn between half of that and all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    until: Option<Instant>,
    tried_at: Option<Instant>,
    /// Set when a reason to try again came during an attempt.
    is_reset: bool,
}

impl Backoff {
    /// When the next attempt is due; none if it is at once.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    pub(crate) fn tried_at(&self) -> Option<Instant> {
        self.tried_at
    }

    /// An attempt begins.
    pub(crate) fn begin(&mut self, now: Instant) {
        (self.tried_at, self.is_reset) = (Some(now), false);
    }

    pub(crate) fn succeeded(&mut self) {
        (self.failures, self.until) = (0, None);
    }

    pub(crate) fn failed(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_reset) {
            self.failures = 0;
        }
        let longest = INITIAL.saturating_mul(1 << self.failures.min(20)).min(MAX);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + longest.mul_f64(0.5 + fastrand::f64() / 2.0));
    }

    /// The next attempt is due soon, though this one has not failed.
    pub(crate) fn pause(&mut self, now: Instant) {
        self.until = Some(now + INITIAL);
    }

    /// There is a reason to try again.
    pub(crate) fn reset(&mut self) {
        (self.failures, self.until, self.is_reset) = (0, None, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_30_s_and_begin_anew() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.until(), None);
        let pause = |backoff: &Backoff| backoff.until().unwrap() - now;
        backoff.failed(now);
        assert!(pause(&backoff) >= INITIAL / 2 && pause(&backoff) <= INITIAL);
        (0..40).for_each(|_| backoff.failed(now));
        assert!(pause(&backoff) >= MAX / 2 && pause(&backoff) <= MAX);
        backoff.reset();
        assert_eq!(backoff.until(), None);
        backoff.begin(now);
        (0..40).for_each(|_| backoff.failed(now));
        // A reason that comes during the attempt counts as well.
        backoff.reset();
        backoff.failed(now);
        assert!(pause(&backoff) <= INITIAL);
    }
}
