//! Answers: what a broker sends back.

use alloc::{borrow::Cow, string::String};
use core::fmt;

use bytes::{Bytes, BytesMut};

use crate::{
    Opaque, Status,
    text::{Line, number_len},
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
        String::from_utf8_lossy(&self.body)
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

/// The body of a successful answer to a put: `id SP partition SP offset` (wire rule 3.1).
///
/// ```
/// use metaq_protocol::PutAnswer;
///
/// let answer = PutAnswer::parse(b"-5468924307537133568 1 31")?;
/// assert_eq!((answer.message_id, answer.partition, answer.offset), (-5_468_924_307_537_133_568, 1, 31));
/// # Ok::<(), metaq_protocol::InvalidPutAnswer>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the three numbers of the answer")]
pub struct PutAnswer {
    /// The message's id; often negative, because the broker's clock counts from the machine's start.
    pub message_id: i64,
    /// The partition's index within the broker.
    pub partition: i32,
    /// Where the message begins in the partition's log, in bytes; -1 inside a transaction.
    pub offset: i64,
}

impl PutAnswer {
    /// Reads the body of an answer. As in Java, further words are ignored (rule M-20).
    ///
    /// # Errors
    /// When there are fewer than three words, or one of them is no number of its size (rule M-21).
    pub fn parse(body: &[u8]) -> Result<Self, InvalidPutAnswer> {
        fn word<T: core::str::FromStr>(word: Option<&[u8]>) -> Option<T> {
            core::str::from_utf8(word?).ok()?.parse().ok()
        }
        let mut words = body.split(|byte| *byte == b' ');
        let parsed = (word(words.next()), word(words.next()), word(words.next()));
        let (Some(message_id), Some(partition), Some(offset)) = parsed else {
            let text = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
            return Err(InvalidPutAnswer { text });
        };
        Ok(Self { message_id, partition, offset })
    }
}

impl fmt::Display for PutAnswer {
    /// As it stands on the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.message_id, self.partition, self.offset)
    }
}

/// A text that isn't the answer to a put.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a message id, a partition and an offset")]
pub struct InvalidPutAnswer {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn put_answers_read_as_in_java() {
        for body in ["123456 1 0", "-5468924306434031616 1 -1", "1 2 3 more"] {
            assert!(body.starts_with(&PutAnswer::parse(body.as_bytes()).unwrap().to_string()), "{body}");
        }
        for body in ["", "1 2", "1  2 3", " 1 2 3", "x 2 3", "1 2147483648 3", "1 2 9223372036854775808"] {
            assert!(PutAnswer::parse(body.as_bytes()).is_err(), "M-21: {body:?}");
        }
    }
}
