//! Points in time and settings that hold for every [`Duration`].

use std::time::Duration;

use tokio::time::Instant;

/// Longer durations are cut to this one, about 30 years, so that no addition overflows.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// The point in time that is `duration` from now; at most [`MAX_DURATION`] from now.
pub(crate) fn after(duration: Duration) -> Instant {
    Instant::now() + duration.min(MAX_DURATION)
}

/// Returns the setting `name` within its limits.
///
/// # Errors
/// When it is zero, which would let every attempt fail, or repeat something without a pause.
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
pub(crate) fn setting(
    name: &str,
    value: Duration,
    shortest: Duration,
    longest: Duration,
) -> Result<Duration, crate::DiscoveryError> {
    if value.is_zero() {
        let text = format!("{name} must be greater than zero");
        return Err(crate::DiscoveryError::new(crate::DiscoveryErrorKind::Config, text));
    }
    Ok(value.clamp(shortest, longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_has_an_end() {
        for duration in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(1)] {
            assert!(after(duration) <= Instant::now() + duration);
        }
        for duration in [Duration::from_secs(u64::from(u32::MAX)), Duration::MAX] {
            assert!(after(duration) > Instant::now() + MAX_DURATION / 2);
        }
    }
}
