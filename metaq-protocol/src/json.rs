//! Frames as JSON, for tools that show or make them (feature `json`).
//!
//! A frame is the name of its command and an object of fields. Bytes are lower-case hexadecimal; a missing text is null.
//!
//! | command | fields |
//! |---|---|
//! | `put` | `topic`, `partition`, `flag`, `checksum`, `tx`, `opaque`, `data` |
//! | `sync` | `topic`, `partition`, `flag`, `msg_id`, `checksum`, `opaque`, `data` |
//! | `get` | `topic`, `group`, `partition`, `offset`, `max_size`, `opaque` |
//! | `offset` | `topic`, `group`, `partition`, `offset`, `opaque` |
//! | `stats` | `item`, `opaque` |
//! | `version`, `quit` | `opaque` |
//! | `transaction` | `tx`, `session`, `type`, `timeout`, `qualifier`, `opaque` |
//! | `result` | `code`, `message`, `opaque` |
//! | `value` | `data`, `opaque` |
//!
//! `tx` is null or an object: `{"type":"null","key":"null"}`, `{"type":"local","key":"TX:s:1","session":"s","value":1}`, or
//! `{"type":"xa","key":"XID:100:67:6272:uq","format_id":100,"gtrid":"67","bqual":"6272","qualifier":"uq"}`.

use alloc::{
    borrow::ToOwned,
    format,
    string::{String, ToString as _},
    vec::Vec,
};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::{
    BooleanCommand, Checksum, Command, DataCommand, Flag, Frame, GetCommand, LocalTransactionId,
    OffsetCommand, Opaque, PutCommand, QuitCommand, Response, StatsCommand, Status, SyncCommand, Topic,
    TransactionCommand, TransactionId, VersionCommand, Word, XaTransactionId,
};

/// The name of a frame's command, and its fields.
///
/// ```
/// use bytes::BytesMut;
/// use metaq_protocol::{Decoder, json};
///
/// let frame = Decoder::new().decode(&mut BytesMut::from("version 60\r\n"))?.unwrap();
/// assert_eq!(json::fields(&frame), ("version", serde_json::json!({ "opaque": 60 })));
/// # Ok::<(), metaq_protocol::DecodeError>(())
/// ```
#[must_use]
pub fn fields(frame: &Frame) -> (&'static str, Value) {
    match frame {
        Frame::Command(command) => (command.name(), command_fields(command)),
        Frame::Response(Response::Boolean(answer)) => {
            let message = if answer.body.is_empty() { Value::Null } else { answer.text().into() };
            ("result", json!({ "code": answer.status.0, "message": message, "opaque": answer.opaque.0 }))
        }
        Frame::Response(Response::Data(answer)) => {
            ("value", json!({ "data": to_hex([&answer.data[..]]), "opaque": answer.opaque.0 }))
        }
    }
}

fn command_fields(command: &Command) -> Value {
    let opaque = command.opaque().0;
    match command {
        Command::Put(put) => json!({
            "topic": put.topic.as_str(), "partition": put.partition, "flag": put.flag.0, "checksum": put.checksum.0,
            "tx": put.transaction.as_ref().map_or(Value::Null, transaction_id), "opaque": opaque,
            "data": to_hex(put.data.parts()),
        }),
        Command::Sync(sync) => json!({
            "topic": sync.topic.as_str(), "partition": sync.partition, "flag": sync.flag.0, "msg_id": sync.message_id,
            "checksum": sync.checksum.0, "opaque": opaque, "data": to_hex(sync.data.parts()),
        }),
        Command::Get(get) => json!({
            "topic": get.topic.as_str(), "group": &*get.group, "partition": get.partition, "offset": get.offset,
            "max_size": get.max_size, "opaque": opaque,
        }),
        Command::Offset(offset) => json!({
            "topic": offset.topic.as_str(), "group": &*offset.group, "partition": offset.partition,
            "offset": offset.offset, "opaque": opaque,
        }),
        Command::Transaction(transaction) => json!({
            "tx": transaction_id(transaction.id()), "session": &**transaction.session(),
            "type": transaction.kind().as_str(), "timeout": transaction.timeout(),
            "qualifier": transaction.qualifier().map(|qualifier| &**qualifier), "opaque": opaque,
        }),
        Command::Stats(stats) => json!({ "item": stats.item.as_deref(), "opaque": opaque }),
        Command::Version(_) | Command::Quit(_) => json!({ "opaque": opaque }),
    }
}

