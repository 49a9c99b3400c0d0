//! The table of topics, and the rule which names a broker accepts.

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

/// The settings of a broker's topics and logs.
#[derive(Debug)]
pub(in crate::broker) struct StoreSettings {
    /// The folder of the logs; none in memory.
    pub(in crate::broker) folder: Option<PathBuf>,
    pub(in crate::broker) log: LogSettings,
    /// The number of partitions of topics that only a pattern matches.
    pub(in crate::broker) default_partitions: u32,
    /// The largest number of bytes of all logs together.
    pub(in crate::broker) capacity: Option<u64>,
}

/// The topics of a broker, with their logs.
#[derive(Debug)]
pub(in crate::broker) struct Topics {
    pub(in crate::broker) settings: StoreSettings,
    pub(super) table: RwLock<BTreeMap<Arc<str>, Arc<TopicEntry>>>,
    pub(super) used_bytes: AtomicU64,
    /// The highest message id in the folder.
    pub(in crate::broker) highest_id: Option<i64>,
    /// Held until the logs are closed; none in memory.
    pub(super) claim: Mutex<Option<FolderClaim>>,
    pub(super) closed: AtomicBool,
}

impl Topics {
    /// Returns the entry of a topic, creating it if there is none.
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

    /// Returns a topic that is configured, or that a client has put to.
    pub(in crate::broker) fn get(&self, name: &str) -> Option<Arc<TopicEntry>> {
        self.table.read().get(name).cloned()
    }

    /// Returns all topics that are configured or have a log.
    pub(in crate::broker) fn all(&self) -> Vec<Arc<TopicEntry>> {
        self.table.read().values().cloned().collect()
    }

    /// Returns whether a topic accepts puts: it is configured, or a pattern matches it.
    pub(in crate::broker) fn accepts(&self, name: &str) -> bool {
        let table = self.table.read();
        table.get(name).is_some_and(|entry| entry.accepts_messages())
            || table.values().any(|entry| entry.is_configured() && matches(&entry.name, name))
    }

    /// Returns the topic for a put, if it [accepts](Self::accepts) one.
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

    /// Returns the number of partitions of a topic: the default of the broker if the topic isn't configured.
    pub(in crate::broker) fn partitions(&self, entry: Option<&TopicEntry>) -> u32 {
        match entry.map_or(0, TopicEntry::configured_partitions) {
            0 => self.settings.default_partitions,
            configured => configured,
        }
    }
}

/// Returns whether a configured name, in which `*` matches any text, matches a topic.
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
