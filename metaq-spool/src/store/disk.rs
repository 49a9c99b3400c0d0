//! The store on disk: one table of a redb database.

use std::{
    fs::File,
    io,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{
    Builder, Database, ReadableDatabase as _, StorageBackend, TableDefinition, TableError,
    backends::FileBackend,
};

use super::{
    Change, Copying, Key, Kind, Limit, Remains, Rows, Store,
    damaged_file::{DamagedFile, read_header},
    file_backend::SpoolFile,
    file_header,
    files::{self, FILE, Replacement},
    leaf_pages, reserve, seal,
};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("spool");

/// The memory for pages of the file. More makes nothing faster: each page is read and written about once.
const CACHE_BYTES: usize = 16 << 20;

/// A store in a file.
///
/// The checksum of each row also covers its key, which is not part of the row: a row under a key that is not
/// its own is as damaged as one that was changed.
#[derive(Debug)]
pub(crate) struct DiskStore {
    path: PathBuf,
    is_forced: bool,
    /// None before it is opened, and after a failed attempt to reopen.
    database: Option<Database>,
    /// Set once it was opened.
    was_opened: bool,
    /// Shared with the open file, which writes nothing more once it is set.
    is_abandoned: Arc<AtomicBool>,
    /// Set for one that is only read, and whose rows with unreadable keys are left out.
    is_damaged: bool,
    #[cfg(test)]
    pub(crate) disk: Option<Arc<super::faulty_disk::FaultyDisk>>,
}

impl DiskStore {
    /// The store in `folder`, which is to be opened by [`reopen`](Store::reopen). `is_forced` makes each
    /// commit wait for the disk.
    pub(crate) fn new(folder: &Path, is_forced: bool) -> Self {
        Self::at(folder.join(FILE), is_forced)
    }

    /// Opens the store in `folder`, or creates it.
    #[cfg(test)]
    pub(crate) fn open(folder: &Path, is_forced: bool) -> io::Result<Self> {
        let mut this = Self::new(folder, is_forced);
        this.reopen()?;
        Ok(this)
    }

    /// Keeps space for a full disk, if there is some.
    pub(crate) fn keep_reserve(&self) {
        reserve::keep(self.folder());
    }

    fn at(path: PathBuf, is_forced: bool) -> Self {
        Self {
            path,
            is_forced,
            database: None,
            was_opened: false,
            is_abandoned: Arc::default(),
            is_damaged: false,
            #[cfg(test)]
            disk: None,
        }
    }

    /// Opens what is left of a damaged file, and returns it with whether it is that of the newest commit;
    /// none if no tree can be opened.
    fn open_damaged(path: &Path) -> io::Result<Option<(Self, bool)>> {
        let mut empty = None;
        for (file, is_newest) in DamagedFile::open(path)? {
            let Ok(database) = contained(|| open_database(file)) else { continue };
            let mut store = Self::at(path.to_owned(), false);
            (store.database, store.is_damaged) = (Some(database), true);
            // Under a wrong header there may be a tree without rows, or one that can't be read.
            match super::get(&store, Key::STATE) {
                Ok(Some(_)) => return Ok(Some((store, is_newest))),
                _ => empty = empty.or(Some((store, is_newest))),
            }
        }
        Ok(empty)
    }

    /// Closes the file, which is locked as long as it is open.
    fn close(&mut self) {
        let database = self.database.take();
        // What could not be written is left as a crash would leave it.
        let _ = contained(move || {
            drop(database);
            Ok(())
        });
    }

    /// Closes the file without another write.
    fn abandon(&mut self) {
        self.is_abandoned.store(true, Ordering::Release);
        self.close();
    }

    fn database(&self) -> io::Result<&Database> {
        self.database.as_ref().ok_or_else(|| io::Error::other("the store could not be opened again"))
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new("."))
    }

    /// Applies changes, all or none.
    fn apply(&self, changes: &[Change]) -> io::Result<()> {
        let database = self.database()?;
        contained(|| {
            let mut transaction = database.begin_write().map_err(failed)?;
            // Keeps the list of free pages in each commit: after a crash the file opens at once, without
            // reading all of it.
            transaction.set_quick_repair(true);
            {
                let mut table = transaction.open_table(TABLE).map_err(failed)?;
                let mut sealed = Vec::new();
                for change in changes {
                    match change {
                        Change::Put(key, row) => {
                            let key = key.encode();
                            sealed.clear();
                            sealed.extend_from_slice(row);
                            seal(&key, &mut sealed);
                            table.insert(&key[..], &sealed[..]).map_err(failed)?;
                        }
                        Change::Remove(key) => {
                            let removed = table.remove(&key.encode()[..]).map_err(failed)?;
                            if removed.is_none() && key.kind == Kind::Message {
                                return Err(damaged("a message that was read is not found by its key"));
                            }
                        }
                    }
                }
            }
            transaction.commit().map_err(failed)
        })
    }

    /// Whether the row about the spool, which each commit writes, is that of these changes.
    fn was_applied(&self, changes: &[Change]) -> io::Result<bool> {
        let state = changes.iter().find_map(|change| match change {
            Change::Put(Key::STATE, row) => Some(row),
            _ => None,
        });
        let stored = super::get(self, Key::STATE)?;
        Ok(state.is_some() && stored.as_ref() == state)
    }

    /// Opens the file at its path.
    fn open_file(&mut self) -> io::Result<()> {
        self.abandon();
        self.is_abandoned = Arc::default();
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&self.path)?;
        let (is_forced, is_abandoned) = (self.is_forced, Arc::clone(&self.is_abandoned));
        let is_first = !self.was_opened;
        let opened = contained(|| {
            let file = FileBackend::new(file).map_err(failed)?;
            #[cfg(test)]
            if let Some(disk) = &self.disk {
                return open_database(SpoolFile::new(disk.backend(file), is_forced, is_first, is_abandoned));
            }
            open_database(SpoolFile::new(file, is_forced, is_first, is_abandoned))
        });
        self.database = Some(opened.map_err(|error| self.classify(error))?);
        self.was_opened = true;
        Ok(())
    }

    /// Distinguishes a file of another version of the library from one that is damaged.
    fn classify(&self, error: io::Error) -> io::Error {
        let of_other_version =
            || read_header(&self.path).is_ok_and(|header| file_header::is_of_other_version(&header));
        if error.kind() == io::ErrorKind::InvalidData && of_other_version() {
            return io::Error::new(io::ErrorKind::Unsupported, error);
        }
        error
    }
}

