//! Reading a topic back through the real Java client.

use std::{process::Stdio, time::Duration};

use metaq_protocol::Partition;
use tokio::process::Command;

use super::{PeerError, Peers, ZooKeeper};

/// After the expected number of messages was read, surplus ones have so long to show up. It is a multiple of what a
/// [`JavaBroker`](super::JavaBroker) takes to make them readable.
const SETTLE: Duration = Duration::from_millis(500);

/// A message as the Java client read it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadMessage {
    /// The partition that holds it.
    pub partition: Partition,
    /// Where it begins in the partition's log, in bytes.
    pub offset: i64,
    /// Its id.
    pub id: i64,
    /// Its attribute; an empty one is not the same as none.
    pub attribute: Option<String>,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Peers {
    /// Reads a whole topic from all its brokers, which register under `/meta`, through the real Java client. Waits until
    /// `expected` messages were read, but not longer than `deadline`, and then a little for surplus ones.
    ///
    /// # Errors
    /// When the reader can't be run or fails. Fewer or more messages than expected are no error.
    pub async fn read_topic(
        &self,
        zookeeper: &ZooKeeper,
        topic: &str,
        expected: usize,
        deadline: Duration,
    ) -> Result<Vec<ReadMessage>, PeerError> {
        let what = format!("reading topic {topic} with the Java client");
        let home = tempfile::TempDir::with_prefix("metaq-reader-")
            .map_err(PeerError::io("make a temporary folder"))?;
        let mut java = Command::new("java");
        java.arg("-Xmx512m").arg(format!("-Duser.home={}", home.path().display()));
        for package in ["java.nio", "sun.nio.ch", "java.lang", "java.util"] {
            java.arg(format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
        }
        java.arg("-cp").arg(self.reader_class_path()).args([
            "TopicReader",
            &zookeeper.connect_string(),
            "/meta",
        ]);
        java.args([topic, &expected.to_string()]);
        java.args([SETTLE, deadline].map(|time| time.as_millis().to_string()));
        java.current_dir(home.path()).stdin(Stdio::null()).kill_on_drop(true);
        let output = java.output().await.map_err(PeerError::io(what.clone()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let failed = |output: String| PeerError::Tool { what: what.clone(), output };
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        // The client's logging writes to the same stream; its lines don't begin with a partition.
        let messages = text.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit()));
        messages.map(|line| parse(line).ok_or_else(|| failed(format!("it printed {line:?}")))).collect()
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
    Some(ReadMessage { partition, offset, id, attribute, payload })
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some((digit(*high)? << 4) | digit(*low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_reader_prints() {
        let message = parse("0-3 31 -5468 61c3a9 00ff").unwrap();
        assert_eq!(message.partition, Partition::new(0, 3));
        assert_eq!((message.offset, message.id), (31, -5468));
        assert_eq!(message.attribute.as_deref(), Some("aé"));
        assert_eq!(message.payload, [0, 255]);
        assert_eq!(parse("0-3 0 1 - ").unwrap().attribute, None);
        assert_eq!(parse("0-3 0 1  ").unwrap().attribute.as_deref(), Some(""));
        assert_eq!(parse("0-3 0 1 - 0"), None);
    }
}
