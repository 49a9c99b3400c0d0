//! `sync`: from master to slave.

use bytes::{Bytes, BytesMut};

use crate::{
    Checksum, Flag, Opaque, PutData, Topic,
    encode::{Encode, frame_methods},
    number::{LineBuilder, text_len},
};

/// `sync`: pass a stored message from a master to its slave.
///
/// ```text
/// sync topic partition length flag message_id checksum opaque\r\ndata
///
/// >> sync test 0 5 0 7 907060870 1\r\nhello
/// ```
///
/// The layout before 1.4.4, without a checksum, can be decoded but is never encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyncCommand {
    /// The topic of the message.
    pub topic: Topic,
    /// The partition within the broker.
    pub partition: i32,
    /// The flag, which announces an attribute at the start of the data.
    pub flag: Flag,
    /// The id that the master assigned to the message.
    pub message_id: i64,
    /// The checksum of the data.
    pub checksum: Checksum,
    /// The number that the response repeats.
    pub opaque: Opaque,
    /// Attribute and payload.
    pub data: PutData,
}

impl SyncCommand {
    /// Creates a command for a stored message, with the matching checksum.
    #[must_use]
    pub fn new(topic: Topic, partition: i32, flag: Flag, message_id: i64, data: PutData) -> Self {
        Self {
            topic,
            partition,
            flag,
            message_id,
            checksum: data.checksum(),
            opaque: Opaque::default(),
            data,
        }
    }

    /// Sets the opaque.
    #[must_use]
    pub fn with_opaque(mut self, opaque: Opaque) -> Self {
        self.opaque = opaque;
        self
    }

    /// Sets the checksum.
    #[must_use]
    pub fn with_checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = checksum;
        self
    }
}

impl Encode for SyncCommand {
    fn head_len(&self) -> usize {
        "sync ".len()
            + self.topic.len()
            + 1
            + text_len(self.partition.into())
            + 1
            + text_len(self.data.len() as i64)
            + 1
            + text_len(self.flag.0.into())
            + 1
            + text_len(self.message_id)
            + 1
            + text_len(self.checksum.0.into())
            + 1
            + text_len(self.opaque.0.into())
            + 2
    }

    fn write_head(&self, dst: &mut BytesMut, body_len: usize) {
        let mut line = LineBuilder::line_end();
        line.number(self.opaque.0).number(self.checksum.0).number(self.message_id);
        line.number(self.flag.0).number(self.data.len() as i64).number(self.partition);
        line.append_to(dst, [b"sync ", self.topic.as_bytes()], body_len);
    }

    fn body(&self) -> (&Bytes, &Bytes) {
        self.data.parts()
    }
}

frame_methods!(SyncCommand);
