//! One segment of a partition's log: in memory, or a file in a Java broker's format.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::{Bytes, BytesMut};
use metaq_protocol::Checksum;

/// The size of a piece of memory: a long log grows by pieces, without being copied.
const CHUNK: usize = 1 << 20;

/// The suffix of segment files.
const SUFFIX: &str = ".meta";

/// The length of the fixed part of a stored message (protocol §8).
const HEADER_LEN: u64 = 20;

/// The number of files that stay open in this process between appends. Further segments open theirs for each
/// append.
const MAX_OPEN_FILES: usize = 32;

static OPEN_FILES: AtomicUsize = AtomicUsize::new(0);

/// A file that counts as open.
#[derive(Debug)]
struct OpenFile(File);

impl OpenFile {
    fn new(path: &Path, create: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)?;
        OPEN_FILES.fetch_add(1, Ordering::Relaxed);
        Ok(Self(file))
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        OPEN_FILES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A part of a log, from the offset `start` on.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) len: u64,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    /// Each chunk with its position in the segment.
    Memory(Vec<(u64, BytesMut)>),
    /// The file is opened when it is needed. It stays open until the segment is [sealed](Segment::seal), or
    /// too many files are open.
    File { path: PathBuf, open: Option<OpenFile> },
}

/// A summary of the messages of segments, up to the first invalid one.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) messages: u64,
    /// The end of the last valid message of a segment.
    pub(super) valid_len: u64,
    pub(super) highest_id: Option<i64>,
}

impl Segment {
    pub(super) fn in_memory(start: u64) -> Self {
        Self { start, len: 0, storage: Storage::Memory(Vec::new()) }
    }

    /// Creates a file in the folder of a partition.
    pub(super) fn create(folder: &Path, start: u64) -> io::Result<Self> {
        let path = file_name(folder, start);
        let file = OpenFile::new(&path, true)?;
        let len = file.0.metadata()?.len();
        Ok(Self { start, len, storage: Storage::File { path, open: Some(file) } })
    }

