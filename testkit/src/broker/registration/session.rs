//! The calls of a registry for a broker that registers.

use std::{io, time::Duration};

use async_trait::async_trait;

/// The time that the first registration may take in addition to the session timeout.
pub(super) const REGISTER_TIMEOUT: Duration = Duration::from_secs(15);

/// A session with a registry. After an error the session is of no more use.
#[async_trait]
pub(super) trait Session: Send + Sync {
    /// Returns the number of the session in the registry.
    fn number(&self) -> i64;

    /// Creates an entry that is bound to the session, and its parents. Leaves an entry of another session
    /// alone and returns it.
    async fn create(&self, path: &str, text: &str) -> io::Result<Option<ExistingEntry>>;

    /// Waits until an existing entry is removed, or belongs to another session.
    async fn wait_until_gone(&self, path: &str, existing: &ExistingEntry) -> io::Result<()>;

    /// Creates or changes a permanent entry, and returns its version. Fails when the entry `held` no longer
    /// belongs to this session.
    async fn write(&self, path: &str, text: &str, held: &str) -> io::Result<i64>;

    /// Removes an entry of this session. Succeeds if there is none, or another session's.
    async fn remove(&self, path: &str) -> io::Result<()>;

    /// Removes a permanent entry, or empties it when others lie below it (registry §20), unless it has
    /// another version.
    async fn remove_or_empty(&self, path: &str, version: i64) -> io::Result<()>;

    /// Waits until the session has ended.
    async fn wait_until_ended(&self);

    /// Ends the session, which removes the entries that are bound to it.
    async fn end(&self) -> io::Result<()>;
}

/// An entry of another session where one was to be created.
#[derive(Debug)]
pub(super) struct ExistingEntry {
    /// The number of its session; none for a permanent entry.
    pub(super) session: Option<i64>,
    pub(super) text: String,
    /// The time within which the entry expires if its owner is dead.
    pub(super) max_lifetime: Duration,
    /// The revision at which the registry was read.
    pub(super) revision: i64,
}
