//! The wire protocol of MetaQ 1.4 (Metamorphosis) as plain data: commands, answers, messages, and the text forms of
//! topics, partitions and brokers. No I/O, no clock, no async runtime.
//!
//! One TCP connection carries frames in both directions, without a greeting:
//!
//! ```text
//! frame  =  token *( SP token ) CR LF  [ body ]
//!
//! put test 1 5 0 907060870 1\r\n hello                       a request, answered by
//! result 200 24 1\r\n -5468924307537133568 1 0               status, length of the body, opaque, body
//! ```
//!
//! Encoding appends to a [`BytesMut`](bytes::BytesMut) and can't fail, because what the text form can't carry
//! is refused where a [`Topic`] or a [`Word`] is made. Decoding is the [`Decoder`]'s, which gives `None` while more
//! bytes are wanted.
//!
//! ```
//! use bytes::BytesMut;
//! use metaq_protocol::{Command, Decoder, Frame, PutCommand, Topic};
//!
//! let put = Command::from(PutCommand::new(Topic::new("test")?, 1, "hello".into(), None));
//! let mut bytes = BytesMut::new();
//! put.encode(&mut bytes);
//! assert_eq!(bytes, "put test 1 5 0 907060870 2147483647\r\nhello");
//! assert_eq!(Decoder::new().decode(&mut bytes)?, Some(Frame::Command(put)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![no_std]

extern crate alloc;

mod answers;
mod broker_addr;
mod codes;
mod command;
mod decode;
mod error;
mod head;
#[cfg(feature = "json")]
pub mod json;
mod message;
mod number;
mod partition;
mod put;
mod query;
mod response;
mod text;
mod topic;
mod transaction;
mod transaction_id;
mod utf8;

pub use answers::{InvalidAnswer, PrepareAnswer, PutAnswer, Stats, XaAnswerError, parse_recover_answer};
pub use broker_addr::{BrokerAddr, BrokerUri, InvalidBrokerAddr};
pub use codes::{Checksum, Flag, Opaque, Status};
pub use command::Command;
pub use decode::{Decoder, Frame, Limits, ResponseRef};
pub use error::{DecodeError, DecodeErrorKind};
pub use message::{
    CorruptMessage, MAX_READABLE_DATA, PutData, StoredMessage, StoredMessages, encode_stored_message,
};
pub use partition::{BrokerId, InvalidPartition, Partition};
pub use put::{PutCommand, SyncCommand};
pub use query::{GetCommand, OffsetCommand, QuitCommand, StatsCommand, VersionCommand};
pub use response::{BooleanCommand, DataCommand, Response};
pub use topic::{InvalidTopic, InvalidWord, Topic, Word};
pub use transaction::{InvalidQualifier, TransactionCommand, TransactionKind, UnknownTransactionKind};
pub use transaction_id::{InvalidTransactionId, LocalTransactionId, TransactionId, XaTransactionId};

/// The first part of a text that came from outside, short enough for an error message.
pub(crate) fn excerpt(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(end, _)| &text[..end])
}
