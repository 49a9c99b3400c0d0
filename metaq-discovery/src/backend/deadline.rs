//! Deadlines and settings that are valid for every [`Duration`].

use std::time::Duration;

use tokio::time::Instant;

/// The longest duration, about 30 years. Longer ones are reduced to it so that no addition overflows.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// The point in time `duration` from now, and at most [`MAX_DURATION`] from now.
pub(crate) fn after(duration: Duration) -> Instant {
    Instant::now() + duration.min(MAX_DURATION)
}

/// Returns the setting `name`, limited to the range from `shortest` to `longest`.
///
/// # Errors
/// When the value is zero, with which every attempt would fail or a loop would repeat without a pause.
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
    fn every_duration_yields_a_deadline() {
        for duration in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(1)] {
            assert!(after(duration) <= Instant::now() + duration);
        }
        for duration in [Duration::from_secs(u64::from(u32::MAX)), Duration::MAX] {
            assert!(after(duration) > Instant::now() + MAX_DURATION / 2);
        }
    }
}
