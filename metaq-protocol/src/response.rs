//! Responses from a broker to a client (protocol §4).

use alloc::borrow::Cow;

use bytes::{Bytes, BytesMut};

use crate::{
    Opaque, Status,
    encode::{Encode, NO_BODY, frame_methods},
    number::{LineBuilder, text_len},
    text,
};

/// A response: `result 200 3 60\r\n0.1` or `value 5 31\r\n.....`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response {
    /// `result`: a status and a text.
    Boolean(BooleanCommand),
    /// `value`: stored messages.
    Data(DataCommand),
}

impl Response {
    /// The first word of the header line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Boolean(_) => "result",
            Self::Data(_) => "value",
        }
    }

    /// The opaque of the request that this answers.
    #[must_use]
    pub fn opaque(&self) -> Opaque {
        match self {
            Self::Boolean(response) => response.opaque,
            Self::Data(response) => response.opaque,
        }
    }

    /// Sets the opaque of the request that this answers.
    pub fn set_opaque(&mut self, opaque: Opaque) {
        match self {
            Self::Boolean(response) => response.opaque = opaque,
            Self::Data(response) => response.opaque = opaque,
        }
    }

    fn as_encode(&self) -> &dyn Encode {
        match self {
            Self::Boolean(response) => response,
            Self::Data(response) => response,
        }
    }
}

impl Encode for Response {
    fn head_len(&self) -> usize {
        self.as_encode().head_len()
    }

    fn write_head(&self, dst: &mut BytesMut, body_len: usize) {
        self.as_encode().write_head(dst, body_len);
    }

    fn body(&self) -> (&Bytes, &Bytes) {
        self.as_encode().body()
    }
}

frame_methods!(Response);

/// `result`: a status and a text.
///
/// ```text
/// result status length opaque\r\ntext
///
/// << result 200 24 1\r\n-5468924307537133568 0 0
/// ```
///
/// The meaning of the text depends on the request: see [`PutResponse`](crate::PutResponse),
/// [`parse_stats`](crate::parse_stats), [`XaError`](crate::XaError).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BooleanCommand {
    /// The status.
    pub status: Status,
    /// The text, in UTF-8. No text and an empty one are the same on the wire.
    pub body: Bytes,
    /// The opaque of the request.
    pub opaque: Opaque,
}

impl BooleanCommand {
    /// Creates a response to the request with `opaque`.
    #[must_use]
    pub fn new(status: Status, body: Bytes, opaque: Opaque) -> Self {
        Self { status, body, opaque }
    }

    /// The body as text; invalid UTF-8 becomes U+FFFD.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        text::from_utf8_lossy(&self.body)
    }
}

impl Encode for BooleanCommand {
    fn head_len(&self) -> usize {
        "result ".len()
            + text_len(self.status.0.into())
            + 1
            + text_len(self.body.len() as i64)
            + 1
            + text_len(self.opaque.0.into())
            + 2
    }

    fn write_head(&self, dst: &mut BytesMut, body_len: usize) {
        let mut line = LineBuilder::line_end();
        line.number(self.opaque.0).number(self.body.len() as i64).number(self.status.0);
        line.append_to(dst, [b"result", b""], body_len);
    }

    fn body(&self) -> (&Bytes, &Bytes) {
        (&self.body, &NO_BODY)
    }
}

frame_methods!(BooleanCommand);

/// `value`: a section of a partition's log.
///
/// ```text
/// value length opaque\r\nmessages
///
/// << value 25 31\r\n\x00\x00\x00\x0b\rJ\x11\x85...      (25 bytes: cut inside a message)
/// ```
///
/// [`StoredMessages`](crate::StoredMessages) iterates over the messages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DataCommand {
    /// The bytes of the log.
    pub data: Bytes,
    /// The opaque of the request.
    pub opaque: Opaque,
}

impl DataCommand {
    /// Creates a response to the request with `opaque`.
    #[must_use]
    pub fn new(data: Bytes, opaque: Opaque) -> Self {
        Self { data, opaque }
    }
}

impl Encode for DataCommand {
    fn head_len(&self) -> usize {
        "value ".len() + text_len(self.data.len() as i64) + 1 + text_len(self.opaque.0.into()) + 2
    }

    fn write_head(&self, dst: &mut BytesMut, body_len: usize) {
        let mut line = LineBuilder::line_end();
        line.number(self.opaque.0).number(self.data.len() as i64);
        line.append_to(dst, [b"value", b""], body_len);
    }

    fn body(&self) -> (&Bytes, &Bytes) {
        (&self.data, &NO_BODY)
    }
}

frame_methods!(DataCommand);

macro_rules! from_response {
    ($($variant:ident($type:ty)),* $(,)?) => {$(
        impl From<$type> for Response {
            fn from(response: $type) -> Self {
                Self::$variant(response)
            }
        }
    )*};
}

from_response!(Boolean(BooleanCommand), Data(DataCommand));
