//! Opening a folder: its lock, its file, and a new file if that is damaged.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    salvage::{Known, Saved, replace_damaged},
    writer::open::{Found, find},
};
use crate::{
    clock::Clock,
    error::{OpenError, OpenErrorKind},
    events::SpoolEvent,
    lock::{FolderLock, LockError},
    options::SpoolOptions,
    store::{Store, disk::DiskStore},
};

/// A file that was set aside.
pub(crate) struct Renamed {
    path: PathBuf,
    reason: String,
    /// The messages that were saved.
    salvaged: u64,
}

impl Renamed {
    pub(super) fn into_event(self) -> SpoolEvent {
        let Self { path, reason, salvaged } = self;
        SpoolEvent::FileSetAside { path, reason, salvaged }
    }
}

/// A folder that is locked, its store with what that holds, and the file that was set aside for that.
pub(crate) type Opened = (FolderLock, Box<dyn Store>, Found, Option<Renamed>);

/// Locks the folder and opens its file. One that is damaged is renamed, and a new one takes its place, with
/// the messages that could be saved, if `replaces_damaged` is set.
pub(crate) fn open_folder(
    folder: &Path,
    is_forced: bool,
    replaces_damaged: bool,
) -> Result<Opened, OpenError> {
    fs::create_dir_all(folder).map_err(|error| OpenError::io(folder, "making the folder", error))?;
    let lock = FolderLock::acquire(folder).map_err(|error| match error {
        LockError::InUse(pid) => OpenError::in_use(folder, pid),
        LockError::Io(error) => OpenError::io(folder, "locking it", error),
    })?;
    let mut store = DiskStore::new(folder, is_forced);
    match store.reopen().and_then(|()| find(&store)) {
        Ok(found) => {
            store.keep_reserve();
            Ok((lock, Box::new(store), found, None))
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData && !replaces_damaged => {
            let text = format!("its file is damaged: {error}; a producer saves what it can when it opens it");
            Err(OpenError::new(OpenErrorKind::Io, folder, text))
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let (found, renamed) = replace(folder, &mut store, &error)?;
            Ok((lock, Box::new(store), found, Some(renamed)))
        }
        Err(error) => Err(failed(folder, "reading it", error)),
    }
}

fn replace(folder: &Path, store: &mut dyn Store, error: &io::Error) -> Result<(Found, Renamed), OpenError> {
    let Saved { path, salvaged, found } = replace_damaged(store, &Known::default())
        .map_err(|error| failed(folder, "saving messages of its damaged file", error))?;
    Ok((found, Renamed { path, reason: error.to_string(), salvaged }))
}

/// What an earlier process has left, the clock that goes on from there, and a file that was set aside.
pub(super) type TakenUp = (Found, Clock, Option<Renamed>);

/// Marks a store as in use. `found` is what it holds, if that was read.
pub(super) fn take_up(
    options: &SpoolOptions,
    store: &mut dyn Store,
    found: Option<Found>,
) -> Result<TakenUp, OpenError> {
    let folder = &options.folder;
    let window = options.replay_window as u64;
    let found = match found {
        Some(found) => found,
        None => find(store).map_err(|error| failed(folder, "reading it", error))?,
    };
    let begin = |store: &mut dyn Store, mut found: Found| {
        let clock = Clock::start(options.wall_clock, found.state.times);
        found.take_up(store, &clock, window).map(|()| (found, clock))
    };
    match begin(store, found) {
        Ok((found, clock)) => Ok((found, clock, None)),
        // What reading doesn't need may be damaged as well.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let (found, renamed) = replace(folder, store, &error)?;
            let begun = begin(store, found).map_err(|error| failed(folder, "writing to it", error))?;
            Ok((begun.0, begun.1, Some(renamed)))
        }
        Err(error) => Err(failed(folder, "writing to it", error)),
    }
}

fn failed(folder: &Path, action: &str, error: io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::Unsupported => {
            let text = format!("it can't be read: {error}; use the version of metaq that wrote it");
            OpenError::new(OpenErrorKind::Version, folder, text)
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let error = io::Error::new(
                error.kind(),
                format!("{error}; free some space on its disk, or move the folder to another one"),
            );
            OpenError::io(folder, action, error)
        }
        _ => OpenError::io(folder, action, error),
    }
}
