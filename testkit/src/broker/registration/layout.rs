//! The entries of a broker: paths and texts.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use crate::broker::shared::BrokerShared;

/// The entries of each topic: path and text.
pub(super) type TopicEntries = BTreeMap<String, Vec<(String, String)>>;

/// The paths of a broker's entries below the root.
pub(super) struct Layout {
    brokers: String,
    id: String,
}

impl Layout {
    pub(super) fn new(root: &str, shared: &BrokerShared) -> Self {
        Self { brokers: format!("{root}/brokers"), id: shared.id.to_string() }
    }

    /// Returns the path of the permanent entry, which stays when the broker leaves but one of its slaves
    /// doesn't.
    pub(super) fn broker(&self) -> String {
        format!("{}/ids/{}", self.brokers, self.id)
    }

    /// Returns the path of the broker's address. The owner of this entry is the broker with this id.
    pub(super) fn master(&self) -> String {
        format!("{}/ids/{}/master", self.brokers, self.id)
    }

    pub(super) fn checksum(&self) -> String {
        format!("{}/ids/{}/master_config_checksum", self.brokers, self.id)
    }

    /// Returns the entries of a broker's topics (registry §1).
    pub(super) fn topics(&self, shared: &BrokerShared) -> TopicEntries {
        let mut topics = TopicEntries::new();
        for entry in shared.topics.all() {
            if !entry.is_registered() || !can_be_node(&entry.name) {
                continue;
            }
            let partitions = shared.topics.partitions(Some(&entry));
            let path = |kind: &str| format!("{}/{kind}/{}/{}-m", self.brokers, entry.name, self.id);
            let json = format!("{{\"broker\":\"{}-m\",\"numParts\":{partitions}}}", self.id);
            let mut entries = vec![(path("topics"), partitions.to_string())];
            for (kind, switch) in [("topics-pub", &entry.publishes), ("topics-sub", &entry.subscribes)] {
                if switch.load(Ordering::Acquire) {
                    entries.push((path(kind), json.clone()));
                }
            }
            topics.insert(entry.name.to_string(), entries);
        }
        topics
    }
}

/// Returns whether a topic's name, which a client may have chosen, is a valid name of a node.
fn can_be_node(name: &str) -> bool {
    let refused = |c: char| {
        c == '/'
            || c.is_control()
            || ('\u{e000}'..='\u{f8ff}').contains(&c)
            || ('\u{fff0}'..='\u{ffff}').contains(&c)
    };
    !matches!(name, "" | "." | "..") && !name.contains(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_registry_accepts_are_left_out() {
        for (name, can) in [
            ("orders", true),
            ("dyn*", true),
            ("主题", true),
            ("", false),
            ("..", false),
            ("a/b", false),
            ("a\u{1}", false),
            ("\u{fffd}", false),
        ] {
            assert_eq!(can_be_node(name), can, "{name:?}");
        }
    }
}
