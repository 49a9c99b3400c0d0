//! The decoder.

use bytes::{Buf, Bytes, BytesMut};

use super::{
    DecodeError, Limits,
    header::{self, Header, Names},
    line::LineSearch,
    response_head::ResponseHead,
};
use crate::Frame;

/// Decodes frames from a growing buffer, without I/O.
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
/// Unlike the Java decoder, it refuses an invalid header line as soon as the line is complete instead of
/// waiting for its body, has [`Limits`], requires the whole word of a command (`v 5` is not `version`), and
/// never reads a byte twice, however the bytes are split.
///
/// A decoder belongs to one stream: between calls, bytes may only be appended to the buffer. After an error
/// the decoder can't be used any further.
#[derive(Debug, Default)]
pub struct Decoder {
    pub(super) limits: Limits,
    pub(super) search: LineSearch,
    names: Names,
    /// A decoded header, which stays in the buffer until its body is complete.
    pending: Option<Header>,
    /// The same for responses that are decoded in place.
    pub(super) pending_response: Option<ResponseHead>,
}

impl Decoder {
    /// The smallest free space that is worth a read.
    const LEAST_ROOM: usize = 64 << 10;

    /// The largest space that is reserved for an announced body while little of it has arrived.
    const MOST_RESERVED: usize = 256 << 10;

    /// Creates a decoder with [`Limits::default`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a decoder with other limits.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Decodes the first frame of `src` and removes it. `None` when more bytes are needed.
    ///
    /// The body is split off from `src` without copying. While it is incomplete, space for it is reserved,
    /// though never much more than the bytes that have arrived.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not a frame or exceed the limits.
    pub fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        if self.pending.is_none()
            && let Some(head) = ResponseHead::plain_result(src, &self.limits)
            && src.len() - head.head_len >= head.body_len
        {
            self.search = LineSearch::default();
            src.advance(head.head_len);
            let body = src.split_to(head.body_len).freeze();
            return Ok(Some(head.with_body(body).into()));
        }
        let Some(Header { mut frame, head_len, body_len }) = self.whole(src)? else {
            return Ok(None);
        };
        src.advance(head_len);
        if body_len > 0 {
            frame.set_body(src.split_to(body_len).freeze());
        }
        Ok(Some(frame))
    }

    /// Like [`decode`](Self::decode), and also returns the bytes of the frame as they were on the wire: for
    /// proxies and captures.
    ///
    /// The bytes are split off from `src` without copying, and the body shares their memory. Calls of
    /// [`decode`](Self::decode) and of this method may alternate. Responses that are [decoded in
    /// place](Self::decode_response_in_place) need no such method: their bytes are the first ones of the
    /// buffer, and their number is returned.
    ///
    /// ```
    /// use bytes::BytesMut;
    /// use metaq_protocol::{Decoder, Opaque};
    ///
    /// let mut decoder = Decoder::new();
    /// let mut received = BytesMut::from("result 200 03 +60\r\n0.1version 61\r\n");
    /// let raw = decoder.decode_raw(&mut received)?.expect("one frame is whole");
    /// assert_eq!(raw.frame.opaque(), Opaque(60));
    /// // Encoded again, it would be `result 200 3 60`.
    /// assert_eq!((&raw.bytes[..], raw.bytes.len()), (&b"result 200 03 +60\r\n0.1"[..], 22));
    /// # Ok::<(), metaq_protocol::DecodeError>(())
    /// ```
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not a frame or exceed the limits.
    pub fn decode_raw(&mut self, src: &mut BytesMut) -> Result<Option<RawFrame>, DecodeError> {
        let Some(Header { mut frame, head_len, body_len }) = self.whole(src)? else {
            return Ok(None);
        };
        let bytes = src.split_to(head_len + body_len).freeze();
        if body_len > 0 {
            frame.set_body(bytes.slice(head_len..));
        }
        Ok(Some(RawFrame { frame, bytes }))
    }

    /// The header of the first frame, once the whole frame is in `src`.
    #[inline]
    fn whole(&mut self, src: &mut BytesMut) -> Result<Option<Header>, DecodeError> {
        let header = match self.pending.take() {
            Some(header) => header,
            None => {
                let Some(line) = self.search.find(src, self.limits.max_line)? else {
                    return Ok(None);
                };
                header::parse(&src[..line], self.limits.max_body, &mut self.names)?
            }
        };
        let length = header.head_len + header.body_len;
        if src.len() >= length {
            return Ok(Some(header));
        }
        let missing = length - src.len();
        let spare = src.capacity() - src.len();
        if spare < missing.min(Self::LEAST_ROOM) {
            src.reserve(missing.min(Self::MOST_RESERVED.max(src.len())));
        }
        self.pending = Some(header);
        Ok(None)
    }
}

/// A frame with its bytes as they were on the wire, decoded by [`Decoder::decode_raw`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawFrame {
    /// The frame.
    pub frame: Frame,
    /// Header line and body. The line may be spelled differently from that of [`Frame::encode`].
    pub bytes: Bytes,
}
