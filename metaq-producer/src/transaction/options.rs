//! Options of a local transaction.

use std::time::Duration;

use crate::branch::{REQUEST_TIMEOUT, checked_request_timeout};

/// Options of a local [`Transaction`](super::Transaction).
///
/// ```
/// use std::time::Duration;
/// use metaq_producer::transaction::TransactionOptions;
///
/// let options = TransactionOptions::new().with_timeout(Duration::from_secs(30));
/// assert_eq!(options.timeout(), Some(Duration::from_secs(30)));
/// ```
#[derive(Clone, Debug)]
pub struct TransactionOptions {
    timeout: Option<Duration>,
    request_timeout: Duration,
}

/// The default timeout of a transaction at its broker, which brokers with the shipped settings cut longer
/// ones to.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

impl Default for TransactionOptions {
    fn default() -> Self {
        Self { timeout: Some(TIMEOUT), request_timeout: REQUEST_TIMEOUT }
    }
}

impl TransactionOptions {
    /// A timeout of 60 s at the broker, and 5 s for each step.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets after how long the broker rolls the transaction back by itself unless it was committed. Default
    /// 60 s.
    ///
    /// It counts from the first message on, in whole seconds: a part of one, and zero, count as one. A broker
    /// with the shipped settings cuts it to 60 s (`maxTxTimeoutInSeconds`), and looks twice a second. It has
    /// to be longer than the transaction takes: after it, sending and commit fail with
    /// [`Expired`](crate::transaction::TransactionErrorKind::Expired).
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Has the broker keep the transaction until it is committed or rolled back, however long that takes.
    ///
    /// If the connection is lost or the program killed before that, the broker holds the messages in its
    /// memory, and their log on its disk, until it is restarted: a broker doesn't roll back what a connection
    /// leaves behind, and enough of it takes the broker down.
    #[must_use]
    pub fn without_timeout(self) -> Self {
        Self { timeout: None, ..self }
    }

    /// The time that the broker has to answer the beginning and the end of the transaction. Default 5 s, as
    /// the Java client. Too short, and commits that a busy broker carries out are unknown. Less than 10 ms is
    /// taken as 10 ms, and more than 30 years as that.
    #[must_use]
    pub fn with_request_timeout(self, request_timeout: Duration) -> Self {
        Self { request_timeout: checked_request_timeout(request_timeout), ..self }
    }

    /// After how long the broker rolls the transaction back by itself; none is never.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The time that the broker has to answer the beginning and the end of the transaction.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }
}

/// A timeout as a command carries it: whole seconds, rounded up, and 0 for none.
pub(crate) fn whole_seconds(timeout: Option<Duration>) -> i32 {
    let Some(timeout) = timeout else { return 0 };
    let seconds = timeout.as_secs().saturating_add(u64::from(timeout.subsec_nanos() > 0));
    i32::try_from(seconds).unwrap_or(i32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_second_counts_as_one() {
        let seconds = |millis| whole_seconds(Some(Duration::from_millis(millis)));
        assert_eq!([0, 1, 999, 1000, 1001].map(seconds), [1, 1, 1, 1, 2], "zero is a timeout, too");
        assert_eq!(whole_seconds(Some(Duration::MAX)), i32::MAX, "protocol §3.7");
        assert_eq!(whole_seconds(None), 0);
    }

    #[test]
    fn there_is_a_timeout_unless_it_is_declined() {
        assert_eq!(TransactionOptions::new().timeout(), Some(TIMEOUT));
        assert_eq!(TransactionOptions::new().without_timeout().timeout(), None);
    }
}
