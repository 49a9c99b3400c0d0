//! Reading a topic back through the real Java client.

use std::{fs, time::Duration};

use data_encoding::HEXLOWER_PERMISSIVE;
use metaq_protocol::Partition;
use tempfile::TempDir;

use super::{
    PeerError, Peers, ZooKeeper,
    artifacts::fast_start,
    process::{PEER_TIMEOUT, PeerProcess},
};

/// A message as the Java client read it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadMessage {
    /// The partition that holds it.
    pub partition: Partition,
    /// The offset of the message in the partition's log, in bytes.
    pub offset: i64,
    /// The id of the message.
    pub id: i64,
    /// The attribute; an empty one differs from none.
    pub attribute: Option<String>,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Reads topics back through the real Java client, from the beginning of every partition.
#[derive(Clone, Debug)]
pub struct JavaReader {
    peers: Peers,
    root: String,
    settle: Duration,
}

impl JavaReader {
    /// Returns a reader of clusters that register under `/meta`.
    #[must_use]
    pub fn new(peers: &Peers) -> Self {
        Self { peers: peers.clone(), root: "/meta".to_owned(), settle: Duration::from_millis(500) }
    }

    /// Sets the root of the cluster's registry. Default `/meta`.
    #[must_use]
    pub fn root(mut self, root: &str) -> Self {
        root.clone_into(&mut self.root);
        self
    }

    /// Sets the time to wait for surplus messages after the expected number was read. Default 500 ms, several
    /// times the delay after which a [`JavaBroker`](super::JavaBroker) with the default settings makes them
    /// readable. With a shorter time surplus messages may be missed.
    #[must_use]
    pub fn settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// Reads a whole topic from all its brokers. Waits until `expected` messages were read and no more follow
    /// for a while, but not longer than `deadline`. Returns them sorted by partition, then by offset.
    ///
    /// # Errors
    /// When the reader can't be run, or when a partition can't be read to its end: its broker has no address
    /// or doesn't answer, or a message is corrupt or larger than the broker's limit of one response. Fewer or
    /// more messages than expected are no error.
    pub async fn read_topic(
        &self,
        zookeeper_connect: &str,
        topic: impl AsRef<str>,
        expected: usize,
        deadline: Duration,
    ) -> Result<Vec<ReadMessage>, PeerError> {
        let topic = topic.as_ref();
        let what = format!("reading topic {topic} with the Java client");
        let mut folder =
            TempDir::with_prefix("metaq-reader-").map_err(PeerError::io("make a temporary folder"))?;
        let printed = folder.path().join("messages");
        let mut args = fast_start();
        args.extend(Peers::jvm_options(folder.path())?);
        args.extend(["-Xmx512m", "-cp", &self.peers.reader_class_path(), "TopicReader"].map(str::to_owned));
        args.extend([zookeeper_connect, &self.root, topic, &expected.to_string()].map(str::to_owned));
        args.extend([self.settle, deadline].map(|time| time.as_millis().to_string()));
        args.push(printed.display().to_string());
        let mut process =
            PeerProcess::start(&what, "java", &args, folder.path(), &folder.path().join("reader.log"))?;
        if let Err(error) = process.succeed(deadline + PEER_TIMEOUT).await {
            folder.disable_cleanup(true);
            return Err(error);
        }
        let text =
            fs::read_to_string(&printed).map_err(PeerError::io(format!("read {}", printed.display())))?;
        let unreadable =
            |line: &str| PeerError::Tool { what: what.clone(), output: format!("it printed {line:?}") };
        let messages: Result<Vec<_>, _> =
            text.lines().map(|line| parse(line).ok_or_else(|| unreadable(line))).collect();
        let mut messages = messages?;
        messages.sort_by_key(|message| (message.partition, message.offset));
        Ok(messages)
    }
}

impl Peers {
    /// Reads a whole topic from all its brokers, which register under `/meta`, as [`JavaReader::read_topic`]
    /// does.
    ///
    /// # Errors
    /// The same as for [`JavaReader::read_topic`].
    pub async fn read_topic(
        &self,
        zookeeper: &ZooKeeper,
        topic: impl AsRef<str>,
        expected: usize,
        deadline: Duration,
    ) -> Result<Vec<ReadMessage>, PeerError> {
        JavaReader::new(self).read_topic(&zookeeper.connect_string(), topic, expected, deadline).await
    }
}

fn parse(line: &str) -> Option<ReadMessage> {
    let mut words = line.split(' ');
    let partition = words.next()?.parse().ok()?;
    let offset = words.next()?.parse().ok()?;
    let id = words.next()?.parse().ok()?;
    let attribute = match words.next()? {
        "-" => None,
        hex => Some(String::from_utf8(unhex(hex)?).ok()?),
    };
    let payload = unhex(words.next()?)?;
    words.next().is_none().then_some(ReadMessage { partition, offset, id, attribute, payload })
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_reader_are_parsed() {
        let message = parse("0-3 31 -5468 61c3a9 00ff").unwrap();
        assert_eq!(message.partition, Partition::new(0, 3));
        assert_eq!((message.offset, message.id), (31, -5468));
        assert_eq!(message.attribute.as_deref(), Some("aé"));
        assert_eq!(message.payload, [0, 255]);
        assert_eq!(parse("0-3 0 1 - ").unwrap().attribute, None);
        assert_eq!(parse("0-3 0 1  ").unwrap().attribute.as_deref(), Some(""));
        assert_eq!(parse("0-3 0 1 - 0"), None);
        assert_eq!(parse("0-3 0 1 - 00 00"), None);
    }
}
