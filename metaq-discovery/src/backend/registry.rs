//! The entries of brokers in a registry: paths and data, without I/O.

#[cfg(test)]
use std::collections::BTreeMap;
use std::str;

use metaq_protocol::{BrokerAddr, BrokerId, Topic};

use super::bad_entries::UnusableEntry;
use crate::{BadEntry, BrokerRole, MAX_PARTITIONS, TopicView, ViewBroker};

/// The paths of a cluster's registry below its root, usually `/meta` (rule S-8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Empty, or with a leading slash and without a trailing one.
    root: String,
}

impl Layout {
    /// Adds a leading slash to the root and removes trailing ones (rule S-7).
    pub(crate) fn new(root: &str) -> Self {
        let root = root.trim_matches('/');
        Self { root: if root.is_empty() { String::new() } else { format!("/{root}") } }
    }

    /// The prefix of all paths of the registry.
    #[cfg(feature = "etcd")]
    pub(crate) fn brokers(&self) -> String {
        format!("{}/brokers/", self.root)
    }

    pub(crate) fn topics(&self) -> String {
        format!("{}/brokers/topics-pub", self.root)
    }

    #[cfg(feature = "zookeeper")]
    pub(crate) fn topic(&self, topic: &Topic) -> String {
        format!("{}/brokers/topics-pub/{topic}", self.root)
    }

    /// The prefix of the paths of brokers' addresses.
    #[cfg(feature = "etcd")]
    pub(crate) fn ids(&self) -> String {
        format!("{}/brokers/ids/", self.root)
    }

    /// The parent of the node with a broker's address.
    #[cfg(feature = "zookeeper")]
    pub(crate) fn broker(&self, broker: BrokerId) -> String {
        format!("{}/brokers/ids/{broker}", self.root)
    }

    /// The node whose children are the brokers.
    #[cfg(feature = "zookeeper")]
    pub(crate) fn brokers_node(&self) -> String {
        format!("{}/brokers/ids", self.root)
    }

    /// The topic and the child's name of a path; `None` for any other path.
    #[cfg(feature = "etcd")]
    pub(crate) fn child_of<'a>(&self, path: &'a [u8]) -> Option<(Topic, &'a str)> {
        let below = str::from_utf8(path).ok()?.strip_prefix(&self.topics())?.strip_prefix('/')?;
        let (topic, name) = below.split_once('/')?;
        Some((Topic::new(topic).ok()?, name))
    }

    /// The broker whose address is stored at a path; `None` for any other path.
    #[cfg(feature = "etcd")]
    pub(crate) fn master_of(&self, path: &[u8]) -> Option<BrokerId> {
        let path = str::from_utf8(path).ok()?;
        let id = path.strip_prefix(&self.ids())?.strip_suffix("/master")?.parse().ok().map(BrokerId)?;
        // Only the canonical spelling of an id counts.
        (self.master(id) == path).then_some(id)
    }

    /// The slave, by its id and its number, whose address is stored at a path; `None` for any other path.
    #[cfg(feature = "etcd")]
    pub(crate) fn slave_of(&self, path: &[u8]) -> Option<(BrokerId, BrokerRole)> {
        let (id, name) = str::from_utf8(path).ok()?.strip_prefix(&self.ids())?.split_once('/')?;
        let known = id.parse().ok().filter(|known: &i32| *known >= 0 && known.to_string() == id)?;
        let role = parse_role(name).filter(|role| *role != BrokerRole::Master)?;
        Some((BrokerId(known), role))
    }

    pub(crate) fn child(&self, topic: &Topic, child: &str) -> String {
        format!("{}/brokers/topics-pub/{topic}/{child}", self.root)
    }

    pub(crate) fn master(&self, broker: BrokerId) -> String {
        format!("{}/brokers/ids/{broker}/master", self.root)
    }

    /// The path of a broker's address.
    #[cfg(feature = "etcd")]
    pub(crate) fn address(&self, broker: BrokerId, role: BrokerRole) -> String {
        format!("{}/brokers/ids/{broker}/{role}", self.root)
    }
}

/// Parses the name of the node that holds a broker's address: `master`, or `slave` and a number (registry
/// §6). `None` for any other name.
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
pub(crate) fn parse_role(name: &str) -> Option<BrokerRole> {
    match name.strip_prefix("slave") {
        None => (name == "master").then_some(BrokerRole::Master),
        Some(number) => {
            let known = number.parse().ok().filter(|known: &u32| known.to_string() == number)?;
            Some(BrokerRole::Slave(known))
        }
    }
}

/// The meaning of the name of a topic's child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Child {
    Master(BrokerId),
    /// Producers do not send to slaves (rule P-27).
    Slave,
    Unknown,
}

