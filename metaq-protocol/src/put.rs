//! The commands that carry a message: from a client to a broker, and from a master to its slave.

use bytes::{Bytes, BytesMut};

use crate::{
    Checksum, Flag, Opaque, PutData, Topic, TransactionId,
    text::{Line, number_len},
};

/// Stores a message (wire rule 3.1).
///
/// ```text
/// put SP topic SP partition SP length SP flag SP checksum [SP transaction] SP opaque CRLF data
///
/// put test 1 5 0 907060870 -2147483648\r\nhello
/// ```
///
/// Answered with a [`BooleanCommand`](crate::BooleanCommand), whose body is a [`PutAnswer`](crate::PutAnswer) when
/// it is a success.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PutCommand {
    /// The topic.
    pub topic: Topic,
    /// The partition's index within the broker; -1 lets the broker choose.
    pub partition: i32,
    /// What the data is made of.
    pub flag: Flag,
    /// The data's checksum.
    pub checksum: Checksum,
    /// The transaction that the message belongs to, if it belongs to one. Then the broker ignores the checksum.
    pub transaction: Option<TransactionId>,
    /// Links the answer to this request.
    pub opaque: Opaque,
    /// Attribute and payload.
    pub data: PutData,
}

impl PutCommand {
    /// A put of a message, with its checksum, outside of transactions.
    #[must_use]
    pub fn new(topic: Topic, partition: i32, payload: Bytes, attribute: Option<&str>) -> Self {
        let data = PutData::new(payload, attribute);
        let flag = if attribute.is_some() { Flag::ATTRIBUTE } else { Flag::NONE };
        let checksum = data.checksum();
        Self { topic, partition, flag, checksum, transaction: None, opaque: Opaque::NONE, data }
    }

    pub(crate) fn head_len(&self) -> usize {
        "put \r\n".len()
            + self.topic.len()
            + number_len(self.partition)
            + number_len(self.data.len() as i64)
            + number_len(self.flag.0)
            + number_len(self.checksum.0)
            + self.transaction.as_ref().map_or(0, |id| 1 + id.text_len())
            + number_len(self.opaque.0)
    }

    pub(crate) fn encode_head(&self, dst: &mut BytesMut) {
        let line = Line::begin(dst, "put")
            .text(&self.topic)
            .number(self.partition)
            .number(self.data.len() as i64)
            .number(self.flag.0)
            .number(self.checksum.0);
        let line = match &self.transaction {
            Some(id) => line.display(id),
            None => line,
        };
        line.number(self.opaque.0).end();
    }
}

/// Passes a stored message on from a master to its slave (wire rule 3.8).
///
/// ```text
/// sync SP topic SP partition SP length SP flag SP id SP checksum SP opaque CRLF data
///
/// sync test 1 5 0 9999 907060870 0\r\nhello
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyncCommand {
    /// The topic.
    pub topic: Topic,
    /// The partition's index within the broker.
    pub partition: i32,
    /// What the data is made of.
    pub flag: Flag,
    /// The id that the master gave the message.
    pub message_id: i64,
    /// The data's checksum.
    pub checksum: Checksum,
    /// Links the answer to this request.
    pub opaque: Opaque,
    /// Attribute and payload.
    pub data: PutData,
}

impl SyncCommand {
    /// Passes `data` on, with its checksum.
    #[must_use]
    pub fn new(topic: Topic, partition: i32, message_id: i64, flag: Flag, data: PutData) -> Self {
        let checksum = data.checksum();
        Self { topic, partition, flag, message_id, checksum, opaque: Opaque::NONE, data }
    }

    pub(crate) fn head_len(&self) -> usize {
        "sync \r\n".len()
            + self.topic.len()
            + number_len(self.partition)
            + number_len(self.data.len() as i64)
            + number_len(self.flag.0)
            + number_len(self.message_id)
            + number_len(self.checksum.0)
            + number_len(self.opaque.0)
    }

    pub(crate) fn encode_head(&self, dst: &mut BytesMut) {
        Line::begin(dst, "sync")
            .text(&self.topic)
            .number(self.partition)
            .number(self.data.len() as i64)
            .number(self.flag.0)
            .number(self.message_id)
            .number(self.checksum.0)
            .number(self.opaque.0)
            .end();
    }
}
