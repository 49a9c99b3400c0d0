//! The keys of a registry, and the views that they describe.

use std::collections::{BTreeMap, BTreeSet};

use metaq_protocol::{BrokerAddr, BrokerId, Topic};

use crate::{
    BadEntry, BrokerRole, RegisteredBroker, RegisteredBrokers, TopicView,
    backend::{
        bad_entries::UnusableEntry,
        registry::{Child, Layout, ViewBuilder, parse_addr, parse_partitions},
    },
};

/// The reason reported for an entry whose value was not read.
const TOO_LONG: &str = "its value is longer than the 4 MiB that can be read";

/// The contents of a registry's keys. Each value is parsed once, when it is set.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// The children of each topic by name, without topics that have none.
    topics: BTreeMap<Topic, BTreeMap<String, Entry>>,
    /// The address of each broker, or the reason why it can't be used.
    masters: BTreeMap<BrokerId, Result<BrokerAddr, String>>,
    /// The same of each slave.
    slaves: BTreeMap<(BrokerId, BrokerRole), Result<BrokerAddr, String>>,
    /// The topics that have a master's child of each broker.
    offered: BTreeMap<BrokerId, BTreeSet<Topic>>,
    /// The number of keys.
    len: usize,
}

/// The contents of a topic's child.
#[derive(Debug)]
enum Entry {
    /// The number of the broker's partitions, or the reason why the value can't be used.
    Master(BrokerId, Result<u32, String>),
    Slave,
    Unknown,
    TooLong,
}

impl Entry {
    /// Parses the child `name`. `None` stands for a value that is too long to be read.
    fn new(name: &str, value: Option<&[u8]>) -> Self {
        match (Child::parse(name), value) {
            (_, None) => Self::TooLong,
            (Child::Master(id), Some(value)) => Self::Master(id, parse_partitions(value)),
            (Child::Slave, _) => Self::Slave,
            (Child::Unknown, _) => Self::Unknown,
        }
    }
}

impl Keys {
    /// Sets or removes a key. Returns the topics whose views may have changed.
    pub(super) fn apply(&mut self, layout: &Layout, key: &[u8], value: Option<&[u8]>) -> BTreeSet<Topic> {
        match value {
            Some(value) => self.set(layout, key, Some(value)),
            None => self.remove(layout, key),
        }
    }

    /// Sets a key to a value that is too long to be read.
    pub(super) fn too_long(&mut self, layout: &Layout, key: &[u8]) {
        self.set(layout, key, None);
    }

    fn set(&mut self, layout: &Layout, key: &[u8], value: Option<&[u8]>) -> BTreeSet<Topic> {
        if let Some(id) = layout.master_of(key) {
            let addr = value.map_or_else(|| Err(TOO_LONG.to_owned()), parse_addr);
            self.len += usize::from(self.masters.insert(id, addr).is_none());
            return self.offered.get(&id).cloned().unwrap_or_default();
        }
        if let Some(slave) = layout.slave_of(key) {
            let addr = value.map_or_else(|| Err(TOO_LONG.to_owned()), parse_addr);
            self.len += usize::from(self.slaves.insert(slave, addr).is_none());
            return BTreeSet::new();
        }
        let Some((topic, name)) = layout.child_of(key) else { return BTreeSet::new() };
        let entry = Entry::new(name, value);
        if let Child::Master(id) = Child::parse(name) {
            self.offered.entry(id).or_default().insert(topic.clone());
        }
        let children = self.topics.entry(topic.clone()).or_default();
        self.len += usize::from(children.insert(name.to_owned(), entry).is_none());
        BTreeSet::from([topic])
    }

    fn remove(&mut self, layout: &Layout, key: &[u8]) -> BTreeSet<Topic> {
        if let Some(id) = layout.master_of(key) {
            self.len -= usize::from(self.masters.remove(&id).is_some());
            return self.offered.get(&id).cloned().unwrap_or_default();
        }
        if let Some(slave) = layout.slave_of(key) {
            self.len -= usize::from(self.slaves.remove(&slave).is_some());
            return BTreeSet::new();
        }
        let Some((topic, name)) = layout.child_of(key) else { return BTreeSet::new() };
        let Some(children) = self.topics.get_mut(&topic) else { return BTreeSet::new() };
        self.len -= usize::from(children.remove(name).is_some());
        if let Child::Master(id) = Child::parse(name)
            && !children.keys().any(|name| Child::parse(name) == Child::Master(id))
            && let Some(topics) = self.offered.get_mut(&id)
        {
            topics.remove(&topic);
            if topics.is_empty() {
                self.offered.remove(&id);
            }
        }
        if children.is_empty() {
            self.topics.remove(&topic);
        }
        BTreeSet::from([topic])
    }

