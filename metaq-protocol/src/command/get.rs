//! `get`: read stored messages.

use bytes::BytesMut;

use crate::{
    Opaque, Token, Topic,
    encode::{Encode, frame_methods},
    number::{LineBuilder, text_len},
};

/// `get`: read stored messages.
///
/// ```text
/// get topic group partition offset max_size opaque\r\n
///
/// >> get filtered none 0 0 1024 42\r\n
/// << result 301 2 42\r\n45
/// ```
///
/// The response is a [`DataCommand`](crate::DataCommand) of at most `max_size` bytes, cut at any byte, or a
/// [`BooleanCommand`](crate::BooleanCommand).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GetCommand {
    /// The topic to read from.
    pub topic: Topic,
    /// The consumer group, which a broker may use for filters.
    pub group: Token,
    /// The partition within the broker.
    pub partition: i32,
    /// The position in the partition's log to read from, in bytes.
    pub offset: i64,
    /// The largest number of bytes to send.
    pub max_size: i32,
    /// The number that the response repeats.
    pub opaque: Opaque,
}

impl GetCommand {
    /// Creates a request for at most `max_size` bytes from `offset` on.
    #[must_use]
    pub fn new(topic: Topic, group: Token, partition: i32, offset: i64, max_size: i32) -> Self {
        Self { topic, group, partition, offset, max_size, opaque: Opaque::default() }
    }

    /// Sets the opaque.
    #[must_use]
    pub fn with_opaque(mut self, opaque: Opaque) -> Self {
        self.opaque = opaque;
        self
    }
}

impl Encode for GetCommand {
    fn head_len(&self) -> usize {
        "get ".len()
            + self.topic.len()
            + 1
            + self.group.len()
            + 1
            + text_len(self.partition.into())
            + 1
            + text_len(self.offset)
            + 1
            + text_len(self.max_size.into())
            + 1
            + text_len(self.opaque.0.into())
            + 2
    }

    fn write_head(&self, dst: &mut BytesMut, body_len: usize) {
        let mut line = LineBuilder::line_end();
        line.number(self.opaque.0).number(self.max_size).number(self.offset).number(self.partition);
        let rest = 1 + self.group.len() + line.as_bytes().len() + body_len;
        LineBuilder::new().append_to(dst, [b"get ", self.topic.as_bytes()], rest);
        line.append_to(dst, [b" ", self.group.as_bytes()], body_len);
    }
}

frame_methods!(GetCommand);
