//! Answers read where they lie, for a client's read loop.

use super::{
    DecodeError, DecodeErrorKind, Decoder,
    answer_head::{AnswerHead, plain_number},
    header,
    line::{LineSearch, Words},
};
use crate::{BooleanCommand, DataCommand, Opaque, PutAnswer, Response, Status, number::leading_i64};

/// An answer that still lies in the read buffer.
///
/// ```text
/// result 200 24 1\r\n-5468924307537133568 0 0
///        ^kind    ^opaque ^body
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseRef<'a> {
    /// The kind of answer.
    pub kind: ResponseKind,
    /// The opaque of the request.
    pub opaque: Opaque,
    /// The text of a `result` or the data of a `value`.
    pub body: &'a [u8],
}

/// The kinds of answers that a [`ResponseRef`] can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseKind {
    /// `result`, with its status.
    Boolean(Status),
    /// `value`.
    Data,
}

impl ResponseRef<'_> {
    /// A copy that owns its body.
    #[must_use]
    pub fn to_response(&self) -> Response {
        let body = bytes::Bytes::copy_from_slice(self.body);
        match self.kind {
            ResponseKind::Boolean(status) => BooleanCommand::new(status, body, self.opaque).into(),
            ResponseKind::Data => DataCommand::new(body, self.opaque).into(),
        }
    }

    /// The status of a `result`.
    #[must_use]
    #[inline]
    pub fn status(&self) -> Option<Status> {
        match self.kind {
            ResponseKind::Boolean(status) => Some(status),
            ResponseKind::Data => None,
        }
    }

    /// Reads the body as the answer to a `put` that was stored.
    ///
    /// # Errors
    /// [`InvalidAnswer`](crate::InvalidAnswer) when it isn't one.
    #[inline]
    pub fn put_answer(&self) -> Result<PutAnswer, crate::InvalidAnswer> {
        PutAnswer::parse(self.body)
    }
}

impl Decoder {
    /// Reads the answer at the front of `src` where it lies, and says how many bytes it took.
    /// `None` asks for more bytes behind those in `src`.
    ///
    /// Nothing is allocated or copied, so a batch of answers can be read straight from the buffer:
    ///
    /// ```
    /// use metaq_protocol::{Decoder, Opaque, Status};
    ///
    /// let received = b"result 200 0 7\r\nresult 200 1 8\r\n0result 50";
    /// let (mut decoder, mut used, mut opaques) = (Decoder::new(), 0, Vec::new());
    /// while let Some((answer, length)) = decoder.decode_response_in_place(&received[used..])? {
    ///     assert_eq!(answer.status(), Some(Status::SUCCESS));
    ///     opaques.push(answer.opaque);
    ///     used += length;
    /// }
    /// assert_eq!(opaques, [Opaque(7), Opaque(8)]);
    /// assert_eq!(&received[used..], b"result 50");
    /// # Ok::<(), metaq_protocol::DecodeError>(())
    /// ```
    ///
    /// Don't mix it with [`decode`](Self::decode) on one stream.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are no answer or go beyond the limits.
    pub fn decode_response_in_place<'a>(
        &mut self,
        src: &'a [u8],
    ) -> Result<Option<(ResponseRef<'a>, usize)>, DecodeError> {
        let answer = match self.pending_answer.take() {
            Some(answer) => answer,
            None => match AnswerHead::plain_result(src, &self.limits) {
                Some(answer) => {
                    // A search may have begun while the line was not whole yet.
                    self.search = LineSearch::default();
                    answer
                }
                None => {
                    let Some(line) = self.search.find(src, self.limits.max_line)? else {
                        return Ok(None);
                    };
                    parse(&src[..line], self.limits.max_body)?
                }
            },
        };
        let length = answer.head_len + answer.body_len;
        let Some(body) = src.get(answer.head_len..length) else {
            self.pending_answer = Some(answer);
            return Ok(None);
        };
        let response = ResponseRef { kind: answer.kind, opaque: answer.opaque, body };
        Ok(Some((response, length)))
    }
}

impl Decoder {
    /// Reads the answer at the front of `src` if it says, as brokers spell it, that a message was stored; and says how many
    /// bytes it took. Everything else, and what isn't whole yet, is left to
    /// [`decode_response_in_place`](Self::decode_response_in_place), which reads these answers, too: this is a faster way for
    /// the one answer that there is for each message.
    ///
    /// ```
    /// use metaq_protocol::{Decoder, Opaque, PutAnswer};
    ///
    /// let mut decoder = Decoder::new();
    /// let received = b"result 200 24 1\r\n-5468924307537133568 0 0result 403 0 2\r\n";
    /// let stored = PutAnswer::new(-5468924307537133568, 0, 0);
    /// assert_eq!(decoder.decode_stored_in_place(received), Some((Opaque(1), stored, 41)));
    /// assert_eq!(decoder.decode_stored_in_place(&received[41..]), None);
    /// assert_eq!(decoder.decode_stored_in_place(&received[..40]), None);
    /// ```
    #[inline]
    pub fn decode_stored_in_place(&mut self, src: &[u8]) -> Option<(Opaque, PutAnswer, usize)> {
        if self.pending_answer.is_some() {
            return None;
        }
        let rest = src.strip_prefix(b"result 200 ")?;
        let (body_len, rest) = plain_number(rest)?;
        let (opaque, rest) = leading_i64(rest.strip_prefix(b" ")?)?;
        let rest = rest.strip_prefix(b"\r\n")?;
        let (head_len, body_len) = (src.len() - rest.len(), body_len as usize);
        if body_len > self.limits.max_body || head_len - 2 > self.limits.max_line {
            return None;
        }
        let stored = PutAnswer::plain(rest.get(..body_len)?)?;
        let opaque = Opaque(i32::try_from(opaque).ok()?);
        // A search may have begun while the line was not whole yet.
        self.search = LineSearch::default();
        Some((opaque, stored, head_len + body_len))
    }

    /// The number of bytes of the answer that [`decode_response_in_place`](Self::decode_response_in_place)
    /// waits for, header included, once its header is there. A read buffer has to have that much room.
    #[must_use]
    pub fn awaited_len(&self) -> Option<usize> {
        self.pending_answer.map(|answer| answer.head_len + answer.body_len)
    }
}

fn parse(line: &[u8], max_body: usize) -> Result<AnswerHead, DecodeError> {
    let words = Words::split(line)?;
    let (command, head) = match words.get(0).unwrap_or_default() {
        b"result" => ("result", AnswerHead::result(&words, max_body)),
        b"value" => ("value", AnswerHead::value(&words, max_body)),
        verb if header::is_command(verb) => {
            return Err(DecodeError::new(DecodeErrorKind::UnexpectedCommand, verb));
        }
        verb => return Err(DecodeError::new(DecodeErrorKind::UnknownCommand, verb)),
    };
    head.map_err(|error| error.in_command(command))
}
