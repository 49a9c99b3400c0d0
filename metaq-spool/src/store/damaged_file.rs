//! A damaged file, which is read and never changed.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use parking_lot::Mutex;
use redb::StorageBackend;

use super::file_header;

/// What is written is kept in blocks of this length.
const BLOCK: u64 = 4096;

/// The least length of a file of the library, or more.
const SHORTEST: u64 = 4 << 20;

/// A damaged file as the library sees it: what the library writes stays in memory, and behind the end of a
/// file that was cut there are zeros.
#[derive(Debug)]
pub(super) struct DamagedFile(Mutex<State>);

#[derive(Debug)]
struct State {
    file: File,
    file_len: u64,
    len: u64,
    written: BTreeMap<u64, Vec<u8>>,
    /// Set while the header is that of the file.
    has_own_header: bool,
}

impl DamagedFile {
    /// The same file under its own header, and under each one that it may have had, with whether that is of
    /// the newest commit.
    pub(super) fn open(path: &Path) -> io::Result<Vec<(Self, bool)>> {
        let header = read_header(path)?;
        let file_len = path.metadata()?.len();
        let len = file_header::described_len(&header).unwrap_or(0).max(file_len).max(SHORTEST);
        let len = len.next_multiple_of(BLOCK);
        let repaired = file_header::repaired(&header, len).into_iter();
        let headers =
            [(None, true)].into_iter().chain(repaired.map(|(header, newest)| (Some(header), newest)));
        let open = |(header, is_newest): (Option<[u8; file_header::LEN]>, bool)| {
            let file = File::open(path)?;
            let has_own_header = header.is_none();
            let mut state = State { file, file_len, len, written: BTreeMap::new(), has_own_header };
            if let Some(header) = header {
                state.write(0, &header)?;
            }
            Ok((Self(Mutex::new(state)), is_newest))
        };
        headers.map(open).collect()
    }
}

/// The header of a file, with zeros for what is missing.
pub(super) fn read_header(path: &Path) -> io::Result<[u8; file_header::LEN]> {
    let mut bytes = Vec::new();
    File::open(path)?.take(file_header::LEN as u64).read_to_end(&mut bytes)?;
    bytes.resize(file_header::LEN, 0);
    let mut header = [0; file_header::LEN];
    header.copy_from_slice(&bytes);
    Ok(header)
}

impl State {
    fn block(&mut self, block: u64) -> io::Result<Vec<u8>> {
        if let Some(written) = self.written.get(&block) {
            return Ok(written.clone());
        }
        let mut bytes = Vec::with_capacity(BLOCK as usize);
        if block * BLOCK < self.file_len {
            self.file.seek(SeekFrom::Start(block * BLOCK))?;
            (&self.file).take(BLOCK).read_to_end(&mut bytes)?;
        }
        bytes.resize(BLOCK as usize, 0);
        Ok(bytes)
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let block = self.block(at / BLOCK)?;
            let from = &block[(at % BLOCK) as usize..];
            let count = from.len().min(out.len() - done);
            out[done..done + count].copy_from_slice(&from[..count]);
            done += count;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let mut block = self.block(at / BLOCK)?;
            let into = &mut block[(at % BLOCK) as usize..];
            let count = into.len().min(data.len() - done);
            into[..count].copy_from_slice(&data[done..done + count]);
            self.written.insert(at / BLOCK, block);
            done += count;
        }
        self.len = self.len.max(offset + data.len() as u64);
        Ok(())
    }
}

impl StorageBackend for DamagedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.read(offset, out)?;
        if state.has_own_header {
            file_header::have_checked(offset, out);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.lock().write(offset, data)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_written_or_missing_is_read_and_the_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let bytes: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let file = DamagedFile::open(&path).unwrap().remove(0).0;
        file.write(4090, &[7; 20]).unwrap();
        let mut read = vec![1; 12_000];
        file.read(0, &mut read).unwrap();
        let mut expected = bytes.clone();
        expected.resize(12_000, 0);
        expected[4090..4110].fill(7);
        assert!(read == expected && file.len().unwrap() >= SHORTEST);
        assert!(fs::read(&path).unwrap() == bytes, "it is not changed");
    }
}
