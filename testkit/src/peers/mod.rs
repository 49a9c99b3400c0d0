//! Real ZooKeeper servers and real Java brokers, as processes of the test that starts them.
//!
//! [`Peers::get`] fetches what they need by Maven, once for the whole workspace. Everything runs in temporary folders
//! and on free ports of the loopback interface, and ends with its handle, or with the test's process. Linux only.

mod artifacts;
mod java_broker;
mod java_reader;
mod process;
mod zookeeper;

use std::{
    fmt,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

pub use artifacts::Peers;
pub use java_broker::{JavaBroker, JavaBrokerBuilder};
pub use java_reader::ReadMessage;
pub use zookeeper::ZooKeeper;

impl Peers {
    /// What is needed to run real peers, or `None` where that isn't there: then a line `skipped: …` on stderr says so for
    /// `test`, and what to install.
    ///
    /// # Panics
    /// Where it isn't there and the environment variable `CI` is `true`: there nothing may be skipped.
    #[must_use]
    pub fn get(test: &str) -> Option<Self> {
        match Self::fetch() {
            Ok(peers) => Some(peers),
            Err(error) => {
                // Not by a macro, whose output the test harness would hold back.
                let _ = writeln!(io::stderr(), "skipped: {test}: {error}");
                assert!(
                    std::env::var("CI").as_deref() != Ok("true"),
                    "{test} may not be skipped here: {error}"
                );
                None
            }
        }
    }
}

/// A real peer could not be run.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// Something has to be installed first.
    #[error("{what} is missing; on Debian: apt-get install {package}")]
    #[non_exhaustive]
    Missing {
        /// What is missing.
        what: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A tool failed.
    #[error("{what} failed: {output}")]
    #[non_exhaustive]
    Tool {
        /// What it was to do.
        what: String,
        /// What it printed.
        output: String,
    },
    /// A file or a process could not be handled.
    #[error("{what}: {source}")]
    #[non_exhaustive]
    Io {
        /// What was being done.
        what: String,
        /// What went wrong.
        source: io::Error,
    },
    /// A peer did not become ready, or ended.
    #[error("{what} did not become ready within {seconds} s; the end of its log:\n{log}")]
    #[non_exhaustive]
    NotReady {
        /// Which peer.
        what: String,
        /// How long it was waited for.
        seconds: u64,
        /// The last lines of its log.
        log: String,
    },
}

/// As for people: tests show errors in this form, and a log is unreadable with its line ends escaped.
impl fmt::Debug for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PeerError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// The last lines of a log, as far as it can be read.
fn log_tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// The root of the workspace's build folder: `CARGO_TARGET_DIR`, or `target` beside this package.
fn target_folder() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
    }
}
