//! The files in a spool's folder, and what makes their names survive a loss of power.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// The name of the file in the spool's folder.
pub(crate) const FILE: &str = "spool.redb";

/// The name of the file that is to replace a damaged one, while it is written.
const NEW: &str = "spool.redb.new";

/// Whether a folder holds a spool's file, or that which is to take its place.
pub(crate) fn is_spool(folder: &Path) -> bool {
    folder.join(FILE).is_file() || folder.join(NEW).is_file()
}

/// The file that replaces the one at hand, which is damaged.
///
/// It gets its place when it is complete and on the disk. So one that is found beside the other is a
/// beginning whose process has ended, and one that is found alone is complete.
pub(super) struct Replacement {
    folder: PathBuf,
    pub(super) path: PathBuf,
    is_used: bool,
}

impl Replacement {
    pub(super) fn begin(folder: &Path) -> io::Result<Self> {
        let path = folder.join(NEW);
        remove_if_there(&path)?;
        Ok(Self { folder: folder.to_owned(), path, is_used: false })
    }

    /// Renames the damaged file, and puts this one in its place. Returns the new name of the damaged one.
    pub(super) fn finish(mut self) -> io::Result<PathBuf> {
        File::open(&self.path)?.sync_all()?;
        sync_folder(&self.folder)?;
        let names = (1_u32..).map(|n| self.folder.join(format!("damaged-{n}.redb")));
        let free = names.into_iter().find(|name| !name.exists());
        let target = free.ok_or_else(|| io::Error::other("no name is free for the damaged file"))?;
        fs::rename(self.folder.join(FILE), &target)?;
        // From now on it is the only one: `tidy` would do what follows.
        self.is_used = true;
        tidy(&self.folder)?;
        sync_folder(&self.folder)?;
        Ok(target)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.is_used {
            // The space that it takes is needed. Otherwise the next one removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Ends what a process has begun that replaced a damaged file and was killed.
pub(super) fn tidy(folder: &Path) -> io::Result<()> {
    let (file, new) = (folder.join(FILE), folder.join(NEW));
    if file.exists() { remove_if_there(&new) } else { rename_if_there(&new, &file) }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    ignore_missing(fs::remove_file(path))
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    ignore_missing(fs::rename(from, to))
}

fn ignore_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Makes the names of the files in a folder, and those of the folder and of all that it is in, survive a loss
/// of power.
pub(super) fn sync_names(folder: &Path) -> io::Result<()> {
    folder.canonicalize()?.ancestors().try_for_each(sync_folder)
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Not every file system can, and not every parent may be read.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput
                    | io::ErrorKind::Unsupported
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Ok(())
        }
        done => done,
    }
}

/// Folders can't be opened as files.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(folder: &Path, name: &str) -> Option<String> {
        fs::read_to_string(folder.join(name)).ok()
    }

    #[test]
    fn a_replacement_takes_the_place_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::write(folder.join(FILE), "old").unwrap();
        // The process ends before it is complete.
        fs::write(folder.join(NEW), "beginning").unwrap();
        tidy(folder).unwrap();
        assert_eq!((read(folder, FILE), read(folder, NEW)), (Some("old".to_owned()), None));
        let replacement = Replacement::begin(folder).unwrap();
        fs::write(&replacement.path, "beginning").unwrap();
        drop(replacement);
        assert_eq!((read(folder, FILE), read(folder, NEW)), (Some("old".to_owned()), None));
        let replacement = Replacement::begin(folder).unwrap();
        fs::write(&replacement.path, "new").unwrap();
        assert_eq!(replacement.finish().unwrap(), folder.join("damaged-1.redb"));
        assert_eq!(
            (read(folder, FILE), read(folder, "damaged-1.redb")),
            (Some("new".to_owned()), Some("old".to_owned()))
        );
        // The process ends between both renames.
        fs::rename(folder.join(FILE), folder.join(NEW)).unwrap();
        tidy(folder).unwrap();
        assert_eq!((read(folder, FILE), read(folder, NEW)), (Some("new".to_owned()), None));
        tidy(folder).unwrap();
    }

    #[test]
    fn the_names_of_folders_above_are_synchronised_too() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        assert!(sync_names(&deep).is_err());
        fs::create_dir_all(&deep).unwrap();
        sync_names(&deep).unwrap();
    }
}
