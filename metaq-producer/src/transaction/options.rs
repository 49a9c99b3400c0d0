//! Options of a local transaction.

use std::time::Duration;

/// Options of a local [`Transaction`](super::Transaction).
///
/// ```
/// use std::time::Duration;
/// use metaq_producer::TransactionOptions;
///
/// let options = TransactionOptions::new().with_timeout(Duration::from_secs(30));
/// assert_eq!(options.timeout(), Duration::from_secs(30));
/// ```
#[derive(Clone, Debug)]
pub struct TransactionOptions {
    timeout: Duration,
    request_timeout: Duration,
}

/// How long a broker has to answer a step. As the Java client (rule T-13).
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

impl Default for TransactionOptions {
    fn default() -> Self {
        Self { timeout: Duration::ZERO, request_timeout: REQUEST_TIMEOUT }
    }
}

impl TransactionOptions {
    /// No timeout at the broker, and 5 s for each step.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// After how long the broker rolls the transaction back by itself if it was not committed. It counts from the first
    /// message on, in whole seconds: a part of one counts as one. A broker with the shipped settings cuts it to 60 s, and
    /// looks twice a second (rules T-12 and B-19). Default zero, which is never.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// How long the broker has to answer the beginning and the end of the transaction. Default 5 s, as the Java client
    /// (rule T-13). Too short, and commits that a busy broker carries out are unknown. More than 30 years are taken as that.
    #[must_use]
    pub fn with_request_timeout(self, request_timeout: Duration) -> Self {
        Self { request_timeout, ..self }
    }

    /// After how long the broker rolls the transaction back by itself; zero is never.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long the broker has to answer the beginning and the end of the transaction.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }
}

/// A timeout as a command carries it: whole seconds, rounded up.
pub(crate) fn whole_seconds(timeout: Duration) -> i32 {
    let seconds = timeout.as_secs().saturating_add(u64::from(timeout.subsec_nanos() > 0));
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_second_counts_as_one() {
        let seconds = |millis| whole_seconds(Duration::from_millis(millis));
        assert_eq!([0, 1, 999, 1000, 1001].map(seconds), [0, 1, 1, 1, 2]);
        assert_eq!(whole_seconds(Duration::MAX), i32::MAX, "wire rule 3.7");
    }
}
