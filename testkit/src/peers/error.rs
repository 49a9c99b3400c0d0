//! The errors of real peers.

use std::{fmt, io, path::PathBuf, process::ExitStatus, time::Duration};

/// A real peer could not be run.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// A program or package is not installed.
    #[error("{what} is missing; on Debian: apt-get install {package}")]
    #[non_exhaustive]
    Missing {
        /// The thing that is missing.
        what: &'static str,
        /// The Debian packages that contain it.
        package: &'static str,
    },
    /// The environment asks for tests without real peers.
    #[error("METAQ_PEERS=none leaves out tests with real peers")]
    #[non_exhaustive]
    Unwanted,
    /// The parts of a peer could not be fetched.
    #[error("{tool} could not fetch {what}, which takes access to {registry} the first time: {output}")]
    #[non_exhaustive]
    Fetch {
        /// The tool that failed to fetch them.
        tool: &'static str,
        /// The registry that it fetches from.
        registry: &'static str,
        /// The parts.
        what: String,
        /// The output of the tool.
        output: String,
    },
    /// A tool failed.
    #[error("{what} failed: {output}")]
    #[non_exhaustive]
    Tool {
        /// The task of the tool.
        what: String,
        /// The output.
        output: String,
    },
    /// A file or a process could not be handled.
    #[error("could not {what}: {source}")]
    #[non_exhaustive]
    Io {
        /// The action that failed.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// A peer's process ended too early, or with a failure.
    #[error("{what} ended with {status}; its log {log_file:?} ends with:\n{log}")]
    #[non_exhaustive]
    Ended {
        /// The peer.
        what: String,
        /// The exit status.
        status: ExitStatus,
        /// Its log, which outlives its folder.
        log_file: PathBuf,
        /// The last lines of its log.
        log: String,
    },
    /// A peer reported in its log that it could not start, without ending its process.
    #[error("{what} could not start; its log {log_file:?} ends with:\n{log}")]
    #[non_exhaustive]
    Failed {
        /// The peer.
        what: String,
        /// Its log, which outlives its folder.
        log_file: PathBuf,
        /// The last lines of its log.
        log: String,
    },
    /// A peer did not do something in time.
    #[error("waited {timeout:?} in vain for {what}; its log {log_file:?} ends with:\n{log}")]
    #[non_exhaustive]
    TimedOut {
        /// The peer, and its task.
        what: String,
        /// The time limit.
        timeout: Duration,
        /// Its log, which outlives its folder.
        log_file: PathBuf,
        /// The last lines of its log.
        log: String,
    },
    /// The registry still contains a broker with the id of the one to start.
    #[error(
        "waited {timeout:?} in vain for {node} to go: another broker with this id is alive, or the session of the former \
         process has not expired"
    )]
    #[non_exhaustive]
    Registered {
        /// The node.
        node: String,
        /// The time limit.
        timeout: Duration,
    },
}

/// Same as `Display`: tests show errors in this form, and a log is unreadable with escaped line ends.
impl fmt::Debug for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PeerError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Returns true if this machine lacks what peers need, or is asked to run none, as opposed to a failure
    /// of peers or of this crate.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Fetch { .. } | Self::Unwanted)
    }
}