    /// The view of the usable entries of a topic, and the list of the unusable ones.
    pub(super) fn view(&self, topic: &Topic, layout: &Layout) -> (TopicView, Vec<UnusableEntry>) {
        let mut builder = ViewBuilder::new(topic, layout);
        let mut names: BTreeMap<BrokerId, &str> = BTreeMap::new();
        for (name, entry) in self.topics.get(topic).into_iter().flatten() {
            match entry {
                Entry::Slave => {}
                Entry::Unknown => builder.unknown_child(name),
                Entry::TooLong => builder.bad_child(name, TOO_LONG),
                Entry::Master(_, Err(reason)) => builder.bad_child(name, reason),
                Entry::Master(id, Ok(partitions)) => {
                    match self.masters.get(id) {
                        Some(Ok(addr)) => builder.broker(*id, addr.clone(), *partitions),
                        Some(Err(reason)) => builder.bad_master(*id, reason),
                        None => builder.missing_master(*id),
                    }
                    if let Some(former) = names.insert(*id, name) {
                        builder.bad_child(
                            former,
                            &format!("{name} belongs to the same broker, and is used instead"),
                        );
                    }
                }
            }
        }
        builder.build()
    }

    /// All brokers, also those without topics.
    pub(super) fn brokers(&self, layout: &Layout) -> RegisteredBrokers {
        let masters = self.masters.iter().map(|(id, addr)| ((*id, BrokerRole::Master), addr));
        let slaves = self.slaves.iter().map(|(slave, addr)| (*slave, addr));
        let (mut brokers, mut bad_entries) = (Vec::new(), Vec::new());
        for ((id, role), addr) in masters.chain(slaves) {
            match addr {
                Ok(addr) => brokers.push(RegisteredBroker::new(id, role, addr.clone())),
                Err(reason) => bad_entries.push(BadEntry::new(layout.address(id, role), reason)),
            }
        }
        RegisteredBrokers::new(brokers, bad_entries)
    }

    /// The topics that brokers offer, sorted.
    pub(super) fn topics(&self) -> Vec<Topic> {
        self.topics.keys().cloned().collect()
    }

    /// The number of keys.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use metaq_protocol::BrokerId;

    use super::*;

    fn topic() -> Topic {
        "a".parse().unwrap()
    }

