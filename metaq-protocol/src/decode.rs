//! Reading frames from bytes that arrive in pieces.

use alloc::{borrow::ToOwned, string::String};
use core::fmt;

use bytes::{Buf as _, Bytes, BytesMut};

use crate::{
    BooleanCommand, Checksum, Command, DataCommand, Flag, GetCommand, OffsetCommand, Opaque, PutCommand,
    QuitCommand, Response, StatsCommand, Status, Topic, VersionCommand, Word,
    head::{Head, ResultHead},
};

/// One frame, in whichever direction it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// A request.
    Command(Command),
    /// An answer.
    Response(Response),
}

/// What a [`Decoder`] puts up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The most bytes of a header line. Default 64 KiB. Java has no such limit.
    pub max_line: usize,
    /// The most bytes of a body. Default 64 MiB.
    pub max_body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_line: 64 * 1024, max_body: 64 * 1024 * 1024 }
    }
}

/// Reads frames from bytes that arrive in pieces, without waiting for what is wrong in any case, and without
/// looking at a byte twice for having come in another piece.
///
/// After an error the bytes are out of step: the connection can only be closed.
///
/// ```
/// use bytes::BytesMut;
/// use metaq_protocol::{Decoder, Frame, Response};
///
/// let mut decoder = Decoder::new();
/// let mut bytes = BytesMut::from("result 200 10 1\r\n12345");
/// assert_eq!(decoder.decode(&mut bytes)?, None, "five bytes are missing");
/// bytes.extend_from_slice(b"6 1 0");
/// let Some(Frame::Response(Response::Boolean(answer))) = decoder.decode(&mut bytes)? else { panic!() };
/// assert_eq!(answer.text(), "123456 1 0");
/// # Ok::<(), metaq_protocol::DecodeError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    limits: Limits,
    /// How many bytes were searched for the end of the line.
    searched: usize,
    /// How long the frame is whose header is known, but not all of whose body is there.
    wanted: usize,
    /// The topic of the last put: the next one mostly has the same.
    topic: Option<Topic>,
}

/// An answer that still lies in the read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseRef<'a> {
    /// The status of a `result`; none for a `value`.
    pub status: Option<Status>,
    /// Links this answer to its request.
    pub opaque: Opaque,
    /// The body.
    pub body: &'a [u8],
}

impl ResponseRef<'_> {
    /// The answer with a body of its own.
    #[must_use]
    pub fn to_response(&self) -> Response {
        let body = Bytes::copy_from_slice(self.body);
        match self.status {
            Some(status) => BooleanCommand::new(status, body, self.opaque).into(),
            None => DataCommand::new(body, self.opaque).into(),
        }
    }
}

impl Decoder {
    /// A decoder with the default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder with other limits.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes the next frame from `src`, or `None` when more bytes are wanted; then room for some of them is
    /// reserved. Bodies share the memory of `src`.
    ///
    /// # Errors
    /// When the bytes are no frame, or exceed a limit.
    pub fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let Some((head, line)) = self.head(src)? else {
            // What was announced is not believed beyond a limit: a body that never comes costs no memory.
            let missing = self.wanted.saturating_sub(src.len()).min(MAX_RESERVE);
            src.reserve(missing);
            return Ok(None);
        };
        let head = match head {
            Head::Put(put) => {
                let topic = match &self.topic {
                    Some(topic) if topic.as_str() == put.topic => topic.clone(),
                    _ => Topic::new(put.topic).map_err(|_| DecodeError::field("put", "topic", put.topic))?,
                };
                self.topic = Some(topic.clone());
                let transaction = match put.transaction {
                    Some(key) => Some(word("put", "transaction", key)?),
                    None => None,
                };
                let length = put.length;
                let mut command = PutCommand::new(topic, put.partition, Bytes::new(), None);
                command.flag = Flag(put.flag);
                command.checksum = Checksum(put.checksum);
                command.transaction = transaction;
                command.opaque = put.opaque;
                src.advance(line);
                command.data = src.split_to(length).freeze().into();
                return Ok(Some(Frame::Command(command.into())));
            }
            Head::Result(ResultHead { status, length, opaque }) => {
                src.advance(line);
                let body = src.split_to(length).freeze();
                return Ok(Some(Frame::Response(match status {
                    Some(status) => BooleanCommand::new(status, body, opaque).into(),
                    None => DataCommand::new(body, opaque).into(),
                })));
            }
            Head::Get { topic, group, partition, offset, max_size, opaque } => {
                let (topic, group) = (self::topic("get", topic)?, word("get", "group", group)?);
                let mut get = GetCommand::new(topic, group, partition, offset, max_size);
                get.opaque = opaque;
                get.into()
            }
            Head::Offset { topic, group, partition, offset, opaque } => {
                let (topic, group) = (self::topic("offset", topic)?, word("offset", "group", group)?);
                let mut command = OffsetCommand::new(topic, group, partition, offset);
                command.opaque = opaque;
                command.into()
            }
            Head::Stats { item, opaque } => {
                let mut stats = StatsCommand::overview();
                if let Some(item) = item {
                    stats = StatsCommand::about(word("stats", "item", item)?);
                }
                stats.opaque = opaque;
                stats.into()
            }
            Head::Version { opaque } => VersionCommand { opaque }.into(),
            Head::Quit => Command::from(QuitCommand),
        };
        src.advance(line);
        Ok(Some(Frame::Command(head)))
    }

    /// Reads the answer at the start of `src` without taking it, and says how many bytes it is; `None` when
    /// more bytes are wanted. For read loops that go through many answers at once: nothing is copied or allocated.
    /// After `None` the next call has to begin at the same byte.
    ///
    /// # Errors
    /// When the bytes are no answer, or exceed a limit. A request is an error here.
    pub fn decode_response_in_place<'a>(
        &mut self,
        src: &'a [u8],
    ) -> Result<Option<(ResponseRef<'a>, usize)>, DecodeError> {
        match self.head(src)? {
            Some((Head::Result(ResultHead { status, length, opaque }), line)) => {
                let body = &src[line..line + length];
                Ok(Some((ResponseRef { status, opaque, body }, line + length)))
            }
            Some((head, _)) => Err(DecodeError::new(head.name(), DecodeErrorKind::Request, "")),
            None => Ok(None),
        }
    }

    /// The header at the start of `src` and its length with the line end, once the whole frame is there.
    fn head<'a>(&mut self, src: &'a [u8]) -> Result<Option<(Head<'a>, usize)>, DecodeError> {
        if src.len() < self.wanted {
            return Ok(None);
        }
        let Some(end) = self.line_end(src)? else {
            return Ok(None);
        };
        let head = Head::parse(&src[..end])?;
        let length = head.body_len();
        if length > self.limits.max_body {
            let limit = self.limits.max_body;
            return Err(DecodeError::new(head.name(), DecodeErrorKind::BodyTooLong { length, limit }, ""));
        }
        let line = end + 2;
        if src.len() < line + length {
            self.searched = end;
            self.wanted = line + length;
            return Ok(None);
        }
        self.searched = 0;
        self.wanted = 0;
        Ok(Some((head, line)))
    }

    /// Where the first CR LF begins.
    fn line_end(&mut self, src: &[u8]) -> Result<Option<usize>, DecodeError> {
        let mut from = self.searched;
        let found = loop {
            match memchr::memchr(b'\n', &src[from..]).map(|at| from + at) {
                Some(at) if at > 0 && src[at - 1] == b'\r' => break Some(at - 1),
                Some(at) => from = at + 1,
                None => break None,
            }
        };
        if found.unwrap_or(src.len()) > self.limits.max_line {
            let kind = DecodeErrorKind::LineTooLong { limit: self.limits.max_line };
            return Err(DecodeError::new("", kind, &String::from_utf8_lossy(&src[..80.min(src.len())])));
        }
        if found.is_none() {
            self.searched = src.len();
        }
        Ok(found)
    }
}

