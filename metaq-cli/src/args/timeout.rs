//! Time limits on the command line.

use std::time::Duration;

/// Longer than any command runs; the end of much longer times is beyond the system's clock.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Parses a time such as `3s`, which may be zero. One that is longer than [`LONGEST`] becomes that.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map(|time| time.min(LONGEST))
        .map_err(|_| "expected a duration with a unit, such as 500ms, 3s or 1m30s".to_owned())
}

/// Parses a time limit such as `3s`; zero is refused, since it leaves no time for anything.
pub(crate) fn parse_timeout(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    if time.is_zero() { Err("must be greater than zero".to_owned()) } else { Ok(time) }
}

/// Checks a time limit, and returns its text, for a setting.
pub(crate) fn timeout_text(text: &str) -> Result<String, String> {
    parse_timeout(text).map(|_| text.to_owned())
}

/// The time after which a broker rolls a transaction back on its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TransactionTimeout {
    After(Duration),
    Never,
}

impl TransactionTimeout {
    /// Parses `never` or a time limit in whole seconds, which is all that the protocol can express.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self::Never);
        }
        let time = parse_timeout(text)?;
        if time.subsec_nanos() > 0 {
            return Err("must be a whole number of seconds".to_owned());
        }
        if i32::try_from(time.as_secs()).is_err() {
            return Err(format!("must be at most {}s", i32::MAX));
        }
        Ok(Self::After(time))
    }
}
