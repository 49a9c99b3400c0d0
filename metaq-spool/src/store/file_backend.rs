//! The file of the store as the library reads and writes it.

use std::{
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{StorageBackend, backends::FileBackend};

use super::file_header;

/// A file whose writes are forced to the disk, or left to the operating system.
///
/// Without forcing, what was written survives the end of the process, and not that of the machine.
#[derive(Debug)]
pub(crate) struct SpoolFile {
    inner: FileBackend,
    is_forced: bool,
    /// Set when nothing more is to be written: what closing writes would be computed from a damaged file, or
    /// from one that could not be written.
    is_abandoned: Arc<AtomicBool>,
}

impl SpoolFile {
    pub(crate) fn new(
        file: File,
        is_forced: bool,
        is_abandoned: Arc<AtomicBool>,
    ) -> Result<Self, redb::DatabaseError> {
        Ok(Self { inner: FileBackend::new(file)?, is_forced, is_abandoned })
    }

    fn ensure_used(&self) -> io::Result<()> {
        if self.is_abandoned.load(Ordering::Acquire) {
            return Err(io::Error::other("the file was given up after an error"));
        }
        Ok(())
    }
}

impl StorageBackend for SpoolFile {
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
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.ensure_used()?;
        if self.is_forced { self.inner.sync_data() } else { Ok(()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.ensure_used()?;
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}
