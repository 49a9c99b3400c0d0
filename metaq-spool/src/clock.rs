//! The time at which messages are spooled.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A clock that only goes forward, and at an even pace while a process runs.
///
/// Setting the clock of the machine makes no message older meanwhile. Between two processes it goes
/// on by what the clock of the machine shows to have passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Duration,
    started: Instant,
    wall: fn() -> SystemTime,
}

/// Two clocks at the same moment: that of the spool, and that of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) spool: Duration,
    pub(crate) wall: Duration,
}

impl Clock {
    /// A clock that goes on from the last time that an earlier process wrote, or from the time of day.
    pub(crate) fn start(wall: fn() -> SystemTime, last: Times) -> Self {
        let now = since_epoch(wall());
        let start = if last.wall.is_zero() {
            now.max(last.spool)
        } else {
            last.spool.saturating_add(now.saturating_sub(last.wall))
        };
        Self { start, started: Instant::now(), wall }
    }

    /// The time since the Unix epoch.
    pub(crate) fn now(&self) -> Duration {
        self.start.saturating_add(self.started.elapsed())
    }

    /// The time on both clocks.
    pub(crate) fn times(&self) -> Times {
        Times { spool: self.now(), wall: since_epoch((self.wall)()) }
    }
}

fn since_epoch(wall: SystemTime) -> Duration {
    wall.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at_100() -> SystemTime {
        UNIX_EPOCH + 100 * SECOND
    }

    fn before_1970() -> SystemTime {
        UNIX_EPOCH - 5 * SECOND
    }

    /// Fails unless the clock shows these seconds, or up to a minute more.
    fn assert_shows(clock: Clock, seconds: u32) {
        let now = clock.now();
        assert!(now >= seconds * SECOND && now < (seconds + 60) * SECOND, "{now:?}");
    }

    #[test]
    fn time_never_goes_back_behind_what_was_written() {
        assert_shows(Clock::start(at_100, Times::default()), 100);
        assert_shows(Clock::start(at_100, Times { spool: 500 * SECOND, wall: Duration::ZERO }), 500);
        assert_shows(Clock::start(at_100, Times { spool: 500 * SECOND, wall: 900 * SECOND }), 500);
        assert_shows(Clock::start(before_1970, Times::default()), 0);
    }

    #[test]
    fn a_clock_set_forward_during_a_process_ages_nothing_later() {
        // The machine began in 1970 and was set right: the spool's clock stayed, and 10 s have passed since.
        let last = Times { spool: 7 * SECOND, wall: 90 * SECOND };
        assert_shows(Clock::start(at_100, last), 17);
    }
}
