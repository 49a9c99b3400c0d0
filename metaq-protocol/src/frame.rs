//! A frame: a command or a response.

use bytes::{Bytes, BytesMut};

use crate::{
    BooleanCommand, Command, DataCommand, GetCommand, OffsetCommand, Opaque, PutCommand, QuitCommand,
    Response, StatsCommand, SyncCommand, TransactionCommand, VersionCommand,
    encode::{Encode, frame_methods},
};

/// A frame of either direction: `version 60\r\n` as well as `result 200 3 60\r\n0.1`.
///
/// Both sides of MetaQ use one codec, so a broker decodes responses too (and drops them).
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
    pub fn opaque(&self) -> Opaque {
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

macro_rules! from_message {
    ($variant:ident: $($type:ty),* $(,)?) => {$(
        impl From<$type> for Frame {
            fn from(message: $type) -> Self {
                Self::$variant(message.into())
            }
        }
    )*};
}

from_message!(
    Command: PutCommand, GetCommand, OffsetCommand, SyncCommand, StatsCommand, VersionCommand, QuitCommand,
    TransactionCommand,
);
from_message!(Response: BooleanCommand, DataCommand);
