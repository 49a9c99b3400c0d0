//! Frames: what a connection carries, and how each is written.

use bytes::{Bytes, BytesMut};

use crate::{Command, Response};

/// Longest body of a frame: its length goes over the wire as an `i32`. Peers take far less; see
/// [`MAX_READABLE_DATA`](crate::MAX_READABLE_DATA) for the data of a `put`.
pub const MAX_BODY_LEN: usize = 0x7fff_ffff;

/// A body that is longer than [`MAX_BODY_LEN`], so that no header line can say how long. Such a frame is never
/// written, neither whole nor in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the body of {body_len} bytes is longer than {MAX_BODY_LEN} bytes, the most that a header line can say"
)]
pub struct BodyTooLong {
    body_len: usize,
}

impl BodyTooLong {
    /// The length of the body in bytes.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.body_len
    }
}

/// Refuses a body whose length can't be said.
#[inline]
pub(crate) fn check_body((first, second): (&Bytes, &Bytes)) -> Result<(), BodyTooLong> {
    // Two lengths of memory that exists never overflow.
    match first.len().saturating_add(second.len()) {
        0..=MAX_BODY_LEN => Ok(()),
        body_len => Err(BodyTooLong { body_len }),
    }
}

/// The body of a frame that has none.
pub(crate) static NO_BODY: Bytes = Bytes::new();

/// The methods of every frame; the public types offer them as their own.
pub(crate) trait Encode {
    /// Exact length of the header line, CR LF included.
    fn head_len(&self) -> usize;

    /// Appends the header line, after reserving exactly what it and `body_len` more bytes take.
    fn write_head(&self, dst: &mut BytesMut, body_len: usize);

    /// The part behind the header line.
    fn body(&self) -> (&Bytes, &Bytes) {
        (&NO_BODY, &NO_BODY)
    }
}

/// Gives a type the public methods of a frame.
macro_rules! frame_methods {
    ($type:ty) => {
        impl $type {
            /// Makes sure that the frame can be written: its body is no longer than
            /// [`MAX_BODY_LEN`](crate::MAX_BODY_LEN), the most that a header line can say.
            ///
            /// # Errors
            /// [`BodyTooLong`](crate::BodyTooLong) when it is longer.
            pub fn check(&self) -> Result<(), $crate::BodyTooLong> {
                $crate::frame::check_body($crate::frame::Encode::body(self))
            }

            /// The exact number of bytes of the whole frame. 0 for a frame that [can't be written](Self::check).
            #[must_use]
            pub fn encoded_len(&self) -> usize {
                match self.check() {
                    Ok(()) => $crate::frame::Encode::head_len(self) + self.body_len(),
                    Err(_) => 0,
                }
            }

            /// Appends the whole frame, after reserving exactly what it takes.
            ///
            /// Nothing is appended for a frame that [can't be written](Self::check);
            /// [`try_encode`](Self::try_encode) says so.
            pub fn encode(&self, dst: &mut bytes::BytesMut) {
                let (first, second) = $crate::frame::Encode::body(self);
                if $crate::frame::check_body((first, second)).is_err() {
                    return;
                }
                $crate::frame::Encode::write_head(self, dst, first.len() + second.len());
                for part in [first, second] {
                    if !part.is_empty() {
                        dst.extend_from_slice(part);
                    }
                }
            }

            /// Appends the whole frame, or says why it can't be written: for bodies of which nobody else limits the size.
            ///
            /// # Errors
            /// [`BodyTooLong`](crate::BodyTooLong) when the body is longer than a header line can say. Nothing is appended then.
            pub fn try_encode(&self, dst: &mut bytes::BytesMut) -> Result<(), $crate::BodyTooLong> {
                self.check()?;
                self.encode(dst);
                Ok(())
            }

            /// Appends the header line alone, CR LF included. The [body](Self::body_parts) has to follow. Nothing is
            /// appended for a frame that [can't be written](Self::check).
            pub fn encode_head(&self, dst: &mut bytes::BytesMut) {
                if self.check().is_ok() {
                    $crate::frame::Encode::write_head(self, dst, 0);
                }
            }

            /// The body, to be written right behind the header line, one part behind the other.
            /// Both are empty for a frame without body, and for one that [can't be written](Self::check).
            #[must_use]
            pub fn body_parts(&self) -> (&bytes::Bytes, &bytes::Bytes) {
                let parts = $crate::frame::Encode::body(self);
                match $crate::frame::check_body(parts) {
                    Ok(()) => parts,
                    Err(_) => (&$crate::frame::NO_BODY, &$crate::frame::NO_BODY),
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

/// One frame of either direction: `version 60\r\n` as well as `result 200 3 60\r\n0.1`.
///
/// Both sides of MetaQ use one codec, so a broker reads responses too (and drops them).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// A request, from client to broker.
    Command(Command),
    /// A response, from broker to client.
    Response(Response),
}

impl Frame {
    /// The first word of the header line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Command(command) => command.name(),
            Self::Response(response) => response.name(),
        }
    }

    /// The number that links request and response.
    #[must_use]
    pub fn opaque(&self) -> crate::Opaque {
        match self {
            Self::Command(command) => command.opaque(),
            Self::Response(response) => response.opaque(),
        }
    }

    pub(crate) fn set_body(&mut self, body: Bytes) {
        match self {
            Self::Command(Command::Put(put)) => put.data = body.into(),
            Self::Command(Command::Sync(sync)) => sync.data = body.into(),
            Self::Response(Response::Boolean(response)) => response.body = body,
            Self::Response(Response::Data(response)) => response.data = body,
            Self::Command(_) => {}
        }
    }

    fn as_encode(&self) -> &dyn Encode {
        match self {
            Self::Command(command) => command,
            Self::Response(response) => response,
        }
    }
}

impl Encode for Frame {
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

frame_methods!(Frame);

impl From<Command> for Frame {
    fn from(command: Command) -> Self {
        Self::Command(command)
    }
}

impl From<Response> for Frame {
    fn from(response: Response) -> Self {
        Self::Response(response)
    }
}
