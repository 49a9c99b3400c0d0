//! Reading frames from bytes that arrive in pieces.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::{
    BooleanCommand, Checksum, Command, DataCommand, DecodeError, DecodeErrorKind, Flag, GetCommand,
    OffsetCommand, Opaque, PutCommand, QuitCommand, Response, StatsCommand, Status, SyncCommand, Topic,
    TransactionCommand, VersionCommand, Word,
    head::{GetHead, Head, PutHead, ResultHead, SyncHead, TransactionHead},
    utf8::lossy,
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
    /// The most bytes of a body. Default 64 MiB. Java has no such limit.
    pub max_body: usize,
}

impl Limits {
    /// The limits with another one for header lines.
    #[must_use]
    pub fn with_max_line(self, max_line: usize) -> Self {
        Self { max_line, ..self }
    }

    /// The limits with another one for bodies.
    #[must_use]
    pub fn with_max_body(self, max_body: usize) -> Self {
        Self { max_body, ..self }
    }
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
        let command = match head {
            Head::Put(PutHead { topic, partition, length, flag, checksum, transaction, opaque }) => {
                let topic = self.topic(&topic);
                src.advance(line);
                let data = src.split_to(length).freeze().into();
                let (flag, checksum) = (Flag(flag), Checksum(checksum));
                let put = PutCommand { topic, partition, flag, checksum, transaction, opaque, data };
                return Ok(Some(Frame::Command(put.into())));
            }
            Head::Sync(SyncHead { topic, partition, length, flag, message_id, checksum, opaque }) => {
                let topic = self.topic(&topic);
                src.advance(line);
                let data = src.split_to(length).freeze().into();
                let (flag, checksum) = (Flag(flag), Checksum(checksum));
                let sync = SyncCommand { topic, partition, flag, message_id, checksum, opaque, data };
                return Ok(Some(Frame::Command(sync.into())));
            }
            Head::Result(ResultHead { status, length, opaque }) => {
                src.advance(line);
                let body = src.split_to(length).freeze();
                return Ok(Some(Frame::Response(match status {
                    Some(status) => BooleanCommand::new(status, body, opaque).into(),
                    None => DataCommand::new(body, opaque).into(),
                })));
            }
            Head::Get(GetHead { topic, group, partition, offset, max_size, opaque }) => {
                let (topic, group) = (self.topic(&topic), Word::received(&group));
                GetCommand { topic, group, partition, offset, max_size, opaque }.into()
            }
            Head::Offset(GetHead { topic, group, partition, offset, opaque, .. }) => {
                let (topic, group) = (self.topic(&topic), Word::received(&group));
                OffsetCommand { topic, group, partition, offset, opaque }.into()
            }
            Head::Transaction(TransactionHead { id, session, kind, timeout, qualifier, opaque }) => {
                let qualifier = qualifier.map(|qualifier| Word::received(&qualifier));
                let session = Word::received(&session);
                TransactionCommand::received(id, session, kind, timeout, qualifier, opaque).into()
            }
            Head::Stats { item, opaque } => {
                StatsCommand { item: item.map(|item| Word::received(&item)), opaque }.into()
            }
            Head::Version { opaque } => VersionCommand { opaque }.into(),
            Head::Quit => Command::from(QuitCommand),
        };
        src.advance(line);
        Ok(Some(Frame::Command(command)))
    }

    /// The topic of that name, which is mostly that of the frame before.
    fn topic(&mut self, name: &str) -> Topic {
        match &self.topic {
            Some(topic) if topic.as_str() == name => topic.clone(),
            _ => {
                let topic = Topic::received(name);
                self.topic = Some(topic.clone());
                topic
            }
        }
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
            return Err(DecodeError::new("", kind, &lossy(&src[..80.min(src.len())])));
        }
        if found.is_none() {
            self.searched = src.len();
        }
        Ok(found)
    }
}

/// How much room is reserved at most for a body that was announced.
const MAX_RESERVE: usize = 1024 * 1024;
