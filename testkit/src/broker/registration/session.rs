//! The calls that a registry offers to a broker that registers.

use std::{io, time::Duration};

use async_trait::async_trait;

/// The time that the first registration may take on top of the session timeout.
pub(super) const REGISTER_TIMEOUT: Duration = Duration::from_secs(15);

/// A session with a registry. An error means that the session is of no more use.
#[async_trait]
pub(super) trait Session: Send + Sync {
    /// The number by which the registry knows the session.
    fn number(&self) -> i64;

    /// Creates an entry that goes with the session, and the path to it. An entry that is not this session's is left alone
    /// and returned.
    async fn create(&self, path: &str, text: &str) -> io::Result<Option<ExistingEntry>>;

    /// Waits until the entry of an occupant is gone, or another's.
    async fn wait_until_gone(&self, path: &str, existing: &ExistingEntry) -> io::Result<()>;

    /// Creates or changes an entry that stays, and returns its version. Fails when the entry `held` is no longer this
    /// session's.
    async fn write(&self, path: &str, text: &str, held: &str) -> io::Result<i64>;

    /// Removes an entry of this session; it is no error when there is none, or another's.
    async fn remove(&self, path: &str) -> io::Result<()>;

    /// Removes an entry that stays, or empties it when others lie below it (registry §20), unless it has another version.
    async fn remove_or_empty(&self, path: &str, version: i64) -> io::Result<()>;

    /// Returns once the session has ended.
    async fn wait_until_ended(&self);

    /// Ends the session, and what still goes with it.
    async fn end(&self) -> io::Result<()>;
}

/// The owner of an entry that was to be created.
#[derive(Debug)]
pub(super) struct ExistingEntry {
    /// The number of its session; none when the entry stays without one.
    pub(super) session: Option<i64>,
    pub(super) text: String,
    /// The time within which the entry goes if its owner lives no more.
    pub(super) max_lifetime: Duration,
    /// The time at which the registry was read.
    pub(super) revision: i64,
}
