//! Sending again.

use std::{fmt, sync::Arc, time::Duration};

use metaq_transport::backoff_ceiling;
use parking_lot::Mutex;

/// The policy by which a message whose attempt failed is sent again, within its timeout.
///
/// By default only what is certainly not stored: what was never written to a connection, and what a broker
/// refused for a reason that another partition or a moment later doesn't have: 403 (the partition is closed),
/// 404, 503 (the broker is busy), and 500 where the broker says that it could not enter the topic in
/// ZooKeeper, as the first message to a topic is answered by a broker that was killed and started again while
/// its former session lives. Nothing is stored twice then.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The largest number of times that a message is handed to a connection. Default 5; with 1 nothing is
    /// ever sent again, as by the Java client.
    pub max_attempts: u32,
    /// The upper bound of the backoff before the second attempt; it doubles with each further one. The
    /// backoff itself is drawn at random between zero and that. Default 10 ms. With zero, a busy broker gets
    /// no relief.
    #[cfg_attr(feature = "serde", serde(with = "super::text_forms::duration"))]
    pub initial_backoff: Duration,
    /// The limit of that upper bound. Default 1 s.
    #[cfg_attr(feature = "serde", serde(with = "super::text_forms::duration"))]
    pub max_backoff: Duration,
    /// Whether a message is sent again that may be stored, because its answer didn't come. Then every message
    /// is stored at least once if it is acknowledged, and maybe twice. Default `false`.
    pub at_least_once: bool,
    /// Whether a message is sent again that a broker answered with 500 for whatever reason, which is also
    /// what a topic or a partition is answered with that it doesn't have. Default `false`.
    pub server_errors: bool,
    /// The source of random numbers. No part of settings in a file.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub jitter: Jitter,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            initial_backoff: Duration::from_millis(10),
            max_backoff: Duration::from_secs(1),
            at_least_once: false,
            server_errors: false,
            jitter: Jitter::default(),
        }
    }
}

impl RetryPolicy {
    /// The backoff after `attempts` failed attempts.
    pub(crate) fn backoff(&self, attempts: u32) -> Duration {
        let failures = attempts.saturating_sub(1);
        backoff_ceiling(self.initial_backoff, self.max_backoff, failures).mul_f64(self.jitter.draw())
    }
}

/// Random numbers for pauses: the thread's own, or a sequence that a seed determines, for tests.
#[derive(Clone, Default)]
pub struct Jitter {
    seeded: Option<Arc<Mutex<fastrand::Rng>>>,
}

impl Jitter {
    /// The sequence that `seed` determines.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { seeded: Some(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)))) }
    }

    /// A number from 0 to 1.
    fn draw(&self) -> f64 {
        match &self.seeded {
            Some(rng) => rng.lock().f64(),
            None => fastrand::f64(),
        }
    }
}

impl fmt::Debug for Jitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.seeded.is_some() { "Jitter(seeded)" } else { "Jitter(random)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_jittered_and_a_seed_repeats_them() {
        let policy = |seed| RetryPolicy { jitter: Jitter::seeded(seed), ..RetryPolicy::default() };
        let pauses = |seed| (1..40).map(|n| policy(seed).backoff(n)).collect::<Vec<_>>();
        assert_eq!(pauses(7), pauses(7));
        let policy = policy(7);
        for n in 1..200_u32 {
            let doubled = policy.initial_backoff.saturating_mul(1 << (n - 1).min(20));
            assert!(policy.backoff(n) <= doubled.min(policy.max_backoff));
        }
        let late: Vec<_> = (0..100).map(|_| policy.backoff(30)).collect();
        assert!(late.iter().any(|pause| *pause > policy.max_backoff / 2));
        assert!(late.iter().any(|pause| *pause < policy.max_backoff / 2));
    }
}
