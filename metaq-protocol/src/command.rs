//! Requests: what a client sends to a broker.

use bytes::{Bytes, BytesMut};

use crate::{
    Checksum, Flag, Opaque, PutData, Topic, Word,
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
    /// The key of the transaction that the message belongs to, if it belongs to one.
    pub transaction: Option<Word>,
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

    fn head_len(&self) -> usize {
        "put \r\n".len()
            + self.topic.len()
            + number_len(self.partition)
            + number_len(self.data.len() as i64)
            + number_len(self.flag.0)
            + number_len(self.checksum.0)
            + self.transaction.as_ref().map_or(0, |key| 1 + key.len())
            + number_len(self.opaque.0)
    }

    fn encode_head(&self, dst: &mut BytesMut) {
        let line = Line::begin(dst, "put")
            .text(&self.topic)
            .number(self.partition)
            .number(self.data.len() as i64)
            .number(self.flag.0)
            .number(self.checksum.0);
        let line = match &self.transaction {
            Some(key) => line.text(key),
            None => line,
        };
        line.number(self.opaque.0).end();
    }
}

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

/// Has the broker close the connection, without an answer (wire rule 3.6).
///
/// ```text
/// quit CRLF
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuitCommand;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Stores a message.
    Put(PutCommand),
    /// Reads messages.
    Get(GetCommand),
    /// Asks for an offset.
    Offset(OffsetCommand),
    /// Asks for statistics.
    Stats(StatsCommand),
    /// Asks for the version.
    Version(VersionCommand),
    /// Ends the connection.
    Quit(QuitCommand),
}

impl Command {
    /// The verb: the first token of the header line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Get(_) => "get",
            Self::Offset(_) => "offset",
            Self::Stats(_) => "stats",
            Self::Version(_) => "version",
            Self::Quit(_) => "quit",
        }
    }

    /// The opaque; [`Opaque::NONE`] for `quit`, which has none.
    #[must_use]
    pub fn opaque(&self) -> Opaque {
        match self {
            Self::Put(put) => put.opaque,
            Self::Get(get) => get.opaque,
            Self::Offset(offset) => offset.opaque,
            Self::Stats(stats) => stats.opaque,
            Self::Version(version) => version.opaque,
            Self::Quit(_) => Opaque::NONE,
        }
    }

    /// Replaces the opaque; `quit` has none.
    pub fn set_opaque(&mut self, opaque: Opaque) {
        match self {
            Self::Put(put) => put.opaque = opaque,
            Self::Get(get) => get.opaque = opaque,
            Self::Offset(offset) => offset.opaque = opaque,
            Self::Stats(stats) => stats.opaque = opaque,
            Self::Version(version) => version.opaque = opaque,
            Self::Quit(_) => {}
        }
    }

    /// How many bytes [`encode`](Self::encode) appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Put(put) => put.head_len() + put.data.len(),
            Self::Get(get) => {
                "get  \r\n".len()
                    + get.topic.len()
                    + get.group.len()
                    + number_len(get.partition)
                    + number_len(get.offset)
                    + number_len(get.max_size)
                    + number_len(get.opaque.0)
            }
            Self::Offset(offset) => {
                "offset  \r\n".len()
                    + offset.topic.len()
                    + offset.group.len()
                    + number_len(offset.partition)
                    + number_len(offset.offset)
                    + number_len(offset.opaque.0)
            }
            Self::Stats(stats) => {
                "stats \r\n".len()
                    + stats.item.as_ref().map_or(0, |item| item.len())
                    + number_len(stats.opaque.0)
            }
            Self::Version(version) => "version\r\n".len() + number_len(version.opaque.0),
            Self::Quit(_) => "quit\r\n".len(),
        }
    }

    /// Appends the whole frame to `dst`.
    pub fn encode(&self, dst: &mut BytesMut) {
        dst.reserve(self.encoded_len());
        self.encode_head(dst);
        if let Self::Put(put) = self {
            put.data.parts().into_iter().for_each(|part| dst.extend_from_slice(part));
        }
    }

    /// Appends the header line alone. The data of a put follows it on the wire at once: for those who write it
    /// from where it is.
    pub fn encode_head(&self, dst: &mut BytesMut) {
        match self {
            Self::Put(put) => put.encode_head(dst),
            Self::Get(get) => Line::begin(dst, "get")
                .text(&get.topic)
                .text(&get.group)
                .number(get.partition)
                .number(get.offset)
                .number(get.max_size)
                .number(get.opaque.0)
                .end(),
            Self::Offset(offset) => Line::begin(dst, "offset")
                .text(&offset.topic)
                .text(&offset.group)
                .number(offset.partition)
                .number(offset.offset)
                .number(offset.opaque.0)
                .end(),
            Self::Stats(stats) => Line::begin(dst, "stats")
                .text(stats.item.as_deref().unwrap_or_default())
                .number(stats.opaque.0)
                .end(),
            Self::Version(version) => Line::begin(dst, "version").number(version.opaque.0).end(),
            Self::Quit(_) => Line::begin(dst, "quit").end(),
        }
    }
}

macro_rules! impl_from {
    ($($variant:ident($command:ident)),*) => {
        $(impl From<$command> for Command {
            fn from(command: $command) -> Self {
                Self::$variant(command)
            }
        })*
    };
}

impl_from!(
    Put(PutCommand),
    Get(GetCommand),
    Offset(OffsetCommand),
    Stats(StatsCommand),
    Version(VersionCommand),
    Quit(QuitCommand)
);
