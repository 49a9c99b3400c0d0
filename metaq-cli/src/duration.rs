//! Times on the command line.

use std::time::Duration;

/// Reads a time, such as `3s`. Nothing can be done in no time.
pub(crate) fn parse_timeout(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time.is_zero() { Err("must be greater than zero".to_owned()) } else { Ok(time) }
}