impl Child {
    pub(crate) fn parse(name: &str) -> Self {
        let Some((id, role)) = name.split_once('-') else {
            return Self::Unknown;
        };
        let Some(id) = id.parse().ok().filter(|id| *id >= 0) else {
            return Self::Unknown;
        };
        match role.strip_prefix('s') {
            _ if role == "m" => Self::Master(BrokerId(id)),
            Some(number) if number.parse::<u32>().is_ok() => Self::Slave,
            _ => Self::Unknown,
        }
    }
}

/// The entries of one topic.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(crate) struct TopicNodes {
    /// The data of each child; `None` for a child that was gone when it was read.
    pub(crate) children: BTreeMap<String, Option<Vec<u8>>>,
    /// The data of `ids/ID/master` of each master among the children; `None` where there is no such node.
    pub(crate) masters: BTreeMap<BrokerId, Option<Vec<u8>>>,
}

#[cfg(test)]
impl TopicNodes {
    /// The view of the usable entries, and the list of the unusable ones.
    pub(crate) fn view(&self, topic: &Topic, layout: &Layout) -> (TopicView, Vec<UnusableEntry>) {
        let mut builder = ViewBuilder::new(topic, layout);
        for (name, data) in &self.children {
            match (Child::parse(name), data) {
                (Child::Unknown, _) => builder.unknown_child(name),
                (Child::Slave, _) | (_, None) => {}
                (Child::Master(id), Some(data)) => match parse_partitions(data) {
                    Ok(partitions) => {
                        match self.masters.get(&id).and_then(Option::as_deref).map(parse_addr) {
                            Some(Ok(addr)) => builder.broker(id, addr, partitions),
                            Some(Err(reason)) => builder.bad_master(id, &reason),
                            None => builder.missing_master(id),
                        }
                    }
                    Err(reason) => builder.bad_child(name, &reason),
                },
            }
        }
        builder.build()
    }
}

/// Builds the view of a topic from its nodes, and collects the unusable entries.
#[derive(Debug)]
pub(crate) struct ViewBuilder<'a> {
    topic: &'a Topic,
    layout: &'a Layout,
    view: TopicView,
    bad: Vec<UnusableEntry>,
}

impl<'a> ViewBuilder<'a> {
    pub(crate) fn new(topic: &'a Topic, layout: &'a Layout) -> Self {
        Self { topic, layout, view: TopicView::new(topic.clone()), bad: Vec::new() }
    }

    /// Adds a broker. Building is fastest in ascending order of ids.
    pub(crate) fn broker(&mut self, id: BrokerId, addr: BrokerAddr, partitions: u32) {
        self.view.insert(ViewBroker { id, addr, partitions: Some(partitions.min(MAX_PARTITIONS)) });
    }

    /// Reports a child whose name does not have the form that brokers use.
    pub(crate) fn unknown_child(&mut self, name: &str) {
        self.bad_child(name, "its name is neither ID-m nor ID-sN");
    }

    pub(crate) fn bad_child(&mut self, name: &str, reason: &str) {
        self.bad.push(UnusableEntry::permanent(self.layout.child(self.topic, name), reason));
    }

    pub(crate) fn bad_master(&mut self, id: BrokerId, reason: &str) {
        self.bad.push(UnusableEntry::permanent(self.layout.master(id), reason));
    }

    /// Reports a broker that offers the topic but has no address.
    pub(crate) fn missing_master(&mut self, id: BrokerId) {
        // Registry §19: a broker that is killed and restarted immediately registers only its topics.
        let reason = "the broker offers a topic but has no address here; it may need a restart";
        self.bad
            .push(UnusableEntry { entry: BadEntry::new(self.layout.master(id), reason), is_transient: true });
    }

    pub(crate) fn build(self) -> (TopicView, Vec<UnusableEntry>) {
        (self.view, self.bad)
    }
}

