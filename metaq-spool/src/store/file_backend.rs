//! The file of the store, with synchronisation that can be left to the operating system.

use std::{fs::File, io};

use redb::{StorageBackend, backends::FileBackend};

/// A file whose writes are forced to the disk, or left to the operating system.
///
/// Without forcing, what was written survives the end of the process, and not that of the machine.
#[derive(Debug)]
pub(crate) struct SpoolFile {
    inner: FileBackend,
    is_forced: bool,
}

impl SpoolFile {
    pub(crate) fn new(file: File, is_forced: bool) -> Result<Self, redb::DatabaseError> {
        Ok(Self { inner: FileBackend::new(file)?, is_forced })
    }
}

impl StorageBackend for SpoolFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.is_forced { self.inner.sync_data() } else { Ok(()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}
