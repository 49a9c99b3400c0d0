//! The decoder.

use bytes::{Buf, Bytes, BytesMut};

use super::{
    DecodeError, Limits,
    answer_head::AnswerHead,
    header::{self, Header, Names},
    line::LineSearch,
};
use crate::Frame;

/// Reads frames from a growing buffer, without I/O.
///
/// ```
/// use bytes::BytesMut;
/// use metaq_protocol::{Decoder, Frame, Opaque};
///
/// let mut decoder = Decoder::new();
/// let mut received = BytesMut::from("version 60\r\nversion 6");
/// let frame = decoder.decode(&mut received)?.expect("one frame is whole");
/// assert_eq!((frame.name(), frame.opaque()), ("version", Opaque(60)));
/// assert_eq!(decoder.decode(&mut received)?, None);
/// # Ok::<(), metaq_protocol::DecodeError>(())
/// ```
///
/// Unlike the Java decoder (wire rule 2), it refuses a header line that can't be right as soon as
/// the line is there instead of waiting for its body, has [`Limits`], wants the whole word of a
/// command (`v 5` is no `version`), and never looks at a byte twice however the bytes are split.
///
/// A decoder belongs to one stream: between calls, bytes may only be added at the end of the
/// buffer. After an error it can't be used any further.
#[derive(Debug, Default)]
pub struct Decoder {
    pub(super) limits: Limits,
    pub(super) search: LineSearch,
    names: Names,
    /// A header that was read and taken from the buffer, and waits for its body.
    pending: Option<Header>,
    /// The same for answers read in place, which stay in the buffer.
    pub(super) pending_answer: Option<AnswerHead>,
}

impl Decoder {
    /// Room that is worth a read.
    const LEAST_ROOM: usize = 64 << 10;

    /// Most room that is reserved for a body that is announced and hasn't come, while little has come.
    const MOST_RESERVED: usize = 256 << 10;

    /// A decoder with the limits of [`Limits::default`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder with other limits.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes the first frame from the front of `src`. `None` asks for more bytes.
    ///
    /// The body is split off from `src` without copying. When it isn't there yet, room for it is
    /// reserved, though never much more than has come already.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are no frame or go beyond the limits.
    pub fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let header = match self.pending.take() {
            Some(header) => header,
            None => {
                if let Some(head) = AnswerHead::plain_result(src, &self.limits)
                    && src.len() - head.head_len >= head.body_len
                {
                    self.search = LineSearch::default();
                    src.advance(head.head_len);
                    let body = src.split_to(head.body_len).freeze();
                    return Ok(Some(head.with_body(body).into()));
                }
                let Some(line) = self.search.find(src, self.limits.max_line)? else {
                    return Ok(None);
                };
                let header = header::parse(&src[..line], self.limits.max_body, &mut self.names)?;
                src.advance(line + 2);
                header
            }
        };
        let Header { mut frame, body_len } = header;
        if body_len == 0 {
            return Ok(Some(frame));
        }
        if src.len() < body_len {
            let missing = body_len - src.len();
            let spare = src.capacity() - src.len();
            if spare < missing.min(Self::LEAST_ROOM) {
                src.reserve(missing.min(Self::MOST_RESERVED.max(src.len())));
            }
            self.pending = Some(Header { frame, body_len });
            return Ok(None);
        }
        let body: Bytes = src.split_to(body_len).freeze();
        frame.set_body(body);
        Ok(Some(frame))
    }
}
