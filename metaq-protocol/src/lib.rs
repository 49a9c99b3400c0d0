//! [`encode`]: crate::PutCommand::encode
//! [`try_encode`]: crate::PutCommand::try_encode
//! [`encode_head`]: crate::PutCommand::encode_head
//! [`body_parts`]: crate::PutCommand::body_parts
//! [`PutCommand`]: crate::PutCommand
//! [`PutData`]: crate::PutData
//! [`GetCommand`]: crate::GetCommand
//! [`OffsetCommand`]: crate::OffsetCommand
//! [`StatsCommand`]: crate::StatsCommand
//! [`VersionCommand`]: crate::VersionCommand
//! [`QuitCommand`]: crate::QuitCommand
//! [`TransactionCommand`]: crate::TransactionCommand
//! [`SyncCommand`]: crate::SyncCommand
//! [`BooleanCommand`]: crate::BooleanCommand
//! [`DataCommand`]: crate::DataCommand
//! [`StoredMessages`]: crate::StoredMessages
//! [`Topic`]: crate::Topic
//! [`Token`]: crate::Token
//! [`TransactionId`]: crate::TransactionId
//! [`MAX_BODY_LEN`]: crate::MAX_BODY_LEN
//! [`Decoder`]: crate::Decoder
//! [`Decoder::decode_raw`]: crate::Decoder::decode_raw
//! [`PutCommand::split`]: crate::PutCommand::split
//! [`Decoder::decode_response_in_place`]: crate::Decoder::decode_response_in_place
//! [`Limits`]: crate::Limits
//!
// The first definition of a link counts: on docs.rs those above replace the addresses of README.
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![no_std]

extern crate alloc;

mod broker_addr;
mod checksum;
mod command;
mod data;
mod decode;
mod encode;
mod frame;
mod number;
mod opaque;
mod partition;
mod response;
mod response_body;
mod status;
mod stored;
mod text;
mod token;
mod topic;
mod transaction_id;

pub use broker_addr::{BrokerAddr, InvalidBrokerAddr, InvalidBrokerAddrKind};
pub use checksum::Checksum;
pub use command::{
    Command, GetCommand, InvalidTransactionAction, OffsetCommand, PutCommand, PutRef, QuitCommand,
    StatsCommand, SyncCommand, TransactionAction, TransactionCommand, VersionCommand,
};
pub use data::{Flag, InvalidAttribute, MAX_READABLE_DATA, PutData, SplitData};
pub use decode::{DecodeError, DecodeErrorKind, Decoder, Limits, RawFrame, ResponseKind, ResponseRef};
pub use encode::{BodyTooLong, MAX_BODY_LEN};
pub use frame::Frame;
pub use opaque::Opaque;
pub use partition::{BrokerId, InvalidPartition, Partition};
pub use response::{BooleanCommand, DataCommand, Response};
pub use response_body::{
    InvalidResponse, InvalidStat, PrepareVote, PutResponse, XaError, encode_recovered, encode_stats,
    parse_recovered, parse_stats,
};
pub use status::Status;
pub use stored::{
    CorruptMessage, CorruptMessageKind, StoredMessage, StoredMessages, Truncated, encode_stored_message,
};
pub use token::{InvalidToken, InvalidTokenKind, Token};
pub use topic::{InvalidTopic, Topic};
pub use transaction_id::{
    InvalidTransactionId, InvalidTransactionIdKind, LocalTransactionId, TransactionId, XaTransactionId,
};

pub(crate) use text::excerpt;