    #[test]
    fn only_keys_of_the_topic_are_read() {
        let layout = Layout::new("meta");
        let mut keys = Keys::default();
        for (key, value) in [
            ("/meta/brokers/ids/0/master", "meta://h:1"),
            ("/meta/brokers/ids/1/master", "meta://h:2"),
            ("/meta/brokers/topics-pub/a/0-m", r#"{"numParts":2}"#),
            ("/meta/brokers/topics-pub/a/0-s1", r#"{"numParts":2}"#),
            ("/meta/brokers/topics-pub/ab/1-m", r#"{"numParts":1}"#),
            ("/meta/brokers/topics-pub/a/2-m", r#"{"numParts":1}"#),
            ("/meta/brokers/topics-sub/c/0-m", r#"{"numParts":1}"#),
        ] {
            keys.apply(&layout, key.as_bytes(), Some(value.as_bytes()));
        }
        assert!(keys.apply(&layout, b"\xff", Some(b"")).is_empty());
        let (view, bad) = keys.view(&topic(), &layout);
        let partitions: Vec<_> = view.partitions().iter().map(ToString::to_string).collect();
        assert_eq!(partitions, ["0-0", "0-1"]);
        assert_eq!(bad[0].entry.path, "/meta/brokers/ids/2/master");
        assert_eq!(keys.topics(), ["a", "ab"]);
        assert_eq!(keys.apply(&layout, b"/meta/brokers/topics-pub/a/0-m", None), BTreeSet::from([topic()]));
        assert!(keys.view(&topic(), &layout).0.is_empty());
    }

    #[test]
    fn brokers_are_listed_with_slaves_and_without_topics() {
        let (layout, mut keys) = (Layout::new("meta"), Keys::default());
        for (key, value) in [
            ("/meta/brokers/ids/1/master", "meta://h:1"),
            ("/meta/brokers/ids/1/slave0", "meta://h:3"),
            ("/meta/brokers/ids/1/slave2", "nowhere"),
            ("/meta/brokers/ids/0/master", "meta://h:4"),
            ("/meta/brokers/ids/0/master_config_checksum", "1"),
            ("/meta/brokers/ids/00/slave1", "meta://h:9"),
            ("/meta/brokers/ids/0/slave01", "meta://h:9"),
        ] {
            assert!(keys.apply(&layout, key.as_bytes(), Some(value.as_bytes())).is_empty());
        }
        let text = |keys: &Keys| {
            let RegisteredBrokers { brokers, bad_entries } = keys.brokers(&layout);
            let brokers: Vec<_> = brokers
                .iter()
                .map(|broker| format!("{} {} {}", broker.id, broker.role, broker.addr))
                .collect();
            (brokers.join(", "), bad_entries.into_iter().map(|bad| bad.path).collect::<Vec<_>>())
        };
        let (brokers, bad) = text(&keys);
        assert_eq!(brokers, "0 master meta://h:4, 1 master meta://h:1, 1 slave0 meta://h:3");
        assert_eq!((bad, keys.len()), (vec!["/meta/brokers/ids/1/slave2".to_owned()], 4));
        keys.apply(&layout, b"/meta/brokers/ids/1/slave2", None);
        keys.apply(&layout, b"/meta/brokers/ids/1/slave0", None);
        let expected = ("0 master meta://h:4, 1 master meta://h:1".to_owned(), vec![]);
        assert_eq!((text(&keys), keys.len()), (expected, 2));
    }

    #[test]
    fn a_value_that_is_too_long_is_a_bad_entry() {
        let layout = Layout::new("meta");
        let mut keys = Keys::default();
        for id in 0..4 {
            let (master, child) = (layout.master(BrokerId(id)), layout.child(&topic(), &format!("{id}-m")));
            keys.apply(&layout, master.as_bytes(), Some(b"meta://h:1"));
            keys.apply(&layout, child.as_bytes(), Some(br#"{"numParts":1}"#));
        }
        keys.too_long(&layout, b"/meta/brokers/topics-pub/a/1-m");
        keys.too_long(&layout, b"/meta/brokers/topics-pub/a/odd");
        keys.too_long(&layout, b"/meta/brokers/ids/2/master");
        keys.too_long(&layout, b"/meta/brokers/topics-sub/a/1-m");
        let (view, bad) = keys.view(&topic(), &layout);
        let partitions: Vec<_> = view.partitions().iter().map(ToString::to_string).collect();
        assert_eq!(partitions, ["0-0", "3-0"]);
        let mut paths: Vec<_> = bad.iter().map(|bad| (bad.entry.path.as_str(), bad.is_transient)).collect();
        paths.sort_unstable();
        assert_eq!(
            paths,
            [
                ("/meta/brokers/ids/2/master", false),
                ("/meta/brokers/topics-pub/a/1-m", false),
                ("/meta/brokers/topics-pub/a/odd", false),
            ]
        );
        assert!(bad.iter().all(|bad| bad.entry.reason == TOO_LONG));
        keys.apply(&layout, b"/meta/brokers/ids/2/master", Some(b"meta://h:2"));
        keys.apply(&layout, b"/meta/brokers/topics-pub/a/1-m", None);
        assert_eq!(keys.view(&topic(), &layout).0.partitions().len(), 3);
    }

    #[test]
    fn a_change_affects_only_topics_that_name_the_broker() {
        let (layout, mut keys) = (Layout::new("meta"), Keys::default());
        let mut apply = |key: &str, value: Option<&str>| -> Vec<String> {
            let affected = keys.apply(&layout, key.as_bytes(), value.map(str::as_bytes));
            affected.iter().map(ToString::to_string).collect()
        };
        let partitions = Some(r#"{"numParts":1}"#);
        let child = |topic: &str, name: &str| format!("/meta/brokers/topics-pub/{topic}/{name}");
        let (first, other) = ("/meta/brokers/ids/0/master", "/meta/brokers/ids/00/master");
        assert!(apply(first, Some("meta://h:1")).is_empty());
        assert_eq!(apply(&child("a", "0-m"), partitions), ["a"]);
        assert_eq!(apply(&child("b", "00-m"), partitions), ["b"]);
        assert_eq!(apply(&child("b", "0-m"), partitions), ["b"]);
        assert_eq!(apply(&child("c", "1-m"), partitions), ["c"]);
        assert_eq!(apply(first, None), ["a", "b"]);
        assert!(apply(other, Some("meta://h:2")).is_empty(), "that path is not read");
        assert_eq!(apply(&child("a", "0-m"), None), ["a"]);
        assert_eq!(apply(&child("b", "0-m"), None), ["b"]);
        assert_eq!(apply(first, Some("meta://h:1")), ["b"], "it still has 00-m");
        assert_eq!(apply(&child("b", "00-m"), None), ["b"]);
        assert!(apply(first, Some("meta://h:3")).is_empty());
        assert!(apply(&child("b", "00-m"), None).is_empty(), "it is gone");
        assert_eq!((keys.topics(), keys.len()), (vec!["c".parse().unwrap()], 2));
    }

    #[test]
    fn two_children_of_one_broker_are_a_bad_entry() {
        let (layout, mut keys) = (Layout::new("meta"), Keys::default());
        keys.apply(&layout, b"/meta/brokers/ids/0/master", Some(b"meta://h:1"));
        keys.apply(&layout, b"/meta/brokers/topics-pub/a/0-m", Some(br#"{"numParts":1}"#));
        keys.apply(&layout, b"/meta/brokers/topics-pub/a/00-m", Some(br#"{"numParts":2}"#));
        let (view, bad) = keys.view(&topic(), &layout);
        assert_eq!((view.partitions().len(), bad.len()), (2, 1), "{bad:?}");
        let text = bad[0].entry.to_string();
        assert_eq!(
            text,
            "/meta/brokers/topics-pub/a/0-m: 00-m belongs to the same broker, and is used instead"
        );
    }
}
