//! The broker's topics: which it takes, their partitions, and the logs of these.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use bytes::BytesMut;
use parking_lot::{Mutex, RwLock};

use super::{
    data_folder::{FolderClaim, OWN_FOLDER},
    log::{Log, LogRules},
};

/// How a broker keeps its topics.
#[derive(Debug)]
pub(super) struct Keeping {
    /// Where the logs are; none in memory.
    pub(super) folder: Option<PathBuf>,
    pub(super) log: LogRules,
    /// How many partitions a topic has that only a pattern takes.
    pub(super) default_partitions: u32,
    /// How many bytes all logs together may take.
    pub(super) capacity: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Topics {
    pub(super) keeping: Keeping,
    table: RwLock<BTreeMap<Arc<str>, Arc<TopicEntry>>>,
    taken: AtomicU64,
    /// The highest id that was found in the folder.
    pub(super) highest_id: Option<i64>,
    /// Kept until the logs are closed; none in memory.
    claim: Mutex<Option<FolderClaim>>,
    closed: AtomicBool,
}

/// A topic that is configured, or that a pattern takes and that was put to. It is never forgotten again.
#[derive(Debug)]
pub(super) struct TopicEntry {
    pub(super) name: Arc<str>,
    /// 0 for one that isn't configured.
    configured: AtomicU32,
    /// Whether a pattern takes it.
    by_pattern: AtomicBool,
    /// Whether registries were told of it.
    known: AtomicBool,
    pub(super) publishes: AtomicBool,
    pub(super) subscribes: AtomicBool,
    any_closed: AtomicBool,
    closed: RwLock<BTreeSet<i32>>,
    logs: RwLock<BTreeMap<i32, Arc<Mutex<Log>>>>,
}

/// Why a message isn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// The topic has no such partition.
    Partition,
    /// There is no room, the disk failed, or the broker has ended.
    Storage,
}

impl Topics {
    /// Claims the folder for `owner`, and opens what is in it. Entries that are no folder of a partition are left alone.
    pub(super) fn open(keeping: Keeping, owner: &str) -> io::Result<Self> {
        let mut topics = Self {
            keeping,
            table: RwLock::default(),
            taken: AtomicU64::new(0),
            highest_id: None,
            claim: Mutex::new(None),
            closed: AtomicBool::new(false),
        };
        if let Some(folder) = topics.keeping.folder.clone() {
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
            let (log, highest) = Log::open(entry.path(), self.keeping.log)?;
            self.highest_id = self.highest_id.max(highest);
            self.taken.fetch_add(log.len(), Ordering::Relaxed);
            self.entry(topic).logs.write().insert(index, Arc::new(Mutex::new(log)));
        }
        Ok(())
    }

    /// The entry of a topic, made when there is none.
    fn entry(&self, name: &str) -> Arc<TopicEntry> {
        if let Some(entry) = self.table.read().get(name) {
            return Arc::clone(entry);
        }
        let mut table = self.table.write();
        let new = || {
            let name: Arc<str> = name.into();
            Arc::new(TopicEntry {
                name,
                configured: AtomicU32::new(0),
                by_pattern: AtomicBool::new(false),
                known: AtomicBool::new(false),
                publishes: AtomicBool::new(true),
                subscribes: AtomicBool::new(true),
                any_closed: AtomicBool::new(false),
                closed: RwLock::default(),
                logs: RwLock::default(),
            })
        };
        Arc::clone(table.entry(name.into()).or_insert_with(new))
    }

    /// Configures a topic, or changes its number of partitions. Logs are kept.
    pub(super) fn configure(&self, name: &str, partitions: u32) -> Arc<TopicEntry> {
        let entry = self.entry(name);
        entry.configured.store(partitions, Ordering::Release);
        entry.known.store(true, Ordering::Release);
        entry
    }

    /// A topic that is configured, or that was put to.
    pub(super) fn get(&self, name: &str) -> Option<Arc<TopicEntry>> {
        self.table.read().get(name).cloned()
    }

    /// All that are configured or hold a log.
    pub(super) fn all(&self) -> Vec<Arc<TopicEntry>> {
        self.table.read().values().cloned().collect()
    }

    /// The topic to put to: one that is configured, or that a pattern takes. A `*` in a configured name stands for any
    /// text.
    pub(super) fn taking(&self, name: &str) -> Option<Arc<TopicEntry>> {
        let table = self.table.read();
        if let Some(entry) = table.get(name)
            && (entry.is_configured() || entry.by_pattern.load(Ordering::Acquire))
        {
            return Some(Arc::clone(entry));
        }
        let taken = table.values().any(|entry| entry.is_configured() && matches(&entry.name, name));
        drop(table);
        taken.then(|| {
            let entry = self.entry(name);
            entry.by_pattern.store(true, Ordering::Release);
            entry
        })
    }

    /// How many partitions a topic has. Of one that is not configured, what the broker's default is.
    pub(super) fn partitions(&self, entry: Option<&TopicEntry>) -> u32 {
        match entry.map_or(0, |entry| entry.configured.load(Ordering::Acquire)) {
            0 => self.keeping.default_partitions,
            configured => configured,
        }
    }