impl Store for DiskStore {
    fn commit(&mut self, changes: &[Change]) -> io::Result<()> {
        let done = self.apply(changes);
        if let Err(error) = &done
            && reserve::is_for(error, changes)
            && reserve::release(self.folder())
        {
            self.reopen()?;
            // What becomes of a commit that was applied in spite of its error is decided elsewhere.
            return if self.was_applied(changes)? { done } else { self.apply(changes) };
        }
        done
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
                let (key, mut row) = (key.value(), value.value().to_vec());
                seal(key, &mut row);
                let key = Key::decode(key);
                let last = rows.last().map(|(key, _)| *key);
                let is_in_order = key.is_some_and(|key| range.contains(&key) && last < Some(key));
                if !is_in_order && !self.is_damaged {
                    return Err(damaged("a key is unreadable, or out of its order"));
                }
                if let Some(key) = key {
                    bytes += row.len();
                    rows.push((key, row));
                }
                if rows.len() >= limit.rows || bytes >= limit.bytes {
                    break;
                }
            }
            Ok(rows)
        })
    }

    fn reopen(&mut self) -> io::Result<()> {
        files::tidy(self.folder())?;
        self.open_file()?;
        if self.is_forced {
            files::sync_names(self.folder())?;
        }
        Ok(())
    }

    fn replace(&mut self, copy: &mut Copying<'_>) -> io::Result<PathBuf> {
        self.abandon();
        let replacement = Replacement::begin(self.folder())?;
        let damaged = Self::open_damaged(&self.path)?;
        // It is forced to the disk as a whole.
        let mut new = Self::at(replacement.path.clone(), false);
        new.open_file()?;
        let remains = Remains {
            tree: damaged.as_ref().map(|(damaged, is_newest)| (damaged as &dyn Store, *is_newest)),
            each_row: &|each| leaf_pages::each_row(&self.path, each),
        };
        copy(remains, &mut new)?;
        drop((damaged, new));
        let set_aside = replacement.finish()?;
        self.reopen()?;
        Ok(set_aside)
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.close();
    }
}

fn open_database(backend: impl StorageBackend) -> io::Result<Database> {
    Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend).map_err(failed)
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
        // The file ends where it should go on.
        redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            damaged("its end is missing")
        }
        redb::Error::Io(error) => error,
        redb::Error::Corrupted(text) => damaged(&text),
        error @ (redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }) => io::Error::new(io::ErrorKind::InvalidData, error),
        error => io::Error::other(error),
    }
}
