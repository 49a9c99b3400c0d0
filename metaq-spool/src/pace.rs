//! The rate of replay.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

/// Lets a number of messages pass in a second, of all queues together, and none during a pause.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    next: Mutex<Option<Instant>>,
    gate: watch::Sender<Gate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    Paused,
    /// Open for good, as the spool is being closed.
    Ended,
}

/// Messages may come earlier by this, as timers are no more precise.
const BURST: Duration = Duration::from_millis(5);

impl Pace {
    /// None lets all pass.
    pub(crate) fn new(rate: Option<u32>) -> Self {
        let interval = rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.max(1));
        Self { interval, next: Mutex::default(), gate: watch::Sender::new(Gate::Open) }
    }

    /// Takes the turn of one message, and returns when that is.
    fn turn(&self, now: Instant) -> Instant {
        let mut next = self.next.lock();
        let turn = next.map_or(now, |next| next.max(now.checked_sub(BURST).unwrap_or(now)));
        *next = Some(turn + self.interval);
        turn
    }

    /// Begins a pause, or ends it.
    pub(crate) fn set_paused(&self, is_paused: bool) {
        let new = if is_paused { Gate::Paused } else { Gate::Open };
        let change = |gate: &mut Gate| {
            let changes = *gate != Gate::Ended && *gate != new;
            if changes {
                *gate = new;
            }
            changes
        };
        crate::events::contain(|| _ = self.gate.send_if_modified(change));
    }

    pub(crate) fn is_paused(&self) -> bool {
        *self.gate.borrow() == Gate::Paused
    }

    /// Ends a pause, and keeps further ones from beginning.
    pub(crate) fn end(&self) {
        crate::events::contain(|| _ = self.gate.send_replace(Gate::Ended));
    }

    /// Waits until the next message may pass.
    pub(crate) async fn wait(&self) {
        if self.is_paused() {
            // The sender is here.
            drop(self.gate.subscribe().wait_for(|gate| *gate != Gate::Paused).await);
        }
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
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_pause_lasts_until_it_ends_or_the_spool_closes() {
        let pace = Pace::new(None);
        assert!(pace.wait().now_or_never().is_some());
        for end in [|pace: &Pace| pace.set_paused(false), Pace::end] {
            pace.set_paused(true);
            let mut waiting = std::pin::pin!(pace.wait());
            assert!(pace.is_paused() && waiting.as_mut().now_or_never().is_none());
            end(&pace);
            assert!(waiting.now_or_never().is_some());
        }
        pace.set_paused(true);
        assert!(!pace.is_paused());
    }

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
