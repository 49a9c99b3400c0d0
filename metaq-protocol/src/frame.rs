//! Frames: what a connection carries, and how each is written.

use bytes::{Bytes, BytesMut};

use crate::{Command, Response};

/// The body of a frame that has none.
pub(crate) static NO_BODY: Bytes = Bytes::new();

/// What every frame can do; the public types offer it as methods of their own.
pub(crate) trait Encode {
    /// Exact length of the header line, CR LF included.
    fn head_len(&self) -> usize;

    /// Appends the header line, after reserving exactly what it and `body_len` more bytes take.
    fn write_head(&self, dst: &mut BytesMut, body_len: usize);

    /// What follows the header line.
    fn body(&self) -> (&Bytes, &Bytes) {
        (&NO_BODY, &NO_BODY)
    }
}

/// Gives a type the public methods of a frame.
macro_rules! frame_methods {
    ($type:ty) => {
        impl $type {
            /// How many bytes the whole frame takes, exactly.
            #[must_use]
            pub fn encoded_len(&self) -> usize {
                $crate::frame::Encode::head_len(self) + self.body_len()
            }

            /// Appends the whole frame, after reserving exactly what it takes.
            pub fn encode(&self, dst: &mut bytes::BytesMut) {
                let (first, second) = $crate::frame::Encode::body(self);
                $crate::frame::Encode::write_head(self, dst, first.len() + second.len());
                for part in [first, second] {
                    if !part.is_empty() {
                        dst.extend_from_slice(part);
                    }
                }
            }

            /// Appends the header line alone, CR LF included. The [body](Self::body_parts) has to follow.
            pub fn encode_head(&self, dst: &mut bytes::BytesMut) {
                $crate::frame::Encode::write_head(self, dst, 0);
            }

            /// The body, to be written right behind the header line, one part behind the other.
            /// Both are empty for a frame without body.
            #[must_use]
            pub fn body_parts(&self) -> (&bytes::Bytes, &bytes::Bytes) {
                $crate::frame::Encode::body(self)
            }

            /// How many bytes the body has.
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
/// Both sides of MetaQ use one codec, so a broker reads answers too (and drops them).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// A request, from client to broker.
    Command(Command),
    /// An answer, from broker to client.
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

    /// What links request and answer.
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
            Self::Response(Response::Boolean(answer)) => answer.body = body,
            Self::Response(Response::Data(answer)) => answer.data = body,
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
