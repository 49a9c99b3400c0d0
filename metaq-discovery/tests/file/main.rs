//! [`FileDiscovery`](metaq_discovery::FileDiscovery) with files that change while they are read, that are
//! large, and that many tasks read at once.
#![cfg(feature = "file")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;
mod delays;
mod writers;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use metaq_discovery::{DiscoveryEvent, DiscoveryEvents, Topic};
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A folder with a file of brokers.
struct Place {
    _folder: TempDir,
    path: PathBuf,
}

impl Place {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("brokers.toml");
        let place = Self { _folder: folder, path };
        place.replace(text);
        place
    }

    /// Creates a file that was written long ago.
    fn old(text: &str) -> Self {
        let place = Self::new(text);
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        fs::File::options().write(true).open(&place.path).unwrap().set_modified(long_ago).unwrap();
        place
    }

    /// Replaces the file, so that no reader sees a part of it.
    fn replace(&self, text: &str) {
        replace(&self.path, text);
    }
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn topic(n: usize) -> Topic {
    Topic::new(&format!("t{n}")).unwrap()
}

/// A file with a number of topics on a number of brokers each, at ports from `port` on.
fn file(topics: usize, brokers: usize, port: usize) -> String {
    let mut text = "[brokers]\n".to_owned();
    (0..brokers).for_each(|id| text += &format!("{id} = \"meta://h:{}\"\n", port + id));
    for n in 0..topics {
        text += &format!("[topics.t{n}]\n");
        (0..brokers).for_each(|id| text += &format!("{id} = 2\n"));
    }
    text
}

/// The events since the last call.
async fn events_so_far(events: &mut DiscoveryEvents) -> Vec<DiscoveryEvent> {
    let mut reported = Vec::new();
    while let Some(Some(event)) = futures_util::FutureExt::now_or_never(events.next()) {
        reported.push(event);
    }
    reported
}
