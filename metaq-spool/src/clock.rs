//! The time at which messages are spooled.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock that shows the time of day when it is started, and from then on only goes forward at an even pace.
///
/// Somebody who sets the clock of the machine makes no message older meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Duration,
    started: Instant,
}

impl Clock {
    /// A clock that shows `wall`, or `not_before` if that is later: the last time that an earlier process
    /// wrote.
    pub(crate) fn start(wall: SystemTime, not_before: Duration) -> Self {
        let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: wall.max(not_before), started: Instant::now() }
    }

    /// The time since the Unix epoch.
    pub(crate) fn now(&self) -> Duration {
        self.start.saturating_add(self.started.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back_behind_what_was_written() {
        let wall = UNIX_EPOCH + Duration::from_secs(100);
        let clock = Clock::start(wall, Duration::from_secs(7));
        assert!(clock.now() >= Duration::from_secs(100) && clock.now() < Duration::from_secs(160));
        let set_back = Clock::start(wall, Duration::from_secs(500));
        assert!(set_back.now() >= Duration::from_secs(500));
        let before_1970 = Clock::start(UNIX_EPOCH - Duration::from_secs(5), Duration::ZERO);
        assert!(before_1970.now() < Duration::from_secs(60));
    }
}
