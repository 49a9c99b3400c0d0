//! Reading the stored messages of a broker.

use bytes::{Bytes, BytesMut};
use metaq_protocol::{Partition, StoredMessages};

use super::broker::Broker;

/// A message as the broker stored it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// The partition that holds it.
    pub partition: Partition,
    /// The offset of the message in the partition's log, in bytes.
    pub offset: i64,
    /// The id of the message.
    pub id: i64,
    /// The attribute; an empty one differs from none.
    pub attribute: Option<String>,
    /// The payload.
    pub payload: Bytes,
}

impl Broker {
    /// Returns the bytes of a partition's log from its first offset on, readable or not: the messages as they
    /// are stored. Empty when there is no such partition.
    #[must_use]
    pub fn log(&self, topic: impl AsRef<str>, index: i32) -> Bytes {
        let Some(log) = self.shared.topics.get(topic.as_ref()).and_then(|topic| topic.existing_log(index))
        else {
            return Bytes::new();
        };
        let mut log = log.lock();
        let (mut bytes, mut at) = (BytesMut::new(), log.first_offset());
        while let Ok(stretch) = log.read(at, usize::MAX)
            && !stretch.is_empty()
        {
            bytes.extend_from_slice(&stretch);
            at += stretch.len() as u64;
        }
        bytes.freeze()
    }

    /// Returns all stored messages of a topic, readable or not; those of a transaction once it has committed.
    /// They are sorted by partition, then by order of storage. A message whose flag promises an attribute
    /// that is missing, and the messages behind it in its partition, are left out. Empty when there is no
    /// such topic.
    #[must_use]
    pub fn messages(&self, topic: impl AsRef<str>) -> Vec<Stored> {
        let mut all = Vec::new();
        let Some(topic) = self.shared.topics.get(topic.as_ref()) else { return all };
        for (index, log) in topic.logs() {
            let partition = Partition { broker: self.shared.id, index };
            let mut log = log.lock();
            let (mut offset, end) = (log.first_offset(), log.end_offset());
            'partition: while offset < end {
                // One segment at a time: it holds whole messages.
                let Ok(bytes) = log.read(offset, usize::MAX) else { break };
                let start = offset;
                for message in StoredMessages::new(bytes).with_max_len(usize::MAX) {
                    let Ok(message) = message else { break 'partition };
                    all.push(Stored {
                        partition,
                        offset: offset.cast_signed(),
                        id: message.id,
                        attribute: message.attribute,
                        payload: message.payload,
                    });
                    offset = start + message.next_offset as u64;
                }
                if offset == start {
                    break;
                }
            }
        }
        all
    }
}
