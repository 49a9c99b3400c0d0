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

mod broker_addr;
mod codes;
mod command;
mod decode;
mod head;
mod message;
mod partition;
mod response;
mod text;
mod topic;

pub use broker_addr::{BrokerAddr, InvalidBrokerAddr};
pub use codes::{Checksum, Flag, Opaque, Status};
pub use command::{
    Command, GetCommand, OffsetCommand, PutCommand, QuitCommand, StatsCommand, VersionCommand,
};
pub use decode::{DecodeError, DecodeErrorKind, Decoder, Frame, Limits, ResponseRef};
pub use message::{
    CorruptMessage, MAX_READABLE_DATA, PutData, StoredMessage, StoredMessages, encode_stored_message,
};
pub use partition::{BrokerId, InvalidPartition, Partition};
pub use response::{BooleanCommand, DataCommand, InvalidPutAnswer, PutAnswer, Response};
pub use topic::{InvalidTopic, InvalidWord, Topic, Word};

/// The first part of a text that came from outside, short enough for an error message.
pub(crate) fn excerpt(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(end, _)| &text[..end])
}
