//! The commands without a body, but for transactions: reading, asking, and leaving.

use bytes::BytesMut;

use crate::{
    Opaque, Topic, Word,
    text::{Line, number_len},
};

/// Reads a stretch of a partition's log (wire rule 3.2).
///
/// ```text
/// get SP topic SP group SP partition SP offset SP maxSize SP opaque CRLF
///
/// get test g 0 0 1048576 31\r\n
/// ```
///
/// Answered with a [`DataCommand`](crate::DataCommand), or with a [`BooleanCommand`](crate::BooleanCommand) that says
/// why not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GetCommand {
    /// The topic.
    pub topic: Topic,
    /// The consumer group that asks.
    pub group: Word,
    /// The partition's index within the broker.
    pub partition: i32,
    /// From where in the log, in bytes.
    pub offset: i64,
    /// The most bytes to return.
    pub max_size: i32,
    /// Links the answer to this request.
    pub opaque: Opaque,
}

impl GetCommand {
    /// Reads up to `max_size` bytes of `partition` from `offset`.
    #[must_use]
    pub fn new(topic: Topic, group: Word, partition: i32, offset: i64, max_size: i32) -> Self {
        Self { topic, group, partition, offset, max_size, opaque: Opaque::NONE }
    }

    pub(crate) fn head_len(&self) -> usize {
        "get  \r\n".len()
            + self.topic.len()
            + self.group.len()
            + number_len(self.partition)
            + number_len(self.offset)
            + number_len(self.max_size)
            + number_len(self.opaque.0)
    }

    pub(crate) fn encode_head(&self, dst: &mut BytesMut) {
        Line::begin(dst, "get")
            .text(&self.topic)
            .text(&self.group)
            .number(self.partition)
            .number(self.offset)
            .number(self.max_size)
            .number(self.opaque.0)
            .end();
    }
}

/// Asks for an offset from which a partition can be read (wire rule 3.3).
///
/// ```text
/// offset SP topic SP group SP partition SP offset SP opaque CRLF
///
/// offset test g 0 0 50\r\n
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffsetCommand {
    /// The topic.
    pub topic: Topic,
    /// The consumer group that asks.
    pub group: Word,
    /// The partition's index within the broker.
    pub partition: i32,
    /// The offset near which to look.
    pub offset: i64,
    /// Links the answer to this request.
    pub opaque: Opaque,
}

impl OffsetCommand {
    /// Asks for an offset of `partition` at or before `offset`.
    #[must_use]
    pub fn new(topic: Topic, group: Word, partition: i32, offset: i64) -> Self {
        Self { topic, group, partition, offset, opaque: Opaque::NONE }
    }

    pub(crate) fn head_len(&self) -> usize {
        "offset  \r\n".len()
            + self.topic.len()
            + self.group.len()
            + number_len(self.partition)
            + number_len(self.offset)
            + number_len(self.opaque.0)
    }

    pub(crate) fn encode_head(&self, dst: &mut BytesMut) {
        Line::begin(dst, "offset")
            .text(&self.topic)
            .text(&self.group)
            .number(self.partition)
            .number(self.offset)
            .number(self.opaque.0)
            .end();
    }
}

/// Asks for statistics (wire rule 3.4).
///
/// ```text
/// stats SP item SP opaque CRLF
///
/// stats topics 80\r\n
/// stats  80\r\n              all, with two spaces
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatsCommand {
    /// What about: a topic, or one of the broker's words such as `topics`; `None` for the overview.
    pub item: Option<Word>,
    /// Links the answer to this request.
    pub opaque: Opaque,
}

impl StatsCommand {
    /// Asks for the broker's overview.
    #[must_use]
    pub fn overview() -> Self {
        Self { item: None, opaque: Opaque::NONE }
    }

    /// Asks about `item`.
    #[must_use]
    pub fn about(item: Word) -> Self {
        Self { item: Some(item), opaque: Opaque::NONE }
    }

    pub(crate) fn head_len(&self) -> usize {
        "stats \r\n".len() + self.item.as_ref().map_or(0, |item| item.len()) + number_len(self.opaque.0)
    }

    pub(crate) fn encode_head(&self, dst: &mut BytesMut) {
        Line::begin(dst, "stats").text(self.item.as_deref().unwrap_or_default()).number(self.opaque.0).end();
    }
}

/// Asks for the broker's version; also the heartbeat (wire rule 3.5).
///
/// ```text
/// version SP opaque CRLF
///
/// version 60\r\n
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionCommand {
    /// Links the answer to this request.
    pub opaque: Opaque,
}

impl Default for VersionCommand {
    fn default() -> Self {
        Self { opaque: Opaque::NONE }
    }
}

impl VersionCommand {
    pub(crate) fn head_len(&self) -> usize {
        "version\r\n".len() + number_len(self.opaque.0)
    }

    pub(crate) fn encode_head(&self, dst: &mut BytesMut) {
        Line::begin(dst, "version").number(self.opaque.0).end();
    }
}

/// Has the broker close the connection, without an answer (wire rule 3.6).
///
/// ```text
/// quit CRLF
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuitCommand;

impl QuitCommand {
    pub(crate) fn head_len(&self) -> usize {
        "quit\r\n".len()
    }

    pub(crate) fn encode_head(&self, dst: &mut BytesMut) {
        Line::begin(dst, "quit").end();
    }
}
