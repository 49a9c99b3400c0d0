//! The rate of replay.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lets a number of messages pass in a second, of all queues together.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    next: Mutex<Option<Instant>>,
}

/// Messages may come earlier by this, as timers are no more precise.
const BURST: Duration = Duration::from_millis(5);

impl Pace {
    /// None lets all pass.
    pub(crate) fn new(rate: Option<u32>) -> Self {
        let interval = rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.max(1));
        Self { interval, next: Mutex::default() }
    }

    /// Takes the turn of one message, and returns when that is.
    fn turn(&self, now: Instant) -> Instant {
        let mut next = self.next.lock();
        let turn = next.map_or(now, |next| next.max(now.checked_sub(BURST).unwrap_or(now)));
        *next = Some(turn + self.interval);
        turn
    }

    /// Waits until the next message may pass.
    pub(crate) async fn wait(&self) {
        if self.interval.is_zero() {
            return;
        }
        let now = Instant::now();
        let turn = self.turn(now);
        if turn > now {
            tokio::time::sleep(turn - now).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_evenly_spaced_and_none_are_saved_up() {
        let (pace, now) = (Pace::new(Some(1000)), Instant::now());
        assert_eq!(pace.turn(now), now);
        assert_eq!(pace.turn(now), now + Duration::from_millis(1));
        assert_eq!(pace.turn(now), now + Duration::from_millis(2));
        let later = now + Duration::from_secs(9);
        let turns: Vec<_> = (0..20).map(|_| pace.turn(later)).collect();
        assert_eq!(turns.iter().filter(|turn| **turn <= later).count(), 6, "those of the burst");
        assert_eq!(turns[19], later - BURST + Duration::from_millis(19));
    }
}
