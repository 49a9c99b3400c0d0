//! `offset`: find a log segment.

use bytes::BytesMut;

use crate::{
    Opaque, Token, Topic,
    encode::{Encode, frame_methods},
    number::{LineBuilder, text_len},
};

/// `offset`: find the start of the log segment that holds an offset.
///
/// ```text
/// offset topic group partition offset opaque\r\n
///
/// >> offset test g 0 0 50\r\n
/// << result 200 1 50\r\n0
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffsetCommand {
    /// The topic to search.
    pub topic: Topic,
    /// The consumer group.
    pub group: Token,
    /// The partition within the broker.
    pub partition: i32,
    /// The offset to find.
    pub offset: i64,
    /// The number that the response repeats.
    pub opaque: Opaque,
}

impl OffsetCommand {
    /// Creates a request for the segment that holds `offset`.
    #[must_use]
    pub fn new(topic: Topic, group: Token, partition: i32, offset: i64) -> Self {
        Self { topic, group, partition, offset, opaque: Opaque::default() }
    }

    /// Sets the opaque.
    #[must_use]
    pub fn with_opaque(mut self, opaque: Opaque) -> Self {
        self.opaque = opaque;
        self
    }
}

impl Encode for OffsetCommand {
    fn head_len(&self) -> usize {
        "offset ".len()
            + self.topic.len()
            + 1
            + self.group.len()
            + 1
            + text_len(self.partition.into())
            + 1
            + text_len(self.offset)
            + 1
            + text_len(self.opaque.0.into())
            + 2
    }

    fn write_head(&self, dst: &mut BytesMut, body_len: usize) {
        let mut line = LineBuilder::line_end();
        line.number(self.opaque.0).number(self.offset).number(self.partition);
        let rest = 1 + self.group.len() + line.as_bytes().len() + body_len;
        LineBuilder::new().append_to(dst, [b"offset ", self.topic.as_bytes()], rest);
        line.append_to(dst, [b" ", self.group.as_bytes()], body_len);
    }
}

frame_methods!(OffsetCommand);
