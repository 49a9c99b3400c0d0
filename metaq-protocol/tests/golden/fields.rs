//! Conversion of commands to and from the JSON of the vectors (see their README.md).

use bytes::Bytes;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use metaq_protocol::{
    BooleanCommand, Checksum, Command, DataCommand, Flag, Frame, GetCommand, OffsetCommand, Opaque,
    PutCommand, PutData, QuitCommand, Response, StatsCommand, Status, SyncCommand, Token, Topic,
    TransactionCommand, TransactionId, VersionCommand,
};
use serde_json::{Value, json};

pub(crate) type Refusal = Box<dyn std::error::Error>;

pub(crate) fn hex(text: &str) -> Vec<u8> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).unwrap()
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

pub(crate) fn int<T: TryFrom<i64>>(fields: &Value, name: &str) -> T {
    let number = fields[name].as_i64().unwrap_or_else(|| panic!("no {name} in {fields}"));
    T::try_from(number).unwrap_or_else(|_| panic!("{name} out of range in {fields}"))
}

pub(crate) fn text<'a>(fields: &'a Value, name: &str) -> Option<&'a str> {
    fields[name].as_str()
}

/// The `data` of a put and similar commands; Java's null is encoded as no data.
pub(crate) fn data(fields: &Value) -> Bytes {
    hex(text(fields, "data").unwrap_or_default()).into()
}

/// Builds the frame that a program would build from these fields, or returns the reason why it can't.
pub(crate) fn frame(command: &str, fields: &Value) -> Result<Frame, Refusal> {
    let topic = || Topic::new(text(fields, "topic").unwrap());
    let group = || Token::new(text(fields, "group").unwrap());
    let opaque = Opaque(int(fields, "opaque"));
    let partition = || int(fields, "partition");
    Ok(match command {
        "put" => {
            let flag = Flag(int(fields, "flag"));
            let mut put = PutCommand::from_data(topic()?, partition(), flag, data(fields).into())
                .with_checksum(Checksum(int(fields, "checksum")))
                .with_opaque(opaque);
            put.transaction = transaction_id(&fields["tx"])?;
            put.into()
        }
        "sync" => {
            let flag = Flag(int(fields, "flag"));
            let data = PutData::from(data(fields));
            SyncCommand::new(topic()?, partition(), flag, int(fields, "msg_id"), data)
                .with_checksum(Checksum(int(fields, "checksum")))
                .with_opaque(opaque)
                .into()
        }
        "get" => {
            let (offset, max_size) = (int(fields, "offset"), int(fields, "max_size"));
            GetCommand::new(topic()?, group()?, partition(), offset, max_size).with_opaque(opaque).into()
        }
        "offset" => OffsetCommand::new(topic()?, group()?, partition(), int(fields, "offset"))
            .with_opaque(opaque)
            .into(),
        "stats" => {
            let item = text(fields, "item").filter(|item| !item.trim().is_empty());
            StatsCommand::new(item.map(Token::new).transpose()?, opaque).into()
        }
        "version" => VersionCommand::new(opaque).into(),
        "quit" => QuitCommand::new().into(),
        "transaction" => {
            let id = transaction_id(&fields["tx"])?.unwrap();
            let session = Token::new(text(fields, "session").unwrap())?;
            let action = text(fields, "type").unwrap().parse()?;
            let mut step = TransactionCommand::new(id, session, action)
                .with_timeout(int(fields, "timeout"))
                .with_opaque(opaque);
            if let Some(qualifier) = text(fields, "qualifier").filter(|text| !text.trim().is_empty()) {
                step = step.with_qualifier(qualifier)?;
            }
            step.into()
        }
        "result" => {
            let message = text(fields, "message").unwrap_or_default().to_owned();
            BooleanCommand::new(Status(int(fields, "code")), message.into(), opaque).into()
        }
        "value" => DataCommand::new(data(fields), opaque).into(),
        other => panic!("no command {other}"),
    })
}

