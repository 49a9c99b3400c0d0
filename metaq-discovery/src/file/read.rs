//! Reading the file, whatever it turns out to be, without holding anybody up.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{sync::oneshot, time::timeout_at};

use crate::{DiscoveryError, deadline::after, supervise::runtime};

/// How long reading may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A file that has more bytes isn't read. One that names 10,000 topics of 100 brokers each has about 10 MiB.
const MOST_BYTES: u64 = 64 << 20;

/// What a file looks like from outside. Two that look alike have the same content, unless it was changed twice within the
/// resolution of the file system's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    #[cfg(unix)]
    inode: (u64, u64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt as _;
        Self {
            modified: metadata.modified().ok(),
            len: metadata.len(),
            #[cfg(unix)]
            inode: (metadata.dev(), metadata.ino()),
        }
    }
}

/// What was read.
pub(super) enum Content {
    /// It looks as it did.
    Same,
    Bytes(Vec<u8>, Stamp),
}

/// Reads a file on a thread of its own, one at a time: a file system that hangs holds up neither a runtime nor its end.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    turn: tokio::sync::Mutex<()>,
    /// Whether a thread reads, which may take longer than anybody waits.
    is_reading: Arc<AtomicBool>,
}

impl Reader {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, turn: tokio::sync::Mutex::default(), is_reading: Arc::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file, unless it looks like `known`.
    ///
    /// # Errors
    /// Outside of a runtime. Whatever is wrong with the file is in the inner result.
    pub(super) async fn read(&self, known: Option<Stamp>) -> Result<io::Result<Content>, DiscoveryError> {
        runtime()?;
        let deadline = after(PATIENCE);
        let late = || {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("it could not be read within {PATIENCE:?}")))
        };
        let Ok(_turn) = timeout_at(deadline, self.turn.lock()).await else { return Ok(late()) };
        if self.is_reading.swap(true, Ordering::AcqRel) {
            // The thread that reads has been given up.
            return Ok(late());
        }
        let (result, read) = oneshot::channel();
        let (path, is_reading) = (self.path.clone(), Arc::clone(&self.is_reading));
        let thread = std::thread::Builder::new().name("metaq-file".to_owned()).spawn(move || {
            let content = read_at_most(&path, known.as_ref(), MOST_BYTES);
            is_reading.store(false, Ordering::Release);
            // Nobody may wait any more.
            let _ = result.send(content);
        });
        if let Err(error) = thread {
            self.is_reading.store(false, Ordering::Release);
            return Ok(Err(error));
        }
        Ok(match timeout_at(deadline, read).await {
            Ok(read) => read.unwrap_or_else(|_| Err(io::Error::other("the thread that reads it has ended"))),
            Err(_) => late(),
        })
    }
}

pub(super) fn read_at_most(path: &Path, known: Option<&Stamp>, most: u64) -> io::Result<Content> {
    let check = |metadata: &Metadata| {
        let refused = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        match metadata {
            // Opening it could wait for somebody at the other end, and reading it never end.
            metadata if !metadata.is_file() => refused("it is not a regular file".to_owned()),
            metadata if metadata.len() > most => {
                refused(format!("its {} bytes are more than {most}", metadata.len()))
            }
            _ => Ok(()),
        }
    };
    let metadata = path.metadata()?;
    check(&metadata)?;
    let stamp = Stamp::of(&metadata);
    if known == Some(&stamp) {
        return Ok(Content::Same);
    }
    let file = File::open(path)?;
    // It may have been replaced.
    let metadata = file.metadata()?;
    check(&metadata)?;
    let stamp = Stamp::of(&metadata);
    let mut bytes = Vec::with_capacity(metadata.len() as usize + 1);
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it has more than {most} bytes")));
    }
    Ok(Content::Bytes(bytes, stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_or_too_large_is_not_opened() {
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

    #[test]
    fn what_looks_as_it_did_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let Content::Bytes(bytes, stamp) = read_at_most(&path, None, 100).unwrap() else {
            panic!("it is new")
        };
        assert_eq!(bytes, b"one");
        assert!(matches!(read_at_most(&path, Some(&stamp), 100).unwrap(), Content::Same));
        let new = folder.path().join("new");
        std::fs::write(&new, "two").unwrap();
        std::fs::rename(new, &path).unwrap();
        let Content::Bytes(bytes, _) = read_at_most(&path, Some(&stamp), 100).unwrap() else {
            panic!("it is another file")
        };
        assert_eq!(bytes, b"two");
    }
}
