//! Space that is kept for the time when the disk is full: opening a folder and removing messages need some.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use super::{Change, Key, Kind};

/// The name of the file that takes it.
const FILE: &str = "reserve";

/// More than a commit takes that removes messages. The next ones find space in the file.
const BYTES: u64 = 1 << 20;

/// Takes the space, if the disk has it.
pub(super) fn keep(folder: &Path) {
    let path = folder.join(FILE);
    if fs::metadata(&path).is_ok_and(|found| found.len() == BYTES) {
        return;
    }
    let written = File::create(&path).and_then(|mut file| file.write_all(&[0; BYTES as usize]));
    if written.is_err() {
        release(folder);
    }
}

/// Gives the space back; false when there was none.
pub(super) fn release(folder: &Path) -> bool {
    fs::remove_file(folder.join(FILE)).is_ok()
}

/// Whether a commit that has failed so may take the space. New messages would use it up.
pub(super) fn is_for(error: &io::Error, changes: &[Change]) -> bool {
    let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let message = |key: &Key| (key.kind == Kind::Message).then_some(key.number);
    let removed: HashSet<_> = changes
        .iter()
        .filter_map(|change| if let Change::Remove(key) = change { message(key) } else { None })
        .collect();
    // One that is put elsewhere is not new.
    let is_new = |change: &Change| match change {
        Change::Put(key, _) => message(key).is_some_and(|number| !removed.contains(&number)),
        Change::Remove(_) => false,
    };
    is_full && !changes.iter().any(is_new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_kept_for_all_but_new_messages() {
        let folder = tempfile::tempdir().unwrap();
        keep(folder.path());
        keep(folder.path());
        assert!(release(folder.path()) && !release(folder.path()));
        let full = io::Error::new(io::ErrorKind::StorageFull, "");
        let removal = Change::Remove(Key::message(0, 1));
        let append = Change::Put(Key::message(0, 2), Vec::new());
        assert!(is_for(&full, std::slice::from_ref(&removal)) && !is_for(&full, &[removal.clone(), append]));
        let moved = Change::Put(Key::message(3, 1), Vec::new());
        assert!(is_for(&full, &[removal.clone(), moved.clone()]) && !is_for(&full, &[moved]));
        assert!(!is_for(&io::Error::other(""), &[removal]));
    }
}
