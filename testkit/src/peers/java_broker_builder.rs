//! The settings of a Java broker, and its configuration file.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, time::Duration};

/// The settings of a [`JavaBroker`](super::JavaBroker); made by
/// [`JavaBroker::builder`](super::JavaBroker::builder).
#[derive(Clone, Debug)]
pub struct JavaBrokerBuilder {
    pub(super) id: i32,
    pub(super) port: Option<u16>,
    pub(super) root: String,
    pub(super) registers: bool,
    pub(super) in_service: bool,
    pub(super) session_timeout: Duration,
    topics: Vec<ConfiguredTopic>,
    settings: BTreeMap<String, String>,
}

/// A section `[topic=…]`.
#[derive(Clone, Debug)]
struct ConfiguredTopic {
    name: String,
    settings: BTreeMap<String, String>,
}

impl JavaBrokerBuilder {
    pub(super) fn new(id: i32) -> Self {
        let settings = [
            ("numPartitions", "1"),
            ("unflushThreshold", "1"),
            ("unflushInterval", "100"),
            ("maxSegmentSize", "1073741824"),
            ("maxTransferSize", "1048576"),
        ];
        Self {
            id,
            port: None,
            root: "/meta".to_owned(),
            registers: true,
            in_service: false,
            session_timeout: Duration::from_secs(6),
            topics: Vec::new(),
            settings: owned(&settings),
        }
    }

    /// Adds a topic with this number of partitions.
    #[must_use]
    pub fn topic(self, name: impl AsRef<str>, partitions: u32) -> Self {
        self.topic_with(name, partitions, &[])
    }

    /// Adds a topic with this number of partitions and more lines of its section, such as
    /// `("acceptPublish", "false")`, which keeps it out of `topics-pub`, or `("unflushThreshold", "0")`,
    /// which makes messages readable before they are acknowledged.
    #[must_use]
    pub fn topic_with(mut self, name: impl AsRef<str>, partitions: u32, settings: &[(&str, &str)]) -> Self {
        let mut lines = owned(&[("stat", "true"), ("numPartitions", &partitions.to_string())]);
        lines.append(&mut owned(settings));
        self.topics.push(ConfiguredTopic { name: name.as_ref().to_owned(), settings: lines });
        self
    }

    /// Sets the root of its registry. Default `/meta`.
    #[must_use]
    pub fn root(mut self, root: &str) -> Self {
        root.clone_into(&mut self.root);
        self
    }

    /// Keeps it out of the registry (`zk.zkEnable=false`). It still fails to start when ZooKeeper can't be
    /// reached.
    #[must_use]
    pub fn unregistered(mut self) -> Self {
        self.registers = false;
        self
    }

    /// Sets the port on which it listens. Default: a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Sets the time after which ZooKeeper removes it when it was killed. Default 6 s.
    #[must_use]
    pub fn session_timeout(mut self, session_timeout: Duration) -> Self {
        self.session_timeout = session_timeout;
        self
    }

    /// Gives its JVM the settings of a broker in service: the default options and a heap of 1 GiB. For
    /// measurements; by default it starts faster, but never becomes fast.
    #[must_use]
    pub fn in_service(mut self) -> Self {
        self.in_service = true;
        self
    }

    /// Sets a line of the section `[system]` of its configuration.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Returns the node that shows that it is alive.
    pub(super) fn master_node(&self) -> String {
        format!("{}/brokers/ids/{}/master", self.root, self.id)
    }

    /// Returns all ephemeral nodes of a registered broker with these settings.
    pub(super) fn nodes(&self) -> Vec<String> {
        let Self { id, root, topics, .. } = self;
        let mut nodes = vec![self.master_node(), format!("{root}/brokers/ids/{id}/master_config_checksum")];
        for ConfiguredTopic { name, settings } in topics {
            let switched_off =
                |switch: &str| settings.get(switch).is_some_and(|value| value.eq_ignore_ascii_case("false"));
            nodes.push(format!("{root}/brokers/topics/{name}/{id}-m"));
            if !switched_off("acceptPublish") {
                nodes.push(format!("{root}/brokers/topics-pub/{name}/{id}-m"));
            }
            if !switched_off("acceptSubscribe") {
                nodes.push(format!("{root}/brokers/topics-sub/{name}/{id}-m"));
            }
        }
        nodes
    }

    /// Returns the text of its `server.ini`.
    pub(super) fn ini(&self, port: u16, data: &Path, zookeeper: &str) -> String {
        let Self { id, root, registers, session_timeout, topics, settings, .. } = self;
        let (data, timeout) = (data.display(), session_timeout.as_millis());
        let mut text = format!(
            "[system]\nbrokerId={id}\nserverPort={port}\ndashboardHttpPort=0\nhostName=127.0.0.1\ndataPath={data}\n\
             dataLogPath={data}\n"
        );
        push_lines(&mut text, settings);
        let _ = write!(
            text,
            "[zookeeper]\nzk.zkEnable={registers}\nzk.zkConnect={zookeeper}\nzk.zkRoot={root}\n\
             zk.zkSessionTimeoutMs={timeout}\nzk.zkConnectionTimeoutMs=30000\nzk.zkSyncTimeMs=1000\n"
        );
        for ConfiguredTopic { name, settings } in topics {
            let _ = writeln!(text, "[topic={name}]");
            push_lines(&mut text, settings);
        }
        text
    }
}

fn push_lines(text: &mut String, settings: &BTreeMap<String, String>) {
    for (name, value) in settings {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{name}={value}");
    }
}

fn owned(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
    settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_without_publishing_has_no_node_for_producers() {
        let setup =
            JavaBrokerBuilder::new(7).root("/r").topic_with("quiet", 3, &[("acceptPublish", "false")]);
        assert_eq!(
            setup.nodes(),
            [
                "/r/brokers/ids/7/master",
                "/r/brokers/ids/7/master_config_checksum",
                "/r/brokers/topics/quiet/7-m",
                "/r/brokers/topics-sub/quiet/7-m",
            ]
        );
    }

    #[test]
    fn a_setting_replaces_a_default() {
        let ini = JavaBrokerBuilder::new(0).setting("unflushThreshold", "0").topic("t", 2).ini(
            1,
            Path::new("/d"),
            "z:2",
        );
        assert!(ini.contains("\nunflushThreshold=0\n"), "{ini}");
        assert!(!ini.contains("\nunflushThreshold=1\n"), "{ini}");
        assert!(ini.ends_with("[topic=t]\nnumPartitions=2\nstat=true\n"), "{ini}");
    }
}
