//! Requests: what a client sends to a broker.

use bytes::BytesMut;

use crate::{
    GetCommand, OffsetCommand, Opaque, PutCommand, PutData, QuitCommand, StatsCommand, SyncCommand,
    TransactionCommand, VersionCommand,
};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Stores a message.
    Put(PutCommand),
    /// Passes a message on to a slave.
    Sync(SyncCommand),
    /// Reads messages.
    Get(GetCommand),
    /// Asks for an offset.
    Offset(OffsetCommand),
    /// Begins, prepares or ends a transaction.
    Transaction(TransactionCommand),
    /// Asks for statistics.
    Stats(StatsCommand),
    /// Asks for the version.
    Version(VersionCommand),
    /// Ends the connection.
    Quit(QuitCommand),
}

/// Does the same to whichever command it is.
macro_rules! each {
    ($self:expr, $command:ident => $do:expr) => {
        match $self {
            Command::Put($command) => $do,
            Command::Sync($command) => $do,
            Command::Get($command) => $do,
            Command::Offset($command) => $do,
            Command::Transaction($command) => $do,
            Command::Stats($command) => $do,
            Command::Version($command) => $do,
            Command::Quit($command) => $do,
        }
    };
}

impl Command {
    /// The verb: the first token of the header line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Sync(_) => "sync",
            Self::Get(_) => "get",
            Self::Offset(_) => "offset",
            Self::Transaction(_) => "transaction",
            Self::Stats(_) => "stats",
            Self::Version(_) => "version",
            Self::Quit(_) => "quit",
        }
    }

    /// The opaque; [`Opaque::NONE`] for `quit`, which has none.
    #[must_use]
    pub fn opaque(&self) -> Opaque {
        match self {
            Self::Put(put) => put.opaque,
            Self::Sync(sync) => sync.opaque,
            Self::Get(get) => get.opaque,
            Self::Offset(offset) => offset.opaque,
            Self::Transaction(transaction) => transaction.opaque,
            Self::Stats(stats) => stats.opaque,
            Self::Version(version) => version.opaque,
            Self::Quit(_) => Opaque::NONE,
        }
    }

    /// Replaces the opaque; `quit` has none.
    pub fn set_opaque(&mut self, opaque: Opaque) {
        match self {
            Self::Put(put) => put.opaque = opaque,
            Self::Sync(sync) => sync.opaque = opaque,
            Self::Get(get) => get.opaque = opaque,
            Self::Offset(offset) => offset.opaque = opaque,
            Self::Transaction(transaction) => transaction.opaque = opaque,
            Self::Stats(stats) => stats.opaque = opaque,
            Self::Version(version) => version.opaque = opaque,
            Self::Quit(_) => {}
        }
    }

    /// The body, which only `put` and `sync` have.
    #[must_use]
    pub fn body(&self) -> Option<&PutData> {
        match self {
            Self::Put(put) => Some(&put.data),
            Self::Sync(sync) => Some(&sync.data),
            _ => None,
        }
    }

    /// How many bytes [`encode`](Self::encode) appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        each!(self, command => command.head_len()) + self.body().map_or(0, PutData::len)
    }

    /// Appends the whole frame to `dst`.
    pub fn encode(&self, dst: &mut BytesMut) {
        dst.reserve(self.encoded_len());
        self.encode_head(dst);
        if let Some(body) = self.body() {
            body.parts().into_iter().for_each(|part| dst.extend_from_slice(part));
        }
    }

    /// Appends the header line alone. The [`body`](Self::body) follows it on the wire at once: for those who write it
    /// from where it is.
    pub fn encode_head(&self, dst: &mut BytesMut) {
        each!(self, command => command.encode_head(dst));
    }
}

macro_rules! impl_from {
    ($($variant:ident($command:ident)),*) => {
        $(impl From<$command> for Command {
            fn from(command: $command) -> Self {
                Self::$variant(command)
            }
        })*
    };
}

impl_from!(
    Put(PutCommand),
    Sync(SyncCommand),
    Get(GetCommand),
    Offset(OffsetCommand),
    Transaction(TransactionCommand),
    Stats(StatsCommand),
    Version(VersionCommand),
    Quit(QuitCommand)
);
