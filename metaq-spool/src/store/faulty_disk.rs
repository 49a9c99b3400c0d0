//! A disk that fails to synchronise, and forgets what it did not, for tests.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use redb::StorageBackend;

/// The unit of what reaches the disk.
const PAGE: u64 = 4096;

/// What is on the disk, beside the file, which shows what is in the cache of the operating system.
///
/// A synchronisation that fails leaves some pages unwritten, and forgets that they are: the next one that
/// works doesn't write them. That is what Linux does.
#[derive(Debug, Default)]
pub(crate) struct FaultyDisk {
    on_disk: Mutex<Vec<u8>>,
    unwritten: Mutex<BTreeSet<u64>>,
    pub(crate) syncs: AtomicU64,
    /// The synchronisations until one fails; zero for none.
    pub(crate) fails_after: AtomicU64,
    /// The chance that one fails, in a thousand.
    pub(crate) failing: AtomicU64,
}

/// The file on such a disk.
#[derive(Debug)]
pub(super) struct FaultyFile<B> {
    inner: B,
    disk: Arc<FaultyDisk>,
}

impl FaultyDisk {
    /// A disk with a file of which an earlier process has left everything on the disk, or with the operating
    /// system.
    pub(crate) fn with(file: &Path, is_on_disk: bool) -> Arc<Self> {
        let bytes = fs::read(file).unwrap();
        let disk = Self::default();
        if is_on_disk {
            *disk.on_disk.lock() = bytes;
        } else {
            disk.unwritten.lock().extend(0..(bytes.len() as u64).div_ceil(PAGE));
        }
        Arc::new(disk)
    }

    pub(super) fn backend<B: StorageBackend>(self: &Arc<Self>, inner: B) -> FaultyFile<B> {
        FaultyFile { inner, disk: Arc::clone(self) }
    }

    /// Writes what a loss of power leaves of the file: what reached the disk, and any of what was not
    /// synchronised.
    pub(crate) fn lose_power(&self, file: &Path, left: &Path) {
        let cached = fs::read(file).unwrap();
        let mut on_disk = self.on_disk.lock().clone();
        for page in self.unwritten.lock().iter().filter(|_| fastrand::bool()) {
            copy(&cached, &mut on_disk, *page);
        }
        fs::write(left, on_disk).unwrap();
    }

    fn sync(&self, cached: &[u8]) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        let is_counted =
            self.fails_after.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        let fails = is_counted == Ok(1) || fastrand::u64(..1000) < self.failing.load(Ordering::Relaxed);
        let mut on_disk = self.on_disk.lock();
        for page in std::mem::take(&mut *self.unwritten.lock()) {
            if !fails || fastrand::bool() {
                copy(cached, &mut on_disk, page);
            }
        }
        if fails { Err(io::Error::other("the disk has failed")) } else { Ok(()) }
    }
}

fn copy(from: &[u8], to: &mut Vec<u8>, page: u64) {
    let start = ((page * PAGE) as usize).min(from.len());
    let end = (start + PAGE as usize).min(from.len());
    to.resize(to.len().max(end), 0);
    to[start..end].copy_from_slice(&from[start..end]);
}

impl<B: StorageBackend> StorageBackend for FaultyFile<B> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)?;
        // The length is with the file system, which keeps it.
        self.disk.on_disk.lock().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut cached = vec![0; self.inner.len()? as usize];
        self.inner.read(0, &mut cached)?;
        self.inner.sync_data()?;
        self.disk.sync(&cached)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)?;
        let pages = offset / PAGE..(offset + data.len() as u64).div_ceil(PAGE);
        self.disk.unwritten.lock().extend(pages);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}
