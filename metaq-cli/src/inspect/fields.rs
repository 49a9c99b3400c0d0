//! The fields of frames as JSON.

use std::borrow::Cow;

use metaq_protocol::{Command, Frame, Opaque, PutData, Response, TransactionId};
use serde::Serialize;

use super::hex::Hex;

/// The fields of one frame, in the order of its header line.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Fields<'a> {
    Put {
        topic: &'a str,
        partition: i32,
        flag: i32,
        checksum: i32,
        tx: Option<Transaction<'a>>,
        opaque: i32,
        data: Data<'a>,
    },
    Sync {
        topic: &'a str,
        partition: i32,
        flag: i32,
        msg_id: i64,
        checksum: i32,
        opaque: i32,
        data: Data<'a>,
    },
    Get {
        topic: &'a str,
        group: &'a str,
        partition: i32,
        offset: i64,
        max_size: i32,
        opaque: i32,
    },
    Offset {
        topic: &'a str,
        group: &'a str,
        partition: i32,
        offset: i64,
        opaque: i32,
    },
    Stats {
        item: Option<&'a str>,
        opaque: i32,
    },
    /// `version` and `quit`.
    Opaque {
        opaque: i32,
    },
    Transaction {
        tx: Transaction<'a>,
        session: &'a str,
        #[serde(rename = "type")]
        action: &'a str,
        timeout: i32,
        qualifier: Option<&'a str>,
        opaque: i32,
    },
    Result {
        code: i32,
        message: Option<Cow<'a, str>>,
        opaque: i32,
    },
    Value {
        data: Hex<'a>,
        opaque: i32,
    },
}

impl<'a> Fields<'a> {
    pub(super) fn of(frame: &'a Frame) -> Self {
        match frame {
            Frame::Command(command) => Self::of_command(command),
            Frame::Response(Response::Boolean(answer)) => Self::Result {
                code: answer.status.0,
                // An absent text and an empty one are the same on the wire.
                message: (!answer.body.is_empty()).then(|| answer.text()),
                opaque: answer.opaque.0,
            },
            Frame::Response(Response::Data(answer)) => {
                Self::Value { data: Hex(&answer.data), opaque: answer.opaque.0 }
            }
            other => Self::Opaque { opaque: other.opaque().0 },
        }
    }

    fn of_command(command: &'a Command) -> Self {
        let opaque = command.opaque().0;
        match command {
            Command::Put(put) => Self::Put {
                topic: &put.topic,
                partition: put.partition,
                flag: put.flag.0,
                checksum: put.checksum.0,
                tx: put.transaction.as_ref().map(Transaction::of),
                opaque,
                data: Data(&put.data),
            },
            Command::Sync(sync) => Self::Sync {
                topic: &sync.topic,
                partition: sync.partition,
                flag: sync.flag.0,
                msg_id: sync.message_id,
                checksum: sync.checksum.0,
                opaque,
                data: Data(&sync.data),
            },
            Command::Get(get) => Self::Get {
                topic: &get.topic,
                group: &get.group,
                partition: get.partition,
                offset: get.offset,
                max_size: get.max_size,
                opaque,
            },
            Command::Offset(command) => Self::Offset {
                topic: &command.topic,
                group: &command.group,
                partition: command.partition,
                offset: command.offset,
                opaque,
            },
            Command::Stats(stats) => Self::Stats { item: stats.item.as_deref(), opaque },
            Command::Transaction(step) => Self::Transaction {
                tx: Transaction::of(&step.id),
                session: &step.session,
                action: step.action.as_str(),
                timeout: step.timeout(),
                qualifier: step.qualifier(),
                opaque,
            },
            Command::Version(_) => Self::Opaque { opaque },
            // Not on the wire.
            Command::Quit(_) => Self::Opaque { opaque: Opaque::NONE.0 },
            other => Self::Opaque { opaque: other.opaque().0 },
        }
    }
}

/// The data of a put, attribute and payload as one text.
pub(super) struct Data<'a>(&'a PutData);

impl Serialize for Data<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (attribute, payload) = self.0.parts();
        serializer.collect_str(&format_args!("{}{}", Hex(attribute), Hex(payload)))
    }
}

/// The id of a transaction: its text and its parts.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Transaction<'a> {
    Null { key: &'a str },
    Local { key: &'a str, session: &'a str, value: i32 },
    Xa { key: &'a str, format_id: i32, gtrid: String, bqual: String, qualifier: &'a str },
}

impl<'a> Transaction<'a> {
    fn of(id: &'a TransactionId) -> Self {
        let key = id.as_str();
        match id {
            TransactionId::Local(id) => Self::Local { key, session: id.session(), value: id.number() },
            TransactionId::Xa(id) => Self::Xa {
                key,
                format_id: id.format_id(),
                gtrid: Hex(&id.gtrid()).to_string(),
                bqual: Hex(&id.bqual()).to_string(),
                qualifier: id.qualifier(),
            },
            _ => Self::Null { key },
        }
    }
}
