//! The contents of a broker's data folder besides partitions, and the claim to the folder: two brokers never
//! write to it at the same time.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

/// The folder in a data folder that holds the embedded broker's own files. It is named like a partition, so
/// that a Java broker takes it for one of an empty topic: with anything else in its `dataPath`, it leaves out
/// some partitions.
pub(super) const OWN_FOLDER: &str = "embedded.metaq-0";

/// The lock file. Its first line names the broker that holds the lock, its second line is the first count of
/// ids of that broker.
const LOCK_FILE: &str = "lock";

/// The number of ids that one broker may issue: the next one on its folder begins behind them.
const IDS_PER_RUN: i64 = 1 << 32;

/// Returns the path of one of the embedded broker's own files.
pub(in crate::broker) fn own_file(data_folder: &Path, name: &str) -> PathBuf {
    data_folder.join(OWN_FOLDER).join(name)
}

/// A data folder that belongs to this broker until this is dropped.
#[derive(Debug)]
pub(super) struct FolderClaim {
    file: File,
    owner: String,
    /// The lowest count of ids that no former broker has issued; none in a new folder.
    unused_ids: Option<i64>,
}

impl FolderClaim {
    /// Claims the folder, creating it if there is none. The error names the owner of a claimed folder.
    pub(super) fn new(folder: &Path, owner: &str) -> io::Result<Self> {
        fs::create_dir_all(folder.join(OWN_FOLDER))?;
        let path = own_file(folder, LOCK_FILE);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let locked = file.try_lock();
        let mut text = String::new();
        let read = file.read_to_string(&mut text);
        let mut lines = text.lines();
        let former = lines.next();
        match locked {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => {
                let text = format!("it is in use by {}", former.unwrap_or("another broker"));
                return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
            }
        }
        read?;
        let first = lines.next().and_then(|line| line.parse::<i64>().ok());
        let unused_ids = first.map(|first| first.saturating_add(IDS_PER_RUN));
        let claim = Self { file, owner: owner.to_owned(), unused_ids };
        // The error of a broker that is refused from now on names this owner.
        claim.write(unused_ids.unwrap_or(i64::MIN))?;
        Ok(claim)
    }

    /// Chooses the first count of ids: one that no former broker on this folder has reached, and at least
    /// `lowest`.
    pub(super) fn first_id(&self, lowest: i64) -> io::Result<i64> {
        let first = self.unused_ids.map_or(lowest, |unused| unused.max(lowest));
        self.write(first)?;
        Ok(first)
    }

    fn write(&self, first_id: i64) -> io::Result<()> {
        let text = format!("{}\n{first_id}\n", self.owner);
        let mut file = &self.file;
        file.rewind()?;
        // Not truncated first: a process that is killed in between leaves one of the two texts.
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)
    }
}
