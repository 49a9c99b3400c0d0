//! The logs of all partitions: opened, appended to and closed, within the capacity of the broker.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::BytesMut;
use parking_lot::{Mutex, RwLock};

use super::{
    data_folder::{FolderClaim, OWN_FOLDER},
    log::Log,
    topic::TopicEntry,
    topics::{StoreSettings, Topics},
};

/// The reason why a message can't be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) enum StoreError {
    /// The topic has no such partition.
    Partition,
    /// The capacity is used up, the disk failed, or the broker has ended.
    Storage,
}

impl Topics {
    /// Claims the folder for `owner`, and opens the logs in it. Ignores entries that are no folder of a
    /// partition.
    pub(in crate::broker) fn open(settings: StoreSettings, owner: &str) -> io::Result<Self> {
        let mut topics = Self {
            settings,
            table: RwLock::default(),
            used_bytes: AtomicU64::new(0),
            highest_id: None,
            claim: Mutex::new(None),
            closed: AtomicBool::new(false),
        };
        if let Some(folder) = topics.settings.folder.clone() {
            let opened = FolderClaim::new(&folder, owner).and_then(|claim| {
                topics.claim = Mutex::new(Some(claim));
                topics.open_folder(&folder)
            });
            opened.map_err(|error| {
                let text = format!("the data folder {} can't be used: {error}", folder.display());
                io::Error::new(error.kind(), text)
            })?;
        }
        Ok(topics)
    }

    fn open_folder(&mut self, folder: &Path) -> io::Result<()> {
        for entry in folder.read_dir()? {
            let entry = entry?;
            let name = entry.file_name();
            let partition = name.to_str().and_then(|name| name.rsplit_once('-'));
            let Some((topic, Ok(index))) = partition.map(|(topic, index)| (topic, index.parse::<i32>()))
            else {
                continue;
            };
            if index < 0 || !entry.file_type()?.is_dir() || name == OWN_FOLDER {
                continue;
            }
            let (log, highest) = Log::open(entry.path(), self.settings.log)?;
            self.highest_id = self.highest_id.max(highest);
            self.used_bytes.fetch_add(log.len(), Ordering::Relaxed);
            self.entry(topic).logs.write().insert(index, Arc::new(Mutex::new(log)));
        }
        Ok(())
    }

    /// Returns the log of a partition, creating it if there is none: even a put that is refused later creates
    /// it (B-37).
    pub(in crate::broker) fn log(
        &self,
        entry: &TopicEntry,
        partition: i32,
    ) -> Result<Arc<Mutex<Log>>, StoreError> {
        if u32::try_from(partition).is_ok_and(|partition| partition < self.partitions(Some(entry))) {
            if let Some(log) = entry.logs.read().get(&partition) {
                return Ok(Arc::clone(log));
            }
            let mut logs = entry.logs.write();
            if let Some(log) = logs.get(&partition) {
                return Ok(Arc::clone(log));
            }
            if self.is_closed() {
                return Err(StoreError::Storage);
            }
            let log_settings = self.settings.log;
            let log = match &self.settings.folder {
                None => Log::in_memory(log_settings),
                Some(folder) => {
                    let folder =
                        partition_folder(folder, &entry.name, partition).ok_or(StoreError::Storage)?;
                    Log::open(folder, log_settings).map_err(|_| StoreError::Storage)?.0
                }
            };
            let log = Arc::new(Mutex::new(log));
            logs.insert(partition, Arc::clone(&log));
            return Ok(log);
        }
        Err(StoreError::Partition)
    }

    /// Appends to a log within the capacity. Returns the offset.
    pub(in crate::broker) fn append(
        &self,
        log: &Mutex<Log>,
        messages: u64,
        len: usize,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<u64, StoreError> {
        let capacity = self.settings.capacity.unwrap_or(u64::MAX);
        let within_capacity =
            |used_bytes: u64| used_bytes.checked_add(len as u64).filter(|used_bytes| *used_bytes <= capacity);
        let reserved = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within_capacity);
        reserved.map_err(|_| StoreError::Storage)?;
        log.lock().append(messages, len, write).map_err(|_| {
            self.used_bytes.fetch_sub(len as u64, Ordering::Relaxed);
            StoreError::Storage
        })
    }

    /// Drops the oldest segment of a log. Returns false if only the active segment is left.
    pub(in crate::broker) fn drop_oldest_segment(&self, log: &Mutex<Log>) -> io::Result<bool> {
        let dropped = log.lock().drop_oldest_segment()?;
        self.used_bytes.fetch_sub(dropped.unwrap_or_default(), Ordering::Relaxed);
        Ok(dropped.is_some())
    }

    /// Returns whether nothing is stored any more.
    pub(in crate::broker) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Refuses messages from now on, and releases the folder.
    pub(in crate::broker) fn close(&self) {
        // Set before the loop: a log that is created meanwhile is either seen by the loop or not created.
        self.closed.store(true, Ordering::SeqCst);
        for entry in self.all() {
            for (_, log) in entry.logs() {
                log.lock().close();
            }
        }
        *self.claim.lock() = None;
    }

    /// Returns the first count of ids, at least `lowest`.
    pub(in crate::broker) fn first_id(&self, lowest: i64) -> io::Result<i64> {
        self.claim.lock().as_ref().map_or(Ok(lowest), |claim| claim.first_id(lowest))
    }

    /// Makes everything readable.
    pub(in crate::broker) fn flush(&self) -> io::Result<()> {
        for entry in self.all() {
            for (_, log) in entry.logs() {
                log.lock().flush()?;
            }
        }
        Ok(())
    }
}

/// Returns the folder of a partition, or `None` if the name of the topic would lead out of the data folder,
/// or into the embedded broker's own folder.
fn partition_folder(data: &Path, topic: &str, partition: i32) -> Option<PathBuf> {
    let name = format!("{topic}-{partition}");
    (!topic.contains(['/', '\\', '\0']) && name != OWN_FOLDER).then(|| data.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_topic_name_leads_out_of_the_data_folder() {
        assert_eq!(partition_folder(Path::new("/d"), "t", 3), Some("/d/t-3".into()));
        assert_eq!(partition_folder(Path::new("/d"), "../t", 3), None);
        assert_eq!(partition_folder(Path::new("/d"), "/t", 3), None);
    }
}
