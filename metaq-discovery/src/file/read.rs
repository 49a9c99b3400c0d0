//! Reading of the file, whatever kind of file it is.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read as _},
    path::Path,
    time::{Duration, SystemTime},
};

/// The largest file that is read. A file of 10,000 topics with 100 brokers each has about 10 MiB.
pub(super) const MAX_BYTES: u64 = 64 << 20;

/// The resolution of the coarsest file system clock in use, that of FAT.
const RESOLUTION: Duration = Duration::from_secs(2);

/// The metadata of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    /// Device, inode, and the change time, which no program can set.
    #[cfg(unix)]
    identity: (u64, u64, i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt as _;
        Self {
            modified: metadata.modified().ok(),
            len: metadata.len(),
            #[cfg(unix)]
            identity: (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The time since the last write. Zero if the file system's clock is ahead of ours.
    fn quiet_for(&self) -> Duration {
        self.modified.and_then(|modified| modified.elapsed().ok()).unwrap_or_default()
    }

    /// Returns true if the next change will result in a different stamp, however coarse the clock of the file
    /// system is.
    fn is_distinct(&self) -> bool {
        #[cfg(unix)]
        let changed = {
            let since = u64::try_from(self.identity.2).unwrap_or_default();
            SystemTime::UNIX_EPOCH + Duration::from_secs(since.min(u64::from(u32::MAX)))
        };
        #[cfg(not(unix))]
        let changed = SystemTime::UNIX_EPOCH;
        // The seconds of the change time are truncated, so one more is added.
        let changed = changed.elapsed().is_ok_and(|elapsed| elapsed > RESOLUTION + Duration::from_secs(1));
        changed && self.quiet_for() > RESOLUTION
    }
}

/// The result of reading the file.
#[derive(Debug)]
pub(super) struct ReadResult {
    /// `None` if the file has the known stamp.
    pub(super) bytes: Option<Vec<u8>>,
    /// `None` if the next content might have the same stamp.
    pub(super) stamp: Option<Stamp>,
    pub(super) quiet_for: Duration,
}

/// Reads a file of at most `most` bytes, unless it has the stamp `known`.
pub(super) fn read_at_most(path: &Path, known: Option<&Stamp>, most: u64) -> io::Result<ReadResult> {
    let refused = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    let file = open(path)?;
    let metadata = file.metadata()?;
    // Reading a pipe or a device could block, or never end.
    if !metadata.is_file() {
        return refused("it is not a regular file".to_owned());
    }
    if metadata.len() > most {
        return refused(format!("its {} bytes are more than {most}", metadata.len()));
    }
    let stamp = Stamp::of(&metadata);
    let quiet_for = stamp.quiet_for();
    if known == Some(&stamp) {
        return Ok(ReadResult { bytes: None, stamp: Some(stamp), quiet_for });
    }
    let stamp = Some(stamp).filter(Stamp::is_distinct);
    let mut bytes = Vec::with_capacity(metadata.len() as usize + 1);
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return refused(format!("it has more than {most} bytes"));
    }
    Ok(ReadResult { bytes: Some(bytes), stamp, quiet_for })
}

/// Opens a file without blocking: a pipe without a writer would block the caller forever.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOCTTY);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn irregular_and_too_large_files_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        std::fs::write(&path, [b'x'; 100]).unwrap();
        let said = |path: &Path, most| read_at_most(path, None, most).err().map(|error| error.to_string());
        assert_eq!(said(&path, 100), None);
        assert_eq!(said(&path, 99).as_deref(), Some("its 100 bytes are more than 99"));
        for other in [Path::new("/dev/zero"), folder.path()] {
            assert_eq!(said(other, 100).as_deref(), Some("it is not a regular file"), "{}", other.display());
        }
    }

    /// Covers a pipe that replaces the file just before it is opened.
    #[cfg(unix)]
    #[test]
    fn opening_a_pipe_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (opened, is_opened) = std::sync::mpsc::channel();
        std::thread::spawn(move || opened.send(open(&path).is_ok()));
        assert!(is_opened.recv_timeout(Duration::from_secs(20)).expect("opening doesn't wait for a writer"));
    }

    #[test]
    fn an_unchanged_file_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let found = read_at_most(&path, None, 100).unwrap();
        assert_eq!(found.bytes.as_deref(), Some(&b"one"[..]));
        assert!(found.stamp.is_none(), "it may be written to once more within the same tick of the clock");
        let stamp = Stamp::of(&path.metadata().unwrap());
        assert!(read_at_most(&path, Some(&stamp), 100).unwrap().bytes.is_none());
        let new = folder.path().join("new");
        std::fs::write(&new, "two").unwrap();
        // It is a different file, even with the same modification time.
        let modified = path.metadata().unwrap().modified().unwrap();
        File::options().write(true).open(&new).unwrap().set_modified(modified).unwrap();
        std::fs::rename(new, &path).unwrap();
        assert_eq!(read_at_most(&path, Some(&stamp), 100).unwrap().bytes.as_deref(), Some(&b"two"[..]));
    }

    #[cfg(unix)]
    #[test]
    fn a_stamp_is_distinct_once_older_than_the_clock_resolution() {
        let ago = |seconds: u64| {
            let modified = SystemTime::now() - Duration::from_secs(seconds);
            let changed = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            Stamp { modified: Some(modified), len: 1, identity: (1, 1, changed.cast_signed(), 0) }
        };
        assert!(ago(60).is_distinct() && !ago(1).is_distinct());
        // A program that sets the time back and a clock that is ahead are both detected.
        let set_back = Stamp { modified: ago(60).modified, ..ago(1) };
        let ahead = Stamp { modified: Some(SystemTime::now() + Duration::from_secs(60)), ..ago(60) };
        assert!(!set_back.is_distinct() && !ahead.is_distinct());
        assert_eq!(ahead.quiet_for(), Duration::ZERO);
    }
}