/// A transaction id as it stands in the field `tx`.
#[must_use]
pub fn transaction_id(id: &TransactionId) -> Value {
    let key = id.to_string();
    match id {
        TransactionId::Null => json!({ "type": "null", "key": key }),
        TransactionId::Local(local) => {
            json!({ "type": "local", "key": key, "session": local.session(), "value": local.number() })
        }
        TransactionId::Xa(xa) => json!({
            "type": "xa", "key": key, "format_id": xa.format_id(), "gtrid": to_hex([xa.global()]),
            "bqual": to_hex([xa.branch()]), "qualifier": xa.qualifier(),
        }),
    }
}

/// Makes the frame of `command` from its fields. In `tx`, the parts count; where the text form alone can hold
/// them (a blank session or qualifier), the `key` does.
///
/// # Errors
/// When the command is unknown, or a field is missing, of the wrong type, out of range, or holds what the text form
/// can't carry.
pub fn frame(command: &str, fields: &Value) -> Result<Frame, InvalidFields> {
    let Value::Object(map) = fields else {
        return Err(InvalidFields { text: format!("the fields of {command} are not an object") });
    };
    let fields = Fields { command, map };
    let mut made: Command = match command {
        "put" => {
            let mut put = PutCommand::new(fields.topic()?, fields.int("partition")?, Bytes::new(), None);
            put.data = fields.data()?.into();
            put.flag = Flag(fields.int("flag")?);
            put.checksum = Checksum(fields.int("checksum")?);
            put.transaction = if fields.get("tx")?.is_null() { None } else { Some(fields.transaction_id()?) };
            put.into()
        }
        "sync" => {
            let (partition, message_id) = (fields.int("partition")?, fields.long("msg_id")?);
            let flag = Flag(fields.int("flag")?);
            let mut sync =
                SyncCommand::new(fields.topic()?, partition, message_id, flag, fields.data()?.into());
            sync.checksum = Checksum(fields.int("checksum")?);
            sync.into()
        }
        "get" => {
            let (partition, offset) = (fields.int("partition")?, fields.long("offset")?);
            let max_size = fields.int("max_size")?;
            GetCommand::new(fields.topic()?, fields.word("group")?, partition, offset, max_size).into()
        }
        "offset" => {
            let (partition, offset) = (fields.int("partition")?, fields.long("offset")?);
            OffsetCommand::new(fields.topic()?, fields.word("group")?, partition, offset).into()
        }
        "stats" => match fields.optional_text("item")? {
            None => StatsCommand::overview().into(),
            Some(_) => StatsCommand::about(fields.word("item")?).into(),
        },
        "version" => VersionCommand::default().into(),
        "quit" => QuitCommand::default().into(),
        "transaction" => fields.transaction()?.into(),
        "result" => {
            let body = fields.optional_text("message")?.unwrap_or_default();
            let status = Status(fields.int("code")?);
            let answer = BooleanCommand::new(status, Bytes::from(body.to_owned()), fields.opaque()?);
            return Ok(Frame::Response(answer.into()));
        }
        "value" => return Ok(Frame::Response(DataCommand::new(fields.data()?, fields.opaque()?).into())),
        _ => return Err(InvalidFields { text: format!("{command:?} is not a command") }),
    };
    if command != "quit" {
        made.set_opaque(fields.opaque()?);
    }
    Ok(Frame::Command(made))
}

