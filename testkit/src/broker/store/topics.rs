//! The broker's topics: which it takes, and how many partitions they have.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use parking_lot::{Mutex, RwLock};

use super::{data_folder::FolderClaim, log::LogSettings, topic::TopicEntry};

/// The settings of a broker's topics.
#[derive(Debug)]
pub(in crate::broker) struct StoreSettings {
    /// The folder of the logs; none in memory.
    pub(in crate::broker) folder: Option<PathBuf>,
    pub(in crate::broker) log: LogSettings,
    /// The number of partitions of topics that only a pattern takes.
    pub(in crate::broker) default_partitions: u32,
    /// The largest number of bytes of all logs together.
    pub(in crate::broker) capacity: Option<u64>,
}

#[derive(Debug)]
pub(in crate::broker) struct Topics {
    pub(in crate::broker) settings: StoreSettings,
    pub(super) table: RwLock<BTreeMap<Arc<str>, Arc<TopicEntry>>>,
    pub(super) used_bytes: AtomicU64,
    /// The highest id that was found in the folder.
    pub(in crate::broker) highest_id: Option<i64>,
    /// Kept until the logs are closed; none in memory.
    pub(super) claim: Mutex<Option<FolderClaim>>,
    pub(super) closed: AtomicBool,
}

impl Topics {
    /// The entry of a topic, made when there is none.
    pub(super) fn entry(&self, name: &str) -> Arc<TopicEntry> {
        if let Some(entry) = self.table.read().get(name) {
            return Arc::clone(entry);
        }
        let mut table = self.table.write();
        Arc::clone(table.entry(name.into()).or_insert_with(|| Arc::new(TopicEntry::new(name))))
    }

    /// Configures a topic, or changes its number of partitions. Logs are kept.
    pub(in crate::broker) fn configure(&self, name: &str, partitions: u32) -> Arc<TopicEntry> {
        let entry = self.entry(name);
        entry.configure(partitions);
        entry
    }

    /// A topic that is configured, or that was put to.
    pub(in crate::broker) fn get(&self, name: &str) -> Option<Arc<TopicEntry>> {
        self.table.read().get(name).cloned()
    }

    /// All that are configured or hold a log.
    pub(in crate::broker) fn all(&self) -> Vec<Arc<TopicEntry>> {
        self.table.read().values().cloned().collect()
    }

    /// Whether a topic can be put to: it is configured, or a pattern takes it.
    pub(in crate::broker) fn accepts(&self, name: &str) -> bool {
        let table = self.table.read();
        table.get(name).is_some_and(|entry| entry.accepts_messages())
            || table.values().any(|entry| entry.is_configured() && matches(&entry.name, name))
    }

    /// The topic to put to, if it [can be](Self::accepts).
    pub(in crate::broker) fn accepting(&self, name: &str) -> Option<Arc<TopicEntry>> {
        if let Some(entry) = self.table.read().get(name)
            && entry.accepts_messages()
        {
            return Some(Arc::clone(entry));
        }
        self.accepts(name).then(|| {
            let entry = self.entry(name);
            entry.set_matches_pattern();
            entry
        })
    }

    /// The number of partitions of a topic. Of one that is not configured, what the broker's default is.
    pub(in crate::broker) fn partitions(&self, entry: Option<&TopicEntry>) -> u32 {
        match entry.map_or(0, TopicEntry::configured_partitions) {
            0 => self.settings.default_partitions,
            configured => configured,
        }
    }
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
        for (pattern, topic, used_bytes) in [
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
            assert_eq!(matches(pattern, topic), used_bytes, "{pattern} {topic}");
        }
    }
}