    /// The log of a partition, made when there is none yet: also a put that is refused afterwards makes it (findings).
    pub(super) fn log(&self, entry: &TopicEntry, partition: i32) -> Result<Arc<Mutex<Log>>, NotTaken> {
        if u32::try_from(partition).is_ok_and(|partition| partition < self.partitions(Some(entry))) {
            if let Some(log) = entry.logs.read().get(&partition) {
                return Ok(Arc::clone(log));
            }
            let mut logs = entry.logs.write();
            if let Some(log) = logs.get(&partition) {
                return Ok(Arc::clone(log));
            }
            if self.is_closed() {
                return Err(NotTaken::Storage);
            }
            let rules = self.keeping.log;
            let log = match &self.keeping.folder {
                None => Log::in_memory(rules),
                Some(folder) => {
                    let folder = partition_folder(folder, &entry.name, partition).ok_or(NotTaken::Storage)?;
                    Log::open(folder, rules).map_err(|_| NotTaken::Storage)?.0
                }
            };
            let log = Arc::new(Mutex::new(log));
            logs.insert(partition, Arc::clone(&log));
            return Ok(log);
        }
        Err(NotTaken::Partition)
    }

    /// Appends to a log as far as there is room. Returns where.
    pub(super) fn append(
        &self,
        log: &Mutex<Log>,
        messages: u64,
        len: usize,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<u64, NotTaken> {
        let capacity = self.keeping.capacity.unwrap_or(u64::MAX);
        let room = |taken: u64| taken.checked_add(len as u64).filter(|taken| *taken <= capacity);
        let reserved = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        reserved.map_err(|_| NotTaken::Storage)?;
        log.lock().append(messages, len, write).map_err(|_| {
            self.taken.fetch_sub(len as u64, Ordering::Relaxed);
            NotTaken::Storage
        })
    }

    /// Drops the oldest segment of a log. False when there is only the one that is written to.
    pub(super) fn drop_oldest_segment(&self, log: &Mutex<Log>) -> io::Result<bool> {
        let dropped = log.lock().drop_oldest_segment()?;
        self.taken.fetch_sub(dropped.unwrap_or_default(), Ordering::Relaxed);
        Ok(dropped.is_some())
    }

    /// Whether nothing is stored any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Refuses messages from now on, and gives the folder up.
    pub(super) fn close(&self) {
        // Before the logs are gone through: one that is made meanwhile is seen here, or isn't made.
        self.closed.store(true, Ordering::SeqCst);
        for entry in self.all() {
            for (_, log) in entry.logs() {
                log.lock().close();
            }
        }
        *self.claim.lock() = None;
    }

    /// The count of ids to begin with, at least `lowest`.
    pub(super) fn first_id(&self, lowest: i64) -> io::Result<i64> {
        self.claim.lock().as_ref().map_or(Ok(lowest), |claim| claim.first_id(lowest))
    }

    /// Makes everything readable.
    pub(super) fn flush(&self) -> io::Result<()> {
        for entry in self.all() {
            for (_, log) in entry.logs() {
                log.lock().flush()?;
            }
        }
        Ok(())
    }
}

impl TopicEntry {
    /// Whether registries are told of it.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    /// Has registries told of it; true when they were not before.
    pub(super) fn becomes_known(&self) -> bool {
        !self.known.load(Ordering::Acquire) && !self.known.swap(true, Ordering::AcqRel)
    }

    pub(super) fn is_configured(&self) -> bool {
        self.configured.load(Ordering::Acquire) > 0
    }

    pub(super) fn has_logs(&self) -> bool {
        !self.logs.read().is_empty()
    }

    /// The log of a partition, if there is one.
    pub(super) fn existing_log(&self, partition: i32) -> Option<Arc<Mutex<Log>>> {
        self.logs.read().get(&partition).cloned()
    }

    /// All logs, by partition.
    pub(super) fn logs(&self) -> Vec<(i32, Arc<Mutex<Log>>)> {
        self.logs.read().iter().map(|(index, log)| (*index, Arc::clone(log))).collect()
    }

    pub(super) fn set_closed(&self, partition: i32, is_closed: bool) {
        let mut closed = self.closed.write();
        if is_closed {
            closed.insert(partition);
        } else {
            closed.remove(&partition);
        }
        self.any_closed.store(!closed.is_empty(), Ordering::Release);
    }

    pub(super) fn is_closed(&self, partition: i32) -> bool {
        self.any_closed.load(Ordering::Acquire) && self.closed.read().contains(&partition)
    }
}

/// None when the name of the topic would lead out of the data folder, or into the one that is the broker's own.
fn partition_folder(data: &Path, topic: &str, partition: i32) -> Option<PathBuf> {
    let name = format!("{topic}-{partition}");
    (!topic.contains(['/', '\\', '\0']) && name != OWN_FOLDER).then(|| data.join(name))
}

/// Whether a configured name, in which `*` stands for any text, takes a topic.
fn matches(pattern: &str, topic: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = topic.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, topic, taken) in [
            ("dyn*", "dyn", true),
            ("dyn*", "dynamic", true),
            ("dyn*", "xdyn", false),
            ("*", "", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("plain", "plain", true),
            ("plain", "plainer", false),
            ("**x", "yx", true),
        ] {
            assert_eq!(matches(pattern, topic), taken, "{pattern} {topic}");
        }
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        assert_eq!(partition_folder(Path::new("/d"), "t", 3), Some("/d/t-3".into()));
        assert_eq!(partition_folder(Path::new("/d"), "../t", 3), None);
        assert_eq!(partition_folder(Path::new("/d"), "/t", 3), None);
    }
}