/// Parses `{"broker":"0-m","numParts":3}`. As lenient as the Java client (rule P-24), and additionally
/// ignores unknown fields.
pub(crate) fn parse_partitions(data: &[u8]) -> Result<u32, String> {
    let mut values = serde_json::Deserializer::from_slice(data).into_iter::<serde_json::Value>();
    let value = match values.next() {
        Some(Ok(value)) => value,
        Some(Err(error)) => return Err(format!("its data is not JSON: {error}")),
        None => return Err("it has no data".to_owned()),
    };
    let count = match &value["numParts"] {
        serde_json::Value::Number(number) => number.as_f64(),
        serde_json::Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match count {
        Some(count) if count >= 1.0 && count <= f64::from(MAX_PARTITIONS) => Ok(count as u32),
        Some(count) => Err(format!("its numParts is {count}, not between 1 and {MAX_PARTITIONS}")),
        None => Err("its data has no numParts".to_owned()),
    }
}

pub(crate) fn parse_addr(data: &[u8]) -> Result<BrokerAddr, String> {
    let text = str::from_utf8(data).map_err(|_| "its data is not UTF-8".to_owned())?.trim();
    if text.is_empty() {
        return Err("it has no data".to_owned());
    }
    // As lenient as the Java client, which accepts any URI.
    BrokerAddr::parse_with_slave_id(text).map(|(addr, _)| addr).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(children: &[(&str, &str)], masters: &[(i32, Option<&str>)]) -> (Vec<String>, Vec<String>) {
        let bytes = |text: &str| Some(text.as_bytes().to_vec());
        let nodes = TopicNodes {
            children: children.iter().map(|(name, data)| ((*name).to_owned(), bytes(data))).collect(),
            masters: masters.iter().map(|(id, data)| (BrokerId(*id), data.and_then(bytes))).collect(),
        };
        let (view, bad) = nodes.view(&Topic::new("alpha").unwrap(), &Layout::new("meta"));
        let partitions = view.partitions().iter().map(ToString::to_string).collect();
        (partitions, bad.into_iter().map(|bad| bad.entry.path).collect())
    }

    #[test]
    fn paths_are_those_of_a_real_registry() {
        let topic = Topic::new("alpha").unwrap();
        for root in ["meta", "/meta", "/meta/", "meta//"] {
            let layout = Layout::new(root);
            assert_eq!(layout.child(&topic, "0-m"), "/meta/brokers/topics-pub/alpha/0-m", "S-7, S-8");
            assert_eq!(layout.master(BrokerId(0)), "/meta/brokers/ids/0/master");
        }
        assert_eq!(Layout::new("/").topics(), "/brokers/topics-pub");
        assert_eq!(Layout::new("/a/b").topics(), "/a/b/brokers/topics-pub");
    }

    #[test]
    fn masters_are_read_and_slaves_ignored() {
        let (partitions, bad) = view(
            &[
                ("0-m", r#"{"broker":"0-m","numParts":3}"#),
                ("0-s1", r#"{"numParts":3,"broker":"0-s1"}"#),
                ("1-m", r#"{"numParts":2,"broker":"1-m"}"#),
            ],
            &[(0, Some("meta://127.0.0.1:20661")), (1, Some("meta://[::1]:20663"))],
        );
        assert_eq!(partitions, ["0-0", "0-1", "0-2", "1-0", "1-1"], "registry §6, registry §13");
        assert!(bad.is_empty());
    }

    #[test]
    fn a_bad_entry_does_not_affect_the_others() {
        let good = [
            ("1-m", r#"{"numParts":1}"#),
            ("2-m", r#"{"numParts":"2","more":1} x"#),
            ("3-m", r#"{"numParts":2.7}"#),
        ];
        for (name, data) in [
            ("0-m", ""),
            ("0-m", "x"),
            ("0-m", "null"),
            ("0-m", "7"),
            ("0-m", "{}"),
            ("0-m", r#"{"numParts":0}"#),
            ("0-m", r#"{"numParts":-3}"#),
            ("0-m", r#"{"numParts":1e9}"#),
            ("0-m", r#"{"numParts":null}"#),
            ("x-m", r#"{"numParts":1}"#),
            ("0-x-m", r#"{"numParts":1}"#),
            ("0-q", r#"{"numParts":1}"#),
            ("-m", ""),
            ("m", ""),
        ] {
            let mut children = good.to_vec();
            children.push((name, data));
            let masters = [0, 1, 2, 3].map(|id| (id, Some("meta://h:1")));
            let (partitions, bad) = view(&children, &masters);
            assert_eq!(partitions, ["1-0", "2-0", "2-1", "3-0", "3-1"], "P-24, K-8: {name} {data}");
            assert_eq!(bad, [format!("/meta/brokers/topics-pub/alpha/{name}")]);
        }
    }

    #[test]
    fn a_broker_without_a_usable_address_has_no_partitions() {
        let child = [("0-m", r#"{"numParts":1}"#)];
        for data in [None, Some(""), Some(" "), Some("h:1"), Some("meta://h"), Some("meta://h:0")] {
            let (partitions, bad) = view(&child, &[(0, data)]);
            assert!(partitions.is_empty(), "K-11, registry §19: {data:?}");
            assert_eq!(bad, ["/meta/brokers/ids/0/master"]);
        }
        let (partitions, _) = view(&child, &[(0, Some("meta://h:1 "))]);
        assert_eq!(partitions, ["0-0"]);
    }
}
