//! Looking a folder up: whether it holds a spool, single messages by their numbers, and their ages.

use std::{
    io,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{SpoolFolder, SpooledMessage, aside, waiting};
use crate::{
    SpoolId,
    clock::Clock,
    error::{OpenError, OpenErrorKind},
    store::{self, Key, files},
};

impl SpoolFolder {
    /// Returns whether a folder exists and holds a spool, which another process may use. Nothing is made or
    /// locked.
    #[must_use]
    pub fn exists(folder: impl AsRef<Path>) -> bool {
        files::is_spool(folder.as_ref())
    }

    /// Fails when a folder holds no spool, which opening its store would make.
    pub(super) fn ensure_exists(folder: &Path) -> Result<(), OpenError> {
        if let Err(error) = std::fs::read_dir(folder) {
            return Err(OpenError::io(folder, "looking into it", error));
        }
        if Self::exists(folder) {
            return Ok(());
        }
        let text = format!("it is no spool: it has no file {}; check its name", files::FILE);
        Err(OpenError::new(OpenErrorKind::NotASpool, folder, text))
    }

    /// Returns the message with a number, whether it waits or was set aside; none if the folder doesn't hold
    /// it.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn find(&self, id: SpoolId) -> io::Result<Option<SpooledMessage>> {
        for (queue, _) in self.queues.iter().filter(|(_, row)| row.messages > 0) {
            let key = Key::message(*queue, id.0);
            if let Some(row) = store::get(&*self.store, key)? {
                let bytes = row.len() as u64;
                return Ok(Some(waiting(key, row, bytes)));
            }
        }
        let key = Key::set_aside(id.0);
        let row = store::get(&*self.store, key)?;
        Ok(row.map(|row| aside(key, &row, row.len() as u64)))
    }

    /// Returns the age of a message, by the clock that limits ages (see
    /// [`max_age`](crate::SpoolOptions::max_age)); none if the message can't be read.
    #[must_use]
    pub fn age(&self, message: &SpooledMessage) -> Option<Duration> {
        message.message.as_ref().ok()?;
        let now = UNIX_EPOCH.checked_add(Clock::start(SystemTime::now, self.state.times).now())?;
        Some(now.duration_since(message.spooled_at).unwrap_or_default())
    }
}
