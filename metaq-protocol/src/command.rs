//! Requests from a client to a broker, and from a master to its slaves (protocol §3).

use bytes::{Bytes, BytesMut};

use crate::{
    InvalidAttribute, Opaque, SplitData,
    encode::{Encode, frame_methods},
};

mod get;
mod offset;
mod put;
mod stats;
mod sync;
mod transaction;
mod version;

pub use get::GetCommand;
pub use offset::OffsetCommand;
pub use put::{PutCommand, PutRef};
pub use stats::StatsCommand;
pub use sync::SyncCommand;
pub(crate) use transaction::is_all_digits;
pub use transaction::{InvalidTransactionAction, TransactionAction, TransactionCommand};
pub use version::{QuitCommand, VersionCommand};

/// A request.
///
/// ```
/// use bytes::BytesMut;
/// use metaq_protocol::{Command, Opaque, VersionCommand};
///
/// let command = Command::from(VersionCommand::new(Opaque(60)));
/// let mut frame = BytesMut::new();
/// command.encode(&mut frame);
/// assert_eq!(frame, "version 60\r\n");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// `put`: store a message.
    Put(PutCommand),
    /// `get`: read stored messages.
    Get(GetCommand),
    /// `offset`: find the log segment that holds an offset.
    Offset(OffsetCommand),
    /// `sync`: pass a stored message from a master to its slave.
    Sync(SyncCommand),
    /// `stats`: ask for statistics.
    Stats(StatsCommand),
    /// `version`: ask for the broker's version; also the heartbeat.
    Version(VersionCommand),
    /// `quit`: end the connection.
    Quit(QuitCommand),
    /// `transaction`: begin, prepare, commit, roll back, ...
    Transaction(TransactionCommand),
}

impl Command {
    /// The first word of the header line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Get(_) => "get",
            Self::Offset(_) => "offset",
            Self::Sync(_) => "sync",
            Self::Stats(_) => "stats",
            Self::Version(_) => "version",
            Self::Quit(_) => "quit",
            Self::Transaction(_) => "transaction",
        }
    }

    /// The number that the response repeats. [`Opaque::NONE`] for `quit`, which has no response.
    #[must_use]
    pub fn opaque(&self) -> Opaque {
        match self {
            Self::Put(command) => command.opaque,
            Self::Get(command) => command.opaque,
            Self::Offset(command) => command.opaque,
            Self::Sync(command) => command.opaque,
            Self::Stats(command) => command.opaque,
            Self::Version(command) => command.opaque,
            Self::Quit(_) => Opaque::NONE,
            Self::Transaction(command) => command.opaque,
        }
    }

    /// Sets the number that the response repeats. No effect on `quit`.
    pub fn set_opaque(&mut self, opaque: Opaque) {
        match self {
            Self::Put(command) => command.opaque = opaque,
            Self::Get(command) => command.opaque = opaque,
            Self::Offset(command) => command.opaque = opaque,
            Self::Sync(command) => command.opaque = opaque,
            Self::Stats(command) => command.opaque = opaque,
            Self::Version(command) => command.opaque = opaque,
            Self::Quit(_) => {}
            Self::Transaction(command) => command.opaque = opaque,
        }
    }

    fn as_encode(&self) -> &dyn Encode {
        match self {
            Self::Put(command) => command,
            Self::Get(command) => command,
            Self::Offset(command) => command,
            Self::Sync(command) => command,
            Self::Stats(command) => command,
            Self::Version(command) => command,
            Self::Quit(command) => command,
            Self::Transaction(command) => command,
        }
    }
}

impl Encode for Command {
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

frame_methods!(Command);

macro_rules! from_command {
    ($($variant:ident($type:ty)),* $(,)?) => {$(
        impl From<$type> for Command {
            fn from(command: $type) -> Self {
                Self::$variant(command)
            }
        }
    )*};
}

from_command!(
    Put(PutCommand),
    Get(GetCommand),
    Offset(OffsetCommand),
    Sync(SyncCommand),
    Stats(StatsCommand),
    Version(VersionCommand),
    Quit(QuitCommand),
    Transaction(TransactionCommand),
);

macro_rules! split_method {
    ($($type:ty),*) => {$(
        impl $type {
            /// Separates attribute and payload according to the flag; see
            /// [`PutData::split`](crate::PutData::split).
            ///
            /// # Errors
            /// [`InvalidAttribute`] when the flag announces an attribute, and the data doesn't begin with a
            /// valid one.
            pub fn split(&self) -> Result<SplitData, InvalidAttribute> {
                self.data.split(self.flag)
            }
        }
    )*};
}

split_method!(PutCommand, PutRef<'_>, SyncCommand);
