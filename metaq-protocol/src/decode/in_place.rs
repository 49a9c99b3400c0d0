//! Responses decoded in place, for a client's read loop.

use super::{
    DecodeError, DecodeErrorKind, Decoder, header,
    line::{LineSearch, Words},
    response_head::{ResponseHead, plain_number},
};
use crate::{BooleanCommand, DataCommand, Opaque, PutResponse, Response, Status, number::leading_i64};

/// A response that borrows from the read buffer.
///
/// ```text
/// result 200 24 1\r\n-5468924307537133568 0 0
///        ^kind    ^opaque ^body
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseRef<'a> {
    /// The kind of response.
    pub kind: ResponseKind,
    /// The opaque of the request.
    pub opaque: Opaque,
    /// The text of a `result` or the data of a `value`.
    pub body: &'a [u8],
}

/// The kinds of a [`ResponseRef`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseKind {
    /// `result`, with its status.
    Boolean(Status),
    /// `value`.
    Data,
}

impl ResponseRef<'_> {
    /// Copies the response, with its own body.
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

    /// Parses the body as the response to a stored `put`.
    ///
    /// # Errors
    /// [`InvalidResponse`](crate::InvalidResponse) when the body is not such a response.
    #[inline]
    pub fn put_response(&self) -> Result<PutResponse, crate::InvalidResponse> {
        PutResponse::parse(self.body)
    }
}

impl Decoder {
    /// Decodes the response at the front of `src` in place, and returns it with the number of its bytes.
    /// `None` when more bytes are needed.
    ///
    /// Nothing is allocated or copied, so a batch of responses can be decoded directly from the buffer:
    ///
    /// ```
    /// use metaq_protocol::{Decoder, Opaque, Status};
    ///
    /// let received = b"result 200 0 7\r\nresult 200 1 8\r\n0result 50";
    /// let (mut decoder, mut used, mut opaques) = (Decoder::new(), 0, Vec::new());
    /// while let Some((response, length)) = decoder.decode_response_in_place(&received[used..])? {
    ///     assert_eq!(response.status(), Some(Status::SUCCESS));
    ///     opaques.push(response.opaque);
    ///     used += length;
    /// }
    /// assert_eq!(opaques, [Opaque(7), Opaque(8)]);
    /// assert_eq!(&received[used..], b"result 50");
    /// # Ok::<(), metaq_protocol::DecodeError>(())
    /// ```
    ///
    /// Don't mix this with [`decode`](Self::decode) on one stream.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not a response or exceed the limits.
    pub fn decode_response_in_place<'a>(
        &mut self,
        src: &'a [u8],
    ) -> Result<Option<(ResponseRef<'a>, usize)>, DecodeError> {
        let head = match self.pending_response.take() {
            Some(head) => head,
            None => match ResponseHead::plain_result(src, &self.limits) {
                Some(head) => {
                    // A search may have begun while the line was incomplete.
                    self.search = LineSearch::default();
                    head
                }
                None => {
                    let Some(line) = self.search.find(src, self.limits.max_line)? else {
                        return Ok(None);
                    };
                    parse(&src[..line], self.limits.max_body)?
                }
            },
        };
        let length = head.head_len + head.body_len;
        let Some(body) = src.get(head.head_len..length) else {
            self.pending_response = Some(head);
            return Ok(None);
        };
        let response = ResponseRef { kind: head.kind, opaque: head.opaque, body };
        Ok(Some((response, length)))
    }
}

impl Decoder {
    /// A faster way to decode the response of a stored message, of which there is one for each message.
    /// Decodes the response at the front of `src` if it has the form that brokers write, and returns it with
    /// the number of its bytes. `None` for any other response, and for an incomplete one;
    /// [`decode_response_in_place`](Self::decode_response_in_place) decodes those, and these as well.
    ///
    /// ```
    /// use metaq_protocol::{Decoder, Opaque, PutResponse};
    ///
    /// let mut decoder = Decoder::new();
    /// let received = b"result 200 24 1\r\n-5468924307537133568 0 0result 403 0 2\r\n";
    /// let stored = PutResponse::new(-5468924307537133568, 0, 0);
    /// assert_eq!(decoder.decode_stored_in_place(received), Some((Opaque(1), stored, 41)));
    /// assert_eq!(decoder.decode_stored_in_place(&received[41..]), None);
    /// assert_eq!(decoder.decode_stored_in_place(&received[..40]), None);
    /// ```
    #[inline]
    pub fn decode_stored_in_place(&mut self, src: &[u8]) -> Option<(Opaque, PutResponse, usize)> {
        if self.pending_response.is_some() {
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
        let stored = PutResponse::plain(rest.get(..body_len)?)?;
        let opaque = Opaque(i32::try_from(opaque).ok()?);
        // A search may have begun while the line was incomplete.
        self.search = LineSearch::default();
        Some((opaque, stored, head_len + body_len))
    }

    /// The number of bytes of the response that [`decode_response_in_place`](Self::decode_response_in_place)
    /// waits for, header included, once its header has arrived. A read buffer needs this capacity.
    #[must_use]
    pub fn awaited_len(&self) -> Option<usize> {
        self.pending_response.map(|head| head.head_len + head.body_len)
    }
}

fn parse(line: &[u8], max_body: usize) -> Result<ResponseHead, DecodeError> {
    let words = Words::split(line)?;
    let (command, head) = match words.get(0).unwrap_or_default() {
        b"result" => ("result", ResponseHead::result(&words, max_body)),
        b"value" => ("value", ResponseHead::value(&words, max_body)),
        verb if header::is_command(verb) => {
            return Err(DecodeError::new(DecodeErrorKind::UnexpectedCommand, verb));
        }
        verb => return Err(DecodeError::new(DecodeErrorKind::UnknownCommand, verb)),
    };
    head.map_err(|error| error.in_command(command))
}