pub(crate) fn transaction_id(tx: &Value) -> Result<Option<TransactionId>, Refusal> {
    Ok(match tx["type"].as_str() {
        None => None,
        Some("null") => Some(TransactionId::Null),
        Some("local") => {
            let number = i32::try_from(tx["value"].as_i64().unwrap())?;
            Some(TransactionId::local(tx["session"].as_str().unwrap(), number)?)
        }
        Some("xa") => {
            let qualifier = tx["qualifier"].as_str().ok_or("no qualifier")?;
            let (gtrid, bqual) = (hex(tx["gtrid"].as_str().unwrap()), hex(tx["bqual"].as_str().unwrap()));
            Some(TransactionId::xa(int(tx, "format_id"), &gtrid, &bqual, qualifier)?)
        }
        Some(other) => panic!("no transaction id of type {other}"),
    })
}

pub(crate) fn transaction_id_fields(id: &TransactionId) -> Value {
    match id {
        TransactionId::Null => json!({"type": "null", "key": id.as_str()}),
        TransactionId::Local(local) => json!({
            "type": "local", "key": local.as_str(), "session": local.session(), "value": local.number(),
        }),
        TransactionId::Xa(xa) => json!({
            "type": "xa", "key": xa.as_str(), "format_id": xa.format_id(), "gtrid": to_hex(&xa.gtrid()),
            "bqual": to_hex(&xa.bqual()), "qualifier": xa.qualifier(),
        }),
        other => panic!("no fields for {other:?}"),
    }
}

/// The fields, as named in the vectors.
pub(crate) fn fields(frame: &Frame) -> Value {
    match frame {
        Frame::Command(command) => command_fields(command),
        Frame::Response(Response::Boolean(answer)) => json!({
            "code": answer.status.0,
            "message": (!answer.body.is_empty()).then(|| answer.text()),
            "opaque": answer.opaque.0,
        }),
        Frame::Response(Response::Data(answer)) => {
            json!({"data": to_hex(&answer.data), "opaque": answer.opaque.0})
        }
        other => panic!("no fields for {other:?}"),
    }
}

fn command_fields(command: &Command) -> Value {
    match command {
        Command::Put(put) => json!({
            "topic": put.topic.as_str(), "partition": put.partition, "flag": put.flag.0,
            "checksum": put.checksum.0, "tx": put.transaction.as_ref().map(transaction_id_fields),
            "opaque": put.opaque.0, "data": to_hex(&put.data.to_bytes()),
        }),
        Command::Sync(sync) => json!({
            "topic": sync.topic.as_str(), "partition": sync.partition, "flag": sync.flag.0,
            "msg_id": sync.message_id, "checksum": sync.checksum.0, "opaque": sync.opaque.0,
            "data": to_hex(&sync.data.to_bytes()),
        }),
        Command::Get(get) => json!({
            "topic": get.topic.as_str(), "group": get.group.as_str(), "partition": get.partition,
            "offset": get.offset, "max_size": get.max_size, "opaque": get.opaque.0,
        }),
        Command::Offset(offset) => json!({
            "topic": offset.topic.as_str(), "group": offset.group.as_str(), "partition": offset.partition,
            "offset": offset.offset, "opaque": offset.opaque.0,
        }),
        Command::Stats(stats) => json!({"item": stats.item.as_deref(), "opaque": stats.opaque.0}),
        Command::Version(version) => json!({"opaque": version.opaque.0}),
        Command::Quit(_) => json!({"opaque": Opaque::NONE.0}),
        Command::Transaction(step) => json!({
            "tx": transaction_id_fields(&step.id), "session": step.session.as_str(),
            "type": step.action.as_str(), "timeout": step.timeout(), "qualifier": step.qualifier(),
            "opaque": step.opaque.0,
        }),
        other => panic!("no fields for {other:?}"),
    }
}
