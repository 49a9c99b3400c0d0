//! The exit statuses of the command, one for each class of failure.
//!
//! [`HELP`] is the table in the help of every command; docs/cli.md has the same.

use std::{error::Error, io};

use metaq_producer::{
    Outcome, PublishError,
    discovery::{DiscoveryError, DiscoveryErrorKind},
    error::PublishErrorKind,
    inspect::{InspectError, InspectErrorKind},
};

/// The command did everything it was asked for.
pub(crate) const EXIT_DONE: u8 = 0;
/// Something failed that has no status of its own, such as starting a thread.
pub(crate) const EXIT_FAILED: u8 = 1;
/// The command line, the settings, or a file that they name, can't be used.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Some messages were not sent, and are certainly not stored.
pub(crate) const EXIT_NOT_SENT: u8 = 3;
/// No broker offers the topic or the partition.
pub(crate) const EXIT_NOT_FOUND: u8 = 4;
/// The registry, or no broker of the topic, could be reached.
pub(crate) const EXIT_UNREACHABLE: u8 = 5;
/// The outcome of a message or transaction is unknown.
pub(crate) const EXIT_UNKNOWN: u8 = 6;
/// A broker refused a message or a request.
pub(crate) const EXIT_REFUSED: u8 = 7;
/// A local file, the input or the output failed.
pub(crate) const EXIT_LOCAL_IO: u8 = 8;
/// A verification failed: messages were lost, doubled, reordered or corrupted.
pub(crate) const EXIT_VERIFICATION: u8 = 9;
/// The reader of stdout is gone. The same as that of a program that SIGPIPE ends.
pub(crate) const EXIT_BROKEN_PIPE: u8 = 128 + 13;

/// The statuses, at the end of each command's `--help`.
pub(crate) const HELP: &str = "\
Exit status:
  0    everything asked for was done
  1    something else failed, such as starting a thread
  2    wrong usage: options, settings, or a file that they name
  3    messages were not sent; they are certainly not stored
  4    no broker offers the topic or the partition
  5    the registry or the brokers can't be reached
  6    the outcome of a message or transaction is unknown
  7    a broker refused a message or a request
  8    local input or output failed: a file, a full disk
  9    a verification failed: messages lost, doubled, reordered or corrupted
  129, 130, 143    stopped by SIGHUP, SIGINT or SIGTERM
  141  the reader of stdout is gone
Of several, a signal comes first, then 141, 8, 6, 7 and 3.";

/// Counts of messages that were not acknowledged, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FailureCounts {
    pub(crate) not_sent: u64,
    pub(crate) rejected: u64,
    pub(crate) unknown: u64,
}

impl FailureCounts {
    pub(crate) fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::NotSent => self.not_sent += 1,
            Outcome::Rejected => self.rejected += 1,
            _ => self.unknown += 1,
        }
    }

    pub(crate) fn sum(self) -> u64 {
        self.not_sent + self.rejected + self.unknown
    }

    pub(crate) fn sum_of(counts: [Self; 2]) -> Self {
        let [a, b] = counts;
        Self {
            not_sent: a.not_sent + b.not_sent,
            rejected: a.rejected + b.rejected,
            unknown: a.unknown + b.unknown,
        }
    }

    /// Returns the status of the worst outcome: unknown, then rejected, then not sent.
    pub(crate) fn exit_status(self) -> u8 {
        match self {
            Self { unknown: 1.., .. } => EXIT_UNKNOWN,
            Self { rejected: 1.., .. } => EXIT_REFUSED,
            Self { not_sent: 1.., .. } => EXIT_NOT_SENT,
            _ => EXIT_DONE,
        }
    }
}

/// Returns the status for a topic that can't be published.
pub(crate) fn of_publish_error(error: &PublishError) -> u8 {
    match error.kind() {
        PublishErrorKind::NoSuchTopic => EXIT_NOT_FOUND,
        PublishErrorKind::Unreachable => EXIT_UNREACHABLE,
        PublishErrorKind::Discovery => {
            let cause = error.source().and_then(|cause| cause.downcast_ref::<DiscoveryError>());
            cause.map_or(EXIT_UNREACHABLE, of_discovery_error)
        }
        _ => EXIT_FAILED,
    }
}

/// Returns the status for a registry that can't be used.
pub(crate) fn of_discovery_error(error: &DiscoveryError) -> u8 {
    match error.kind() {
        DiscoveryErrorKind::Config => EXIT_USAGE,
        DiscoveryErrorKind::Unreachable | DiscoveryErrorKind::Failed => EXIT_UNREACHABLE,
        _ => EXIT_FAILED,
    }
}

/// Returns the status for a cluster that can't be looked at.
pub(crate) fn of_inspect_error(error: &InspectError) -> u8 {
    match error.kind() {
        InspectErrorKind::NoSuchTopic => EXIT_NOT_FOUND,
        InspectErrorKind::Unreachable | InspectErrorKind::TimedOut => EXIT_UNREACHABLE,
        InspectErrorKind::Refused | InspectErrorKind::InvalidResponse => EXIT_REFUSED,
        InspectErrorKind::Corrupt => EXIT_VERIFICATION,
        InspectErrorKind::Discovery => {
            let cause = error.source().and_then(|cause| cause.downcast_ref::<DiscoveryError>());
            cause.map_or(EXIT_UNREACHABLE, of_discovery_error)
        }
        _ => EXIT_FAILED,
    }
}

/// Returns the status for output that can't be written.
pub(crate) fn of_output_error(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::BrokenPipe { EXIT_BROKEN_PIPE } else { EXIT_LOCAL_IO }
}

/// Returns the status of a program that a signal stopped.
pub(crate) fn of_signal(number: i32) -> u8 {
    128 + number as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_outcome_decides() {
        let status =
            |not_sent, rejected, unknown| FailureCounts { not_sent, rejected, unknown }.exit_status();
        assert_eq!(status(0, 0, 0), EXIT_DONE);
        assert_eq!(status(2, 0, 0), EXIT_NOT_SENT);
        assert_eq!(status(2, 1, 0), EXIT_REFUSED);
        assert_eq!(status(2, 1, 1), EXIT_UNKNOWN);
    }
}
