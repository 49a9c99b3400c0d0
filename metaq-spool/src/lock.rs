//! The lock of a spool's folder, which one process has at a time.

use std::{
    fs::{File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::Path,
};

/// The name of the lock's file.
const FILE: &str = "lock";

/// A folder that is locked until this is dropped, or the process ends.
#[derive(Debug)]
pub(crate) struct FolderLock {
    /// The operating system's lock is the open file's.
    _file: File,
}

/// Why a folder is not locked.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another one has it: the number of that process, if it has written it.
    InUse(Option<u32>),
    Io(io::Error),
}

impl FolderLock {
    /// Locks the folder, which must exist, and writes the number of this process into its file.
    pub(crate) fn acquire(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(FILE);
        let open = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = open.map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::InUse(read_pid(&mut file))),
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        write_pid(&mut file).map_err(LockError::Io)?;
        Ok(Self { _file: file })
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    // Written before it is cut: on a full disk the old content may be all that there is space for.
    let line = format!("{}\n", std::process::id());
    file.rewind()?;
    match file.write_all(line.as_bytes()).and_then(|()| file.set_len(line.len() as u64)) {
        // The number only helps the reader of an error.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
        done => done,
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_learns_who_has_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::acquire(folder.path()).unwrap();
        match FolderLock::acquire(folder.path()) {
            Err(LockError::InUse(pid)) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(first);
        FolderLock::acquire(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_that_is_missing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        assert!(matches!(FolderLock::acquire(&missing), Err(LockError::Io(_))));
    }
}
