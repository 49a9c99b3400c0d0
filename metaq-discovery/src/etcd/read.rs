//! The keys of a registry, and what they say.

use std::collections::BTreeMap;

use metaq_protocol::Topic;

use crate::{
    TopicView,
    registry::{Child, Layout, TopicNodes},
    reports::Bad,
};

/// The keys of a registry with their values.
#[derive(Debug, Default)]
pub(super) struct Keys {
    values: BTreeMap<String, Vec<u8>>,
}

impl Keys {
    /// Sets or removes a key. One that isn't UTF-8 is nobody's.
    pub(super) fn apply(&mut self, key: &[u8], value: Option<Vec<u8>>) {
        let Ok(key) = str::from_utf8(key) else { return };
        match value {
            Some(value) => drop(self.values.insert(key.to_owned(), value)),
            None => drop(self.values.remove(key)),
        }
    }

    /// The view of a topic, without what can't be used, and a list of that.
    pub(super) fn view(&self, topic: &Topic, layout: &Layout) -> (TopicView, Vec<Bad>) {
        let mut nodes = TopicNodes::default();
        let prefix = format!("{}/", layout.topic(topic));
        for (name, data) in self.below(&prefix) {
            if let Child::Master(id) = Child::parse(name) {
                nodes.masters.insert(id, self.values.get(&layout.master(id)).cloned());
            }
            nodes.children.insert(name.to_owned(), Some(data.clone()));
        }
        nodes.view(topic, layout)
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
    fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Vec<u8>)> {
        let keys = self.values.range(prefix.to_owned()..);
        keys.map_while(move |(key, value)| key.strip_prefix(prefix).map(|rest| (rest, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (view, bad) = keys.view(&"a".parse().unwrap(), &layout);
        let partitions: Vec<_> = view.partitions().iter().map(ToString::to_string).collect();
        assert_eq!(partitions, ["0-0", "0-1"]);
        assert_eq!(bad[0].entry.path, "/meta/brokers/ids/2/master");
        assert_eq!(keys.topics(&layout), ["a", "ab"]);
        keys.apply(b"/meta/brokers/topics-pub/a/0-m", None);
        assert!(keys.view(&"a".parse().unwrap(), &layout).0.is_empty());
    }
}
