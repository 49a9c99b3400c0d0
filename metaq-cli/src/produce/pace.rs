//! A limit on the rate of sending.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The longest time by which sending may be behind and catch up; beyond it, what was not sent is forgotten.
const MAX_BEHIND: Duration = Duration::from_millis(100);

/// Decides when the next message may be sent.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    next: Instant,
}

impl Pace {
    /// `rate` messages a second, at least 1.
    pub(super) fn new(rate: u32) -> Self {
        Self { interval: Duration::from_secs(1) / rate.max(1), next: Instant::now() }
    }

    /// Returns whether a message may be sent now, and counts it if so.
    pub(super) fn try_next(&mut self) -> bool {
        let now = Instant::now();
        if self.next > now {
            return false;
        }
        self.next = self.next.max(now.checked_sub(MAX_BEHIND).unwrap_or(now)) + self.interval;
        true
    }

    /// Waits until a message may be sent.
    ///
    /// # Cancel safety
    /// Safe: nothing is counted.
    pub(super) async fn ready(&self) {
        sleep_until(self.next).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pace_is_kept_and_catches_up_within_limits() {
        let mut pace = Pace::new(100);
        let started = Instant::now();
        for _ in 0..50 {
            while !pace.try_next() {
                pace.ready().await;
            }
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(490) && took < Duration::from_millis(550), "{took:?}");
        tokio::time::advance(Duration::from_secs(10)).await;
        let burst = std::iter::repeat_with(|| pace.try_next()).take_while(|may| *may).count();
        assert_eq!(burst, 11);
    }
}
