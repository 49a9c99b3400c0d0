//! The wire protocol of MetaQ 1.4 (Metamorphosis): commands, responses, stored messages, and the text forms
//! of topics, partitions, brokers and transactions. No I/O, no clock, no async runtime, no `unsafe`.
//!
//! `docs/protocol.md` in the repository describes the protocol as the Java classes of MetaQ 1.4.6.2 read and
//! write it; every recorded case of them runs in the tests of this crate.
//!
//! # Frames
//!
//! One TCP connection carries frames in both directions. There is no greeting, and nothing between frames:
//!
//! ```text
//!  frame = word *( SP word ) CR LF [ body ]
//!
//!  ┌──────────────────────── header line ────────────────────────┐┌── body ──┐
//!  │put SP test SP 1 SP 5 SP 0 SP 907060870 SP -2147483648 CR LF ││hello     │
//!  └┬────────┬───────┬────┬────┬──────┬──────────────┬───────────┘└────┬─────┘
//!   command  topic   │    │    flag   checksum       opaque            5 bytes, as the length says
//!                    │    length of the body
//!                    partition
//!
//!  ┌────────── header line ────────────┐┌───────── body ─────────┐
//!  │result SP 200 SP 24 SP -2147483648 ││-5468924307537133568 0 0│
//!  └┬──────────┬──────┬──────┬─────────┘└───────────┬────────────┘
//!   command    status length opaque of the request  message id, partition, offset
//! ```
//!
//! | type | direction | line | body |
//! |---|---|---|---|
//! | [`PutCommand`] | client to broker | `put topic partition length flag checksum [transaction] opaque` | [`PutData`] |
//! | [`GetCommand`] | client to broker | `get topic group partition offset max_size opaque` | |
//! | [`OffsetCommand`] | client to broker | `offset topic group partition offset opaque` | |
//! | [`StatsCommand`] | client to broker | `stats item opaque` | |
//! | [`VersionCommand`] | client to broker | `version opaque` | |
//! | [`QuitCommand`] | client to broker | `quit` | |
//! | [`TransactionCommand`] | client to broker | `transaction id session action [timeout] [qualifier] opaque` | |
//! | [`SyncCommand`] | master to slave | `sync topic partition length flag message_id checksum opaque` | [`PutData`] |
//! | [`BooleanCommand`] | broker to client | `result status length opaque` | text |
//! | [`DataCommand`] | broker to client | `value length opaque` | [`StoredMessages`] |
//!
//! # Writing
//!
//! [`encode`](PutCommand::encode) appends to a buffer and can't fail: a text that no line can carry (with a
//! space, with a line end, or empty) is refused when a [`Topic`], a [`Token`] or a [`TransactionId`] is
//! created. The one exception is a body longer than [`MAX_BODY_LEN`]: such a frame is not written, and
//! [`try_encode`](PutCommand::try_encode) returns an error. [`encode_head`](PutCommand::encode_head) and
//! [`body_parts`](PutCommand::body_parts) serve vectored writes.
//!
//! # Reading
//!
//! A [`Decoder`] takes frames of both directions from a growing buffer; bodies share the buffer's memory.
//! [`Decoder::decode_raw`] also returns the bytes of a frame, and [`PutCommand::split`] separates attribute
//! and payload. [`Decoder::decode_response_in_place`] decodes responses without copying them. Both ways have
//! [`Limits`].
//!
//! ```
//! use bytes::{Bytes, BytesMut};
//! use metaq_protocol::{Command, Decoder, Frame, Opaque, PutResponse, PutCommand, Status};
//!
//! let put = PutCommand::new("test".parse()?, 1, Bytes::from_static(b"hello"), None).with_opaque(Opaque(7));
//! let mut wire = BytesMut::new();
//! put.encode(&mut wire);
//! assert_eq!(wire, "put test 1 5 0 907060870 7\r\nhello");
//!
//! let frame = Decoder::new().decode(&mut wire)?;
//! assert_eq!(frame, Some(Frame::from(put)));
//!
//! let received = b"result 200 25 7\r\n-5468924306434031616 1 31";
//! let (response, used) = Decoder::new().decode_response_in_place(received)?.expect("it is whole");
//! assert_eq!((response.status(), response.opaque), (Some(Status::SUCCESS), Opaque(7)));
//! assert_eq!(used, received.len());
//! let stored = PutResponse { message_id: -5468924306434031616, partition: 1, offset: 31 };
//! assert_eq!(response.put_response()?, stored);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! `std` (default): the checksum uses the instructions that the processor offers. Without it the crate needs
//! `alloc` only.

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
