//! The rows about the spool and about its queues.

use std::time::Duration;

use crate::{
    clock::Times,
    fields::{BadRow, Reader, Writer},
    record::{QueueKey, millis},
};

/// What the spool knows about itself, written with each commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StateRow {
    /// The number of commits until now.
    pub(crate) serial: u64,
    /// The number of the next message.
    pub(crate) next_number: u64,
    /// The number of the next queue.
    pub(crate) next_queue: u32,
    /// Set while no process uses the folder.
    pub(crate) is_closed: bool,
    /// The time of the commit.
    pub(crate) times: Times,
    /// The number of messages of each queue that may be replayed and not removed: while the folder is in use,
    /// as many as the process allows; after that, as many as were found and are still there.
    pub(crate) window: u64,
}

impl StateRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(45);
        writer.u64(self.serial);
        writer.u64(self.next_number);
        writer.u32(self.next_queue);
        writer.u8(self.is_closed.into());
        writer.u64(millis(self.times.spool));
        writer.u64(millis(self.times.wall));
        writer.u64(self.window);
        writer.finish()
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Self, BadRow> {
        let mut reader = Reader::new(row)?;
        Ok(Self {
            serial: reader.u64()?,
            next_number: reader.u64()?,
            next_queue: reader.u32()?,
            is_closed: reader.u8()? != 0,
            times: Times {
                spool: Duration::from_millis(reader.u64()?),
                wall: Duration::from_millis(reader.u64()?),
            },
            window: reader.u64()?,
        })
    }
}

/// What a queue holds, written with each commit that changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueRow {
    pub(crate) key: QueueKey,
    /// No message with a smaller number is stored, or can be read.
    pub(crate) first: u64,
    /// A number that is larger than that of each message.
    pub(crate) end: u64,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl QueueRow {
    pub(crate) fn new(key: QueueKey, first: u64) -> Self {
        Self { key, first, end: first, messages: 0, bytes: 0 }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let topic = self.key.topic.as_str();
        let mut writer = Writer::with_capacity(45 + topic.len());
        writer.bytes(topic.as_bytes());
        writer.partition(self.key.partition);
        writer.u64(self.first);
        writer.u64(self.end);
        writer.u64(self.messages);
        writer.u64(self.bytes);
        writer.finish()
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Self, BadRow> {
        let mut reader = Reader::new(row)?;
        let key = QueueKey { topic: reader.topic()?, partition: reader.partition()? };
        Ok(Self {
            key,
            first: reader.u64()?,
            end: reader.u64()?,
            messages: reader.u64()?,
            bytes: reader.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use metaq_producer::Partition;

    use super::*;

    #[test]
    fn rows_survive_encoding() {
        let state = StateRow {
            serial: 1,
            next_number: 2,
            next_queue: 3,
            is_closed: true,
            times: Times { spool: Duration::from_millis(4), wall: Duration::from_millis(6) },
            window: 5,
        };
        assert_eq!(StateRow::decode(&state.encode()), Ok(state));
        for partition in [None, Some(Partition::new(2, 5))] {
            let key = QueueKey { topic: "orders".parse().unwrap(), partition };
            let queue = QueueRow { messages: 8, bytes: 9, end: 17, ..QueueRow::new(key, 7) };
            assert_eq!(QueueRow::decode(&queue.encode()), Ok(queue));
        }
        assert!(QueueRow::decode(&state.encode()).is_err());
    }
}
