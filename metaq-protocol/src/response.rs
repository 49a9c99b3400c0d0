//! Answers: what a broker sends back.

use alloc::borrow::Cow;

use bytes::{Bytes, BytesMut};

use crate::{
    Opaque, Status,
    text::{Line, number_len},
    utf8::lossy,
};

/// "Done", or why not (wire rule 4). Java calls it a boolean command.
///
/// ```text
/// result SP status SP length SP opaque CRLF body
///
/// result 200 24 1\r\n-5468924307537133568 0 0
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BooleanCommand {
    /// How it went.
    pub status: Status,
    /// A text: what was asked for, or why it was refused. Empty and missing are the same on the wire.
    pub body: Bytes,
    /// Links this answer to its request.
    pub opaque: Opaque,
}

impl BooleanCommand {
    /// An answer with `status` and `body`.
    #[must_use]
    pub fn new(status: Status, body: Bytes, opaque: Opaque) -> Self {
        Self { status, body, opaque }
    }

    /// The body as text; what is no UTF-8 in it is replaced.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        lossy(&self.body)
    }
}

/// Messages that were asked for (wire rules 4 and 8). [`StoredMessages`](crate::StoredMessages) reads them.
///
/// ```text
/// value SP length SP opaque CRLF data
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DataCommand {
    /// A stretch of the partition's log, cut wherever its size limit fell.
    pub data: Bytes,
    /// Links this answer to its request.
    pub opaque: Opaque,
}

impl DataCommand {
    /// An answer with `data`.
    #[must_use]
    pub fn new(data: Bytes, opaque: Opaque) -> Self {
        Self { data, opaque }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response {
    /// A status with a text.
    Boolean(BooleanCommand),
    /// Messages.
    Data(DataCommand),
}

impl Response {
    /// Links the answer to its request.
    #[must_use]
    pub fn opaque(&self) -> Opaque {
        match self {
            Self::Boolean(answer) => answer.opaque,
            Self::Data(answer) => answer.opaque,
        }
    }

    /// The body's bytes.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        match self {
            Self::Boolean(answer) => &answer.body,
            Self::Data(answer) => &answer.data,
        }
    }

    /// How many bytes [`encode`](Self::encode) appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let status = match self {
            Self::Boolean(answer) => "result\r\n".len() + number_len(answer.status.0),
            Self::Data(_) => "value\r\n".len(),
        };
        let body = self.body().len();
        status + number_len(body as i64) + number_len(self.opaque().0) + body
    }

    /// Appends the whole frame to `dst`.
    pub fn encode(&self, dst: &mut BytesMut) {
        dst.reserve(self.encoded_len());
        self.encode_head(dst);
        dst.extend_from_slice(self.body());
    }

    /// Appends the header line alone; the body follows it on the wire at once.
    pub fn encode_head(&self, dst: &mut BytesMut) {
        let line = match self {
            Self::Boolean(answer) => Line::begin(dst, "result").number(answer.status.0),
            Self::Data(_) => Line::begin(dst, "value"),
        };
        line.number(self.body().len() as i64).number(self.opaque().0).end();
    }
}

impl From<BooleanCommand> for Response {
    fn from(answer: BooleanCommand) -> Self {
        Self::Boolean(answer)
    }
}

impl From<DataCommand> for Response {
    fn from(answer: DataCommand) -> Self {
        Self::Data(answer)
    }
}