/// The fields of one command.
#[derive(Clone, Copy)]
struct Fields<'a> {
    command: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn wrong(self, key: &str, expected: impl core::fmt::Display) -> InvalidFields {
        InvalidFields { text: format!("the field {key} of {}: {expected}", self.command) }
    }

    fn get(self, key: &str) -> Result<&'a Value, InvalidFields> {
        self.map.get(key).ok_or_else(|| self.wrong(key, "it is missing"))
    }

    fn long(self, key: &str) -> Result<i64, InvalidFields> {
        self.get(key)?.as_i64().ok_or_else(|| self.wrong(key, "it is not a whole number of 64 bits"))
    }

    fn int(self, key: &str) -> Result<i32, InvalidFields> {
        let number = self.get(key)?.as_i64().and_then(|number| i32::try_from(number).ok());
        number.ok_or_else(|| self.wrong(key, "it is not a whole number of 32 bits"))
    }

    fn opaque(self) -> Result<Opaque, InvalidFields> {
        self.int("opaque").map(Opaque)
    }

    fn text(self, key: &str) -> Result<&'a str, InvalidFields> {
        self.get(key)?.as_str().ok_or_else(|| self.wrong(key, "it is not a text"))
    }

    /// None for null, for a blank text, and where the field is missing.
    fn optional_text(self, key: &str) -> Result<Option<&'a str>, InvalidFields> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => self.text(key).map(|text| Some(text).filter(|text| !text.chars().all(|c| c == ' '))),
        }
    }

    fn topic(self) -> Result<Topic, InvalidFields> {
        Topic::new(self.text("topic")?).map_err(|error| self.wrong("topic", error))
    }

    fn word(self, key: &str) -> Result<Word, InvalidFields> {
        Word::new(self.text(key)?).map_err(|error| self.wrong(key, error))
    }

    fn hex(self, key: &str) -> Result<Vec<u8>, InvalidFields> {
        from_hex(self.text(key)?).ok_or_else(|| self.wrong(key, "it is not hexadecimal, two digits a byte"))
    }

    /// Null is no data.
    fn data(self) -> Result<Bytes, InvalidFields> {
        if self.get("data")?.is_null() { Ok(Bytes::new()) } else { self.hex("data").map(Bytes::from) }
    }

    fn transaction(self) -> Result<TransactionCommand, InvalidFields> {
        let kind = self.text("type")?.parse().map_err(|error| self.wrong("type", error))?;
        let transaction = TransactionCommand::new(self.transaction_id()?, self.word("session")?, kind);
        let transaction = transaction.with_timeout(self.int("timeout")?);
        if self.optional_text("qualifier")?.is_none() {
            return Ok(transaction);
        }
        transaction.with_qualifier(self.word("qualifier")?).map_err(|error| self.wrong("qualifier", error))
    }

    fn transaction_id(self) -> Result<TransactionId, InvalidFields> {
        let Value::Object(map) = self.get("tx")? else { return Err(self.wrong("tx", "it is not an object")) };
        let tx = Fields { command: "tx", map };
        let wrong = |error| self.wrong("tx", error);
        match tx.text("type")? {
            "null" => Ok(TransactionId::Null),
            "local" if tx.text("session")?.is_empty() => tx.text("key")?.parse().map_err(wrong),
            "local" => {
                let id = LocalTransactionId::new(tx.text("session")?, tx.int("value")?);
                id.map(TransactionId::from).map_err(wrong)
            }
            "xa" => {
                let (global, branch) = (tx.hex("gtrid")?, tx.hex("bqual")?);
                let id = XaTransactionId::new(tx.int("format_id")?, &global, &branch, tx.text("qualifier")?);
                id.map(TransactionId::from).map_err(wrong)
            }
            other => Err(tx.wrong("type", format_args!("{other:?} is none of null, local and xa"))),
        }
    }
}

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn to_hex<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hex = String::new();
    for part in parts {
        hex.reserve(2 * part.len());
        for byte in part {
            for digit in [byte >> 4, byte & 15] {
                hex.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
            }
        }
    }
    hex
}

/// Bytes from hexadecimal in either case, two digits a byte; none for anything else.
#[must_use]
pub fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some((digit(*high)? << 4) | digit(*low)?)).collect()
}

/// Fields that don't make a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct InvalidFields {
    text: String,
}
