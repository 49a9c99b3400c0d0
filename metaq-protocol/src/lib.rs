//! The wire protocol of MetaQ 1.4 (Metamorphosis): commands, answers, messages. In construction.
#![no_std]

extern crate alloc;

mod answer;
mod broker_addr;
mod checksum;
mod command;
mod data;
mod decode;
mod frame;
mod number;
mod opaque;
mod partition;
mod response;
mod slave_id;
mod status;
mod stored;
mod text;
mod token;
mod topic;
mod transaction_id;

pub use answer::{InvalidAnswer, PrepareVote, PutAnswer, XaError, parse_recovered, parse_stats};
pub use broker_addr::{BrokerAddr, InvalidBrokerAddr};
pub use checksum::Checksum;
pub use command::{
    Command, GetCommand, InvalidTransactionAction, OffsetCommand, PutCommand, QuitCommand, StatsCommand,
    SyncCommand, TransactionAction, TransactionCommand, VersionCommand,
};
pub use data::{Flag, MAX_READABLE_DATA, PutData};
pub use decode::{DecodeError, DecodeErrorKind, Decoder, Limits, ResponseKind, ResponseRef};
pub use frame::Frame;
pub use opaque::Opaque;
pub use partition::{BrokerId, InvalidPartition, Partition};
pub use response::{BooleanCommand, DataCommand, Response};
pub use status::Status;
pub use stored::{
    CorruptMessage, CorruptMessageKind, StoredMessage, StoredMessages, Truncated, encode_stored_message,
};
pub use token::{InvalidToken, Token};
pub use topic::{InvalidTopic, Topic};
pub use transaction_id::{InvalidTransactionId, LocalTransactionId, TransactionId, XaTransactionId};

pub(crate) use text::excerpt;