    /// Opens all segments in the folder of a partition, in order, and closes their files again. Truncates the
    /// last one behind its last valid message, as a Java broker does. Also returns a summary of their
    /// messages.
    pub(super) fn open_all(folder: &Path) -> io::Result<(Vec<Self>, Contents)> {
        let mut starts = Vec::new();
        for entry in folder.read_dir()? {
            let name = entry?.file_name();
            let start = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            starts.extend(start.and_then(|start| start.parse::<u64>().ok()));
        }
        starts.sort_unstable();
        let mut segments = Vec::with_capacity(starts.len());
        let mut all = Contents::default();
        for (n, &start) in starts.iter().enumerate() {
            let path = file_name(folder, start);
            let len = fs::metadata(&path)?.len();
            let mut segment = Self { start, len, storage: Storage::File { path, open: None } };
            let contents = segment.contents()?;
            if n + 1 == starts.len() && contents.valid_len < len {
                segment.cut(contents.valid_len)?;
            }
            segment.seal();
            all.messages += contents.messages;
            all.highest_id = all.highest_id.max(contents.highest_id);
            segments.push(segment);
        }
        if let Some(gap) = segments.windows(2).find(|pair| pair[0].start + pair[0].len != pair[1].start) {
            let text = format!("the segments in {} leave a gap before {}", folder.display(), gap[1].start);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok((segments, all))
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        if let Storage::File { path, open } = &mut self.storage {
            open_file(path, open)?.set_len(len)?;
        }
        self.len = len;
        Ok(())
    }

    /// Closes its file. Later reads and writes open it again.
    pub(super) fn seal(&mut self) {
        if let Storage::File { open, .. } = &mut self.storage {
            *open = None;
        }
    }

    /// Closes its file if too many are open.
    pub(super) fn close_if_too_many_open(&mut self) {
        if OPEN_FILES.load(Ordering::Relaxed) > MAX_OPEN_FILES {
            self.seal();
        }
    }

    pub(super) fn end_offset(&self) -> u64 {
        self.start + self.len
    }

    /// Appends the bytes that `write` writes, about `len`.
    pub(super) fn append(&mut self, len: usize, write: impl FnOnce(&mut BytesMut)) -> io::Result<()> {
        match &mut self.storage {
            Storage::Memory(chunks) => {
                let full = |chunk: &BytesMut| !chunk.is_empty() && chunk.len() + len > CHUNK;
                if chunks.last().is_none_or(|(_, chunk)| full(chunk)) {
                    chunks.push((self.len, BytesMut::new()));
                }
                if let Some((_, chunk)) = chunks.last_mut() {
                    let before = chunk.len();
                    write(chunk);
                    self.len += (chunk.len() - before) as u64;
                }
            }
            Storage::File { path, open } => {
                let mut bytes = BytesMut::with_capacity(len);
                write(&mut bytes);
                let file = open_file(path, open)?;
                // Not at the end of the file: a write that failed may have left bytes there.
                let written = file.seek(SeekFrom::Start(self.len)).and_then(|_| file.write_all(&bytes));
                if let Err(error) = written {
                    // A message is stored whole or not at all.
                    let _ = file.set_len(self.len);
                    return Err(error);
                }
                self.len += bytes.len() as u64;
            }
        }
        Ok(())
    }

    /// Returns at most `max` bytes from the offset `from` on, which has to lie in the segment.
    pub(super) fn read(&mut self, from: u64, max: usize) -> io::Result<Bytes> {
        let at = from.saturating_sub(self.start).min(self.len);
        let length = usize::try_from(self.len - at).unwrap_or(usize::MAX).min(max);
        match &mut self.storage {
            Storage::Memory(chunks) => {
                let first = chunks.partition_point(|(start, _)| *start <= at).saturating_sub(1);
                let mut bytes = BytesMut::with_capacity(length);
                for (start, chunk) in &chunks[first.min(chunks.len())..] {
                    let skip = usize::try_from(at.saturating_sub(*start)).unwrap_or(usize::MAX);
                    let rest = chunk.get(skip..).unwrap_or_default();
                    bytes.extend_from_slice(&rest[..rest.len().min(length - bytes.len())]);
                    if bytes.len() == length {
                        break;
                    }
                }
                Ok(bytes.freeze())
            }
            Storage::File { path, open } => {
                let mut bytes = vec![0; length];
                let file = open_file(path, open)?;
                file.seek(SeekFrom::Start(at))?;
                file.read_exact(&mut bytes)?;
                Ok(bytes.into())
            }
        }
    }

    /// Removes its file.
    pub(super) fn remove(&self) -> io::Result<()> {
        match &self.storage {
            Storage::Memory(_) => Ok(()),
            Storage::File { path, .. } => fs::remove_file(path),
        }
    }

    /// Writes its file through to the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        match &mut self.storage {
            Storage::Memory(_) => Ok(()),
            Storage::File { path, open } => {
                let stays_open = open.is_some();
                let synced = open_file(path, open)?.sync_data();
                if !stays_open {
                    *open = None;
                }
                synced
            }
        }
    }

    /// Summarises the messages of the segment.
    pub(super) fn contents(&mut self) -> io::Result<Contents> {
        let mut contents = Contents::default();
        while contents.valid_len + HEADER_LEN <= self.len {
            let at = contents.valid_len;
            let head = self.read(self.start + at, HEADER_LEN as usize)?;
            let (Some(length), Some(checksum), Some(id)) = (
                head.first_chunk().map(|bytes| i32::from_be_bytes(*bytes)),
                head[4..].first_chunk().map(|bytes| i32::from_be_bytes(*bytes)),
                head[8..].first_chunk().map(|bytes| i64::from_be_bytes(*bytes)),
            ) else {
                break;
            };
            let Ok(length) = u64::try_from(length) else { break };
            if at + HEADER_LEN + length > self.len {
                break;
            }
            let data = self.read(self.start + at + HEADER_LEN, length as usize)?;
            if Checksum::of(&data).0 != checksum {
                break;
            }
            contents.valid_len += HEADER_LEN + length;
            contents.messages += 1;
            contents.highest_id = contents.highest_id.max(Some(id));
        }
        Ok(contents)
    }
}

fn open_file<'a>(path: &Path, open: &'a mut Option<OpenFile>) -> io::Result<&'a mut File> {
    let file = match open.take() {
        Some(file) => file,
        None => OpenFile::new(path, false)?,
    };
    Ok(&mut open.insert(file).0)
}

fn file_name(folder: &Path, start: u64) -> PathBuf {
    folder.join(format!("{start:020}{SUFFIX}"))
}
