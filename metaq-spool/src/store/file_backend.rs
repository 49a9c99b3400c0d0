//! The file of the store as the library reads and writes it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::StorageBackend;

use super::file_header;

/// A file whose writes are forced to the disk, or left to the operating system.
///
/// Without forcing, what was written survives the end of the process, and not that of the machine.
///
/// Opening a file writes its header, which says nothing new, and has it synchronised. That is left to the
/// first commit: before it there is nothing that has to be on the disk. It would take as long as the disk
/// takes for all that an earlier process has left with the operating system.
#[derive(Debug)]
pub(crate) struct SpoolFile<B> {
    inner: B,
    is_forced: bool,
    /// Set once more than the header was written.
    has_changed: AtomicBool,
    /// Set when nothing more is to be written: what closing writes would be computed from a damaged file, or
    /// from one that could not be written.
    is_abandoned: Arc<AtomicBool>,
}

impl<B: StorageBackend> SpoolFile<B> {
    /// `is_first` is set unless the process has written to the file before: after a failure the header of the
    /// last commit may not be on the disk.
    pub(crate) fn new(inner: B, is_forced: bool, is_first: bool, is_abandoned: Arc<AtomicBool>) -> Self {
        Self { inner, is_forced, has_changed: (!is_first).into(), is_abandoned }
    }

    fn ensure_used(&self) -> io::Result<()> {
        if self.is_abandoned.load(Ordering::Acquire) {
            return Err(io::Error::other("the file was given up after an error"));
        }
        Ok(())
    }
}

impl<B: StorageBackend> StorageBackend for SpoolFile<B> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)?;
        file_header::have_checked(offset, out);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.ensure_used()?;
        self.has_changed.store(true, Ordering::Release);
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.ensure_used()?;
        if self.is_forced && self.has_changed.load(Ordering::Acquire) {
            self.inner.sync_data()
        } else {
            Ok(())
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.ensure_used()?;
        if offset != 0 {
            self.has_changed.store(true, Ordering::Release);
        }
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}