/// How much room is reserved at most for a body that was announced.
const MAX_RESERVE: usize = 1024 * 1024;

fn topic(command: &'static str, text: &str) -> Result<Topic, DecodeError> {
    Topic::new(text).map_err(|_| DecodeError::field(command, "topic", text))
}

fn word(command: &'static str, field: &'static str, text: &str) -> Result<Word, DecodeError> {
    Word::new(text).map_err(|_| DecodeError::field(command, field, text))
}

/// Bytes that are no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    command: &'static str,
    kind: DecodeErrorKind,
    text: String,
}

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The line is empty or begins with a space.
    Blank,
    /// The line is longer than the limit, or its end doesn't come.
    #[non_exhaustive]
    LineTooLong {
        /// The most bytes of a line.
        limit: usize,
    },
    /// The line isn't UTF-8.
    NotUtf8,
    /// The first word is no command.
    UnknownCommand,
    /// The command can't have so many words.
    #[non_exhaustive]
    TokenCount {
        /// How many words there were, the command itself included.
        count: usize,
    },
    /// A word is not what it should be.
    #[non_exhaustive]
    Field {
        /// Which one.
        field: &'static str,
    },
    /// The body is longer than the limit.
    #[non_exhaustive]
    BodyTooLong {
        /// The announced length.
        length: usize,
        /// The most bytes of a body.
        limit: usize,
    },
    /// It is a request, where an answer was expected.
    Request,
}

impl DecodeError {
    pub(crate) fn new(command: &'static str, kind: DecodeErrorKind, text: &str) -> Self {
        Self { command, kind, text: crate::excerpt(text).to_owned() }
    }

    pub(crate) fn field(command: &'static str, field: &'static str, text: &str) -> Self {
        Self::new(command, DecodeErrorKind::Field { field }, text)
    }

    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> DecodeErrorKind {
        self.kind
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, kind, text } = self;
        match kind {
            DecodeErrorKind::Blank => f.write_str("a command line is empty or begins with a space"),
            DecodeErrorKind::LineTooLong { limit } => {
                write!(f, "a command line is longer than {limit} bytes; it begins with {text:?}")
            }
            DecodeErrorKind::NotUtf8 => write!(f, "a command line is not UTF-8: {text:?}"),
            DecodeErrorKind::UnknownCommand => write!(f, "unknown command {text:?}"),
            DecodeErrorKind::TokenCount { count } => {
                write!(f, "{command} can't have {count} words: {text:?}")
            }
            DecodeErrorKind::Field { field } => write!(f, "{command} has no valid {field}: {text:?}"),
            DecodeErrorKind::BodyTooLong { length, limit } => {
                write!(f, "{command} announces a body of {length} bytes; {limit} is the limit")
            }
            DecodeErrorKind::Request => write!(f, "{command} is a request; an answer was expected"),
        }
    }
}

impl core::error::Error for DecodeError {}
