//! The keys of a registry, and what they say.

use std::collections::BTreeMap;

use metaq_protocol::Topic;

use crate::{
    TopicView,
    registry::{Child, Layout, TopicNodes},
    reports::Bad,
};

/// Why an entry can't be used whose value was not read.
const TOO_LONG: &str = "its value is longer than the 4 MiB that can be read";

/// The keys of a registry with their values.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// None where the value was too long to be read.
    values: BTreeMap<String, Option<Vec<u8>>>,
}

impl Keys {
    /// Sets or removes a key. One that isn't UTF-8 is nobody's.
    pub(super) fn apply(&mut self, key: &[u8], value: Option<Vec<u8>>) {
        let Ok(key) = str::from_utf8(key) else { return };
        match value {
            Some(value) => drop(self.values.insert(key.to_owned(), Some(value))),
            None => drop(self.values.remove(key)),
        }
    }

    /// Sets a key to a value that is too long to be read.
    pub(super) fn too_long(&mut self, key: &[u8]) {
        if let Ok(key) = str::from_utf8(key) {
            self.values.insert(key.to_owned(), None);
        }
    }

    /// The view of a topic, without what can't be used, and a list of that.
    pub(super) fn view(&self, topic: &Topic, layout: &Layout) -> (TopicView, Vec<Bad>) {
        let mut nodes = TopicNodes::default();
        let prefix = format!("{}/", layout.topic(topic));
        let mut unread = Vec::new();
        for (name, data) in self.below(&prefix) {
            let Some(data) = data else {
                unread.push(Bad::lasting(layout.child(topic, name), TOO_LONG));
                continue;
            };
            if let Child::Master(id) = Child::parse(name) {
                let path = layout.master(id);
                match self.values.get(&path) {
                    Some(None) => {
                        unread.push(Bad::lasting(path, TOO_LONG));
                        continue;
                    }
                    master => drop(nodes.masters.insert(id, master.cloned().flatten())),
                }
            }
            nodes.children.insert(name.to_owned(), Some(data.clone()));
        }
        let (view, mut bad) = nodes.view(topic, layout);
        bad.append(&mut unread);
        (view, bad)
    }

    /// The topics that brokers offer, sorted.
    pub(super) fn topics(&self, layout: &Layout) -> Vec<Topic> {
        let prefix = format!("{}/", layout.topics());
        let names = self.below(&prefix).filter_map(|(key, _)| key.split_once('/').map(|(topic, _)| topic));
        let mut topics: Vec<_> = names.filter_map(|name| Topic::new(name).ok()).collect();
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    /// What begins with `prefix`, without it.
    fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, Option<&'a Vec<u8>>)> {
        let keys = self.values.range(prefix.to_owned()..);
        keys.map_while(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_ref())))
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
    fn reads_what_belongs_to_the_topic() {
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
            keys.apply(key.as_bytes(), Some(value.into()));
        }
        keys.apply(b"\xff", Some(Vec::new()));
        let (view, bad) = keys.view(&topic(), &layout);
        let partitions: Vec<_> = view.partitions().iter().map(ToString::to_string).collect();
        assert_eq!(partitions, ["0-0", "0-1"]);
        assert_eq!(bad[0].entry.path, "/meta/brokers/ids/2/master");
        assert_eq!(keys.topics(&layout), ["a", "ab"]);
        keys.apply(b"/meta/brokers/topics-pub/a/0-m", None);
        assert!(keys.view(&topic(), &layout).0.is_empty());
    }

    #[test]
    fn a_value_that_is_too_long_is_a_bad_entry() {
        let layout = Layout::new("meta");
        let mut keys = Keys::default();
        for id in 0..4 {
            let (master, child) = (layout.master(BrokerId(id)), layout.child(&topic(), &format!("{id}-m")));
            keys.apply(master.as_bytes(), Some("meta://h:1".into()));
            keys.apply(child.as_bytes(), Some(r#"{"numParts":1}"#.into()));
        }
        keys.too_long(b"/meta/brokers/topics-pub/a/1-m");
        keys.too_long(b"/meta/brokers/topics-pub/a/odd");
        keys.too_long(b"/meta/brokers/ids/2/master");
        keys.too_long(b"/meta/brokers/topics-sub/a/1-m");
        let (view, bad) = keys.view(&topic(), &layout);
        let partitions: Vec<_> = view.partitions().iter().map(ToString::to_string).collect();
        assert_eq!(partitions, ["0-0", "3-0"]);
        let mut paths: Vec<_> = bad.iter().map(|bad| (bad.entry.path.as_str(), bad.may_pass)).collect();
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
        keys.apply(b"/meta/brokers/ids/2/master", Some("meta://h:2".into()));
        keys.apply(b"/meta/brokers/topics-pub/a/1-m", None);
        assert_eq!(keys.view(&topic(), &layout).0.partitions().len(), 3);
    }
}
