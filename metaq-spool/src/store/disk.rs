//! The store on disk: one table of a redb database.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{Builder, Database, ReadableDatabase as _, TableDefinition, TableError};

use super::{Change, Damaged, Key, Limit, Rows, Store, file_backend::SpoolFile};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("spool");

/// The memory for pages of the file. More makes nothing faster: each page is read and written about once.
const CACHE_BYTES: usize = 16 << 20;

/// The least length of a file of the library, or more.
const SHORTEST: u64 = 4 << 20;

/// The name of the file in the spool's folder.
pub(crate) const FILE: &str = "spool.redb";

/// A store in a file.
#[derive(Debug)]
pub(crate) struct DiskStore {
    path: PathBuf,
    is_forced: bool,
    /// None after a failed attempt to reopen.
    database: Option<Database>,
}

impl DiskStore {
    /// Opens the store in `folder`, or creates it. `is_forced` makes each commit wait for the disk.
    pub(crate) fn open(folder: &Path, is_forced: bool) -> io::Result<Self> {
        let path = folder.join(FILE);
        let mut this = Self { path, is_forced, database: None };
        this.reopen()?;
        this.sync_names()?;
        Ok(this)
    }

    /// Makes the names of the folder and of its files survive a loss of power, if commits do.
    fn sync_names(&self) -> io::Result<()> {
        if !self.is_forced {
            return Ok(());
        }
        let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
        sync_folder(folder)?;
        folder.canonicalize()?.parent().map_or(Ok(()), sync_folder)
    }

    /// Opens a file that [`open`](Self::open) could not open, to read what is left of it. One that was cut is
    /// made longer.
    pub(crate) fn open_damaged(path: &Path) -> io::Result<Self> {
        let file = File::options().write(true).open(path)?;
        let len = file.metadata()?.len();
        file.set_len(len.saturating_mul(2).max(SHORTEST))?;
        let mut this = Self { path: path.to_owned(), is_forced: false, database: None };
        this.reopen()?;
        Ok(this)
    }

    /// Renames a file that can't be read, so that a new one can take its place.
    pub(crate) fn set_damaged_file_aside(folder: &Path) -> io::Result<PathBuf> {
        let names = (1_u32..).map(|n| folder.join(format!("damaged-{n}.redb")));
        let free = names.into_iter().find(|name| !name.exists());
        let target = free.ok_or_else(|| io::Error::other("no name is free for the damaged file"))?;
        fs::rename(folder.join(FILE), &target)?;
        Ok(target)
    }

    /// Closes the file, which is locked as long as it is open.
    fn close(&mut self) -> io::Result<()> {
        let database = self.database.take();
        contained(move || {
            drop(database);
            Ok(())
        })
    }

    fn database(&self) -> io::Result<&Database> {
        self.database.as_ref().ok_or_else(|| io::Error::other("the store could not be opened again"))
    }
}

impl Store for DiskStore {
    fn commit(&mut self, changes: &[Change]) -> io::Result<()> {
        let database = self.database()?;
        contained(|| {
            let mut transaction = database.begin_write().map_err(failed)?;
            // Keeps the list of free pages in each commit: after a crash the file opens at once, without
            // reading all of it.
            transaction.set_quick_repair(true);
            {
                let mut table = transaction.open_table(TABLE).map_err(failed)?;
                for change in changes {
                    match change {
                        Change::Put(key, row) => {
                            table.insert(&key.encode()[..], &row[..]).map_err(failed)?;
                        }
                        Change::Remove(key) => {
                            table.remove(&key.encode()[..]).map_err(failed)?;
                        }
                    }
                }
            }
            transaction.commit().map_err(failed)
        })
    }

    fn scan(&self, range: Range<Key>, limit: Limit) -> io::Result<Rows> {
        let database = self.database()?;
        contained(|| {
            let transaction = database.begin_read().map_err(failed)?;
            let table = match transaction.open_table(TABLE) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(error) => return Err(failed(error)),
            };
            let (start, end) = (range.start.encode(), range.end.encode());
            let (mut rows, mut bytes) = (Rows::new(), 0);
            for row in table.range::<&[u8]>(&start[..]..&end[..]).map_err(failed)? {
                let (key, value) = row.map_err(failed)?;
                let key = Key::decode(key.value()).ok_or_else(|| damaged("a key is unreadable"))?;
                bytes += value.value().len();
                rows.push((key, value.value().to_vec()));
                if rows.len() >= limit.rows || bytes >= limit.bytes {
                    break;
                }
            }
            Ok(rows)
        })
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.close()?;
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&self.path)?;
        let is_forced = self.is_forced;
        let opened = contained(|| {
            let backend = SpoolFile::new(file, is_forced).map_err(failed)?;
            Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend).map_err(failed)
        })?;
        self.database = Some(opened);
        Ok(())
    }

    fn begin_anew(&mut self) -> io::Result<Option<Damaged>> {
        // What closing writes is of no use any more.
        let _ = self.close();
        let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
        let renamed = Self::set_damaged_file_aside(folder)?;
        self.reopen()?;
        self.sync_names()?;
        let damaged = Self::open_damaged(&renamed).map(|damaged| Box::new(damaged) as Box<dyn Store>);
        Ok(Some(Damaged { path: renamed, store: damaged }))
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        // No caller is left to report it to.
        let _ = self.close();
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Not every file system can, and not every parent may be read.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
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

/// Runs code that reads the file: the library checks much of it by assertions.
fn contained<T>(code: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(code))
        .unwrap_or_else(|_| Err(damaged("reading it failed an assertion of the database library")))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn failed(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        // A later version of the library has written the file.
        redb::Error::Corrupted(text) if text.contains("file format version") => {
            io::Error::new(io::ErrorKind::Unsupported, text)
        }
        redb::Error::Corrupted(text) => damaged(&text),
        error @ redb::Error::UpgradeRequired(_) => io::Error::new(io::ErrorKind::Unsupported, error),
        error @ (redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }) => io::Error::new(io::ErrorKind::InvalidData, error),
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_of_another_version_is_no_damage() {
        let newer = redb::Error::Corrupted("Expected file format version <= 3, found 9".to_owned());
        for error in [newer, redb::Error::UpgradeRequired(1)] {
            assert_eq!(failed(error).kind(), io::ErrorKind::Unsupported);
        }
        let corrupted = redb::Error::Corrupted("a page".to_owned());
        assert_eq!(failed(corrupted).kind(), io::ErrorKind::InvalidData);
    }
}
