//! One segment of a partition's log: in memory, or a file as a Java broker keeps it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use metaq_protocol::Checksum;

/// Memory is taken in pieces, so that a long log is never copied to grow.
const PIECE: usize = 1 << 20;

/// What the names of segment files end with.
const SUFFIX: &str = ".meta";

/// The fixed part of a stored message (wire rule 8).
const HEADER_LEN: u64 = 20;

/// A stretch of a log, from the offset `start` on.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) len: u64,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    /// Each piece with the place in the segment where it begins.
    Memory(Vec<(u64, BytesMut)>),
    File(File),
}

impl Segment {
    pub(super) fn in_memory(start: u64) -> Self {
        Self { start, len: 0, storage: Storage::Memory(Vec::new()) }
    }

    /// A new file in the folder of a partition.
    pub(super) fn create(folder: &Path, start: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(file_name(folder, start))?;
        let len = file.metadata()?.len();
        Ok(Self { start, len, storage: Storage::File(file) })
    }

    /// All segments in the folder of a partition, in order. The last one is cut off behind its last sound message,
    /// as a Java broker does.
    pub(super) fn open_all(folder: &Path) -> io::Result<Vec<Self>> {
        let mut starts = Vec::new();
        for entry in folder.read_dir()? {
            let name = entry?.file_name();
            let start = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            starts.extend(start.and_then(|start| start.parse::<u64>().ok()));
        }
        starts.sort_unstable();
        let mut segments =
            starts.iter().map(|&start| Self::create(folder, start)).collect::<io::Result<Vec<_>>>()?;
        if let Some(last) = segments.last_mut() {
            let sound = last.count()?.1;
            if let Storage::File(file) = &last.storage {
                file.set_len(sound)?;
            }
            last.len = sound;
        }
        if let Some(gap) = segments.windows(2).find(|pair| pair[0].start + pair[0].len != pair[1].start) {
            let text = format!("the segments in {} leave a gap before {}", folder.display(), gap[1].start);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(segments)
    }

    pub(super) fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Appends what `write` appends to a buffer, about `len` bytes.
    pub(super) fn append(&mut self, len: usize, write: impl FnOnce(&mut BytesMut)) -> io::Result<()> {
        match &mut self.storage {
            Storage::Memory(pieces) => {
                let full = |piece: &BytesMut| !piece.is_empty() && piece.len() + len > PIECE;
                if pieces.last().is_none_or(|(_, piece)| full(piece)) {
                    pieces.push((self.len, BytesMut::new()));
                }
                if let Some((_, piece)) = pieces.last_mut() {
                    let before = piece.len();
                    write(piece);
                    self.len += (piece.len() - before) as u64;
                }
            }
            Storage::File(file) => {
                let mut bytes = BytesMut::with_capacity(len);
                write(&mut bytes);
                if let Err(error) = file.write_all(&bytes) {
                    // What may have got there is taken back: a message is stored whole or not at all.
                    let _ = file.set_len(self.len);
                    return Err(error);
                }
                self.len += bytes.len() as u64;
            }
        }
        Ok(())
    }

    /// At most `max` bytes from the offset `from` on, which has to lie in the segment.
    pub(super) fn read(&mut self, from: u64, max: usize) -> io::Result<Bytes> {
        let at = from.saturating_sub(self.start).min(self.len);
        let length = usize::try_from(self.len - at).unwrap_or(usize::MAX).min(max);
        match &mut self.storage {
            Storage::Memory(pieces) => {
                let first = pieces.partition_point(|(start, _)| *start <= at).saturating_sub(1);
                let mut bytes = BytesMut::with_capacity(length);
                for (start, piece) in &pieces[first.min(pieces.len())..] {
                    let skip = usize::try_from(at.saturating_sub(*start)).unwrap_or(usize::MAX);
                    let rest = piece.get(skip..).unwrap_or_default();
                    bytes.extend_from_slice(&rest[..rest.len().min(length - bytes.len())]);
                    if bytes.len() == length {
                        break;
                    }
                }
                Ok(bytes.freeze())
            }
            Storage::File(file) => {
                let mut bytes = vec![0; length];
                file.seek(SeekFrom::Start(at))?;
                file.read_exact(&mut bytes)?;
                Ok(bytes.into())
            }
        }
    }

    /// Removes its file.
    pub(super) fn remove(self, folder: &Path) -> io::Result<()> {
        match self.storage {
            Storage::Memory(_) => Ok(()),
            Storage::File(_) => std::fs::remove_file(file_name(folder, self.start)),
        }
    }

    /// Writes through to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        match &self.storage {
            Storage::Memory(_) => Ok(()),
            Storage::File(file) => file.sync_data(),
        }
    }

    /// How many sound messages there are from the beginning on, where the last of them ends within the segment, and
    /// the highest of their ids.
    pub(super) fn count(&mut self) -> io::Result<(u64, u64, Option<i64>)> {
        let (mut messages, mut at, mut highest) = (0, 0, None);
        while at + HEADER_LEN <= self.len {
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
            at += HEADER_LEN + length;
            messages += 1;
            highest = highest.max(Some(id));
        }
        Ok((messages, at, highest))
    }
}

fn file_name(folder: &Path, start: u64) -> PathBuf {
    folder.join(format!("{start:020}{SUFFIX}"))
}
