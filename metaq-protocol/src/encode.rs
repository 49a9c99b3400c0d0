//! Encoding: the methods that every frame has, and the limit of a body's length.

use core::fmt;

use bytes::{Bytes, BytesMut};

/// The longest body of a frame: the wire format stores its length as an `i32`. Peers accept far less; see
/// [`MAX_READABLE_DATA`](crate::MAX_READABLE_DATA) for the data of a `put`.
pub const MAX_BODY_LEN: usize = 0x7fff_ffff;

/// The error of a body that is longer than [`MAX_BODY_LEN`], so that its length doesn't fit into a header
/// line. Such a frame is never written, not even in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyTooLong {
    body_len: usize,
}

impl fmt::Display for BodyTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { body_len } = self;
        write!(
            f,
            "the body of {body_len} bytes is longer than {MAX_BODY_LEN} bytes, the most that a header line can express"
        )
    }
}

impl core::error::Error for BodyTooLong {}

impl BodyTooLong {
    /// The length of the body in bytes.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.body_len
    }
}

/// Refuses a body whose length doesn't fit into a header line.
#[inline]
pub(crate) fn check_body((first, second): (&Bytes, &Bytes)) -> Result<(), BodyTooLong> {
    // Two lengths of existing memory never overflow.
    match first.len().saturating_add(second.len()) {
        0..=MAX_BODY_LEN => Ok(()),
        body_len => Err(BodyTooLong { body_len }),
    }
}

/// The body of a frame that has none.
pub(crate) static NO_BODY: Bytes = Bytes::new();

/// The methods of every frame; the public types offer them as inherent methods.
pub(crate) trait Encode {
    /// Exact length of the header line, CR LF included.
    fn head_len(&self) -> usize;

    /// Appends the header line, after reserving exactly the space for it and for `body_len` more bytes.
    fn write_head(&self, dst: &mut BytesMut, body_len: usize);

    /// The part after the header line.
    fn body(&self) -> (&Bytes, &Bytes) {
        (&NO_BODY, &NO_BODY)
    }
}

/// Implements the public methods of a frame for a type.
macro_rules! frame_methods {
    ($type:ty) => {
        impl $type {
            /// Checks that the frame can be written: its body is no longer than
            /// [`MAX_BODY_LEN`](crate::MAX_BODY_LEN), the most that a header line can express.
            ///
            /// # Errors
            /// [`BodyTooLong`](crate::BodyTooLong) when it is longer.
            pub fn check(&self) -> Result<(), $crate::BodyTooLong> {
                $crate::encode::check_body($crate::encode::Encode::body(self))
            }

            /// The exact number of bytes of the whole frame. 0 for a frame that [can't be
            /// written](Self::check).
            #[must_use]
            pub fn encoded_len(&self) -> usize {
                match self.check() {
                    Ok(()) => $crate::encode::Encode::head_len(self) + self.body_len(),
                    Err(_) => 0,
                }
            }

            /// Appends the whole frame, after reserving exactly the space that it takes.
            ///
            /// Appends nothing for a frame that [can't be written](Self::check);
            /// [`try_encode`](Self::try_encode) returns an error instead.
            pub fn encode(&self, dst: &mut bytes::BytesMut) {
                let (first, second) = $crate::encode::Encode::body(self);
                if $crate::encode::check_body((first, second)).is_err() {
                    return;
                }
                $crate::encode::Encode::write_head(self, dst, first.len() + second.len());
                for part in [first, second] {
                    if !part.is_empty() {
                        dst.extend_from_slice(part);
                    }
                }
            }

            /// Appends the whole frame, or returns the reason why it can't be written: for bodies whose size
            /// is not limited otherwise.
            ///
            /// # Errors
            /// [`BodyTooLong`](crate::BodyTooLong) when the body is longer than a header line can express.
            /// Nothing is appended then.
            pub fn try_encode(&self, dst: &mut bytes::BytesMut) -> Result<(), $crate::BodyTooLong> {
                self.check()?;
                self.encode(dst);
                Ok(())
            }

            /// Appends the header line alone, CR LF included. The [body](Self::body_parts) must follow.
            /// Appends nothing for a frame that [can't be written](Self::check).
            pub fn encode_head(&self, dst: &mut bytes::BytesMut) {
                if self.check().is_ok() {
                    $crate::encode::Encode::write_head(self, dst, 0);
                }
            }

            /// The two parts of the body, to be written in this order directly after the header line. Both
            /// are empty for a frame without body, and for one that [can't be written](Self::check).
            #[must_use]
            pub fn body_parts(&self) -> (&bytes::Bytes, &bytes::Bytes) {
                let parts = $crate::encode::Encode::body(self);
                match $crate::encode::check_body(parts) {
                    Ok(()) => parts,
                    Err(_) => (&$crate::encode::NO_BODY, &$crate::encode::NO_BODY),
                }
            }

            /// The number of bytes of the body.
            #[must_use]
            pub fn body_len(&self) -> usize {
                let (first, second) = self.body_parts();
                first.len() + second.len()
            }
        }
    };
}
pub(crate) use frame_methods;
