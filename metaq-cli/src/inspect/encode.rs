//! Converts JSON lines to bytes.

use std::{fmt::Display, io::BufRead};

use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use metaq_protocol::{
    BooleanCommand, Checksum, DataCommand, Flag, Frame, GetCommand, OffsetCommand, Opaque, PutCommand,
    PutData, QuitCommand, StatsCommand, Status, SyncCommand, Token, Topic, TransactionCommand, TransactionId,
    VersionCommand,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{EachLine, InspectError, Printer, hex};

/// A line of the input; other keys are ignored.
#[derive(Deserialize)]
struct Line {
    command: String,
    #[serde(default)]
    fields: Map<String, Value>,
}

#[derive(Serialize)]
struct Refused<'a> {
    input: u64,
    error: &'a str,
}

/// Converts lines, each of which describes a frame: prints the frame's bytes, or an error.
pub(super) struct JsonLines;

impl EachLine for JsonLines {
    const MAX_LEN: usize = 64 << 20;

    fn whole(&self, output: &mut Printer, number: u64, line: &[u8]) -> Result<(), InspectError> {
        let bytes = serde_json::from_slice::<Line>(line)
            .map_err(|error| format!("not a line {{\"command\":…,\"fields\":{{…}}}}: {error}"))
            .and_then(|line| {
                encoded(&line.command, &Fields(&line.fields))
                    .map_err(|error| format!("{}: {error}", line.command))
            });
        match bytes {
            Ok(bytes) => output.text(HEXLOWER.encode(&bytes).as_bytes()),
            Err(error) => output.json(&Refused { input: number, error: &error }),
        }
    }

    fn long(
        &self,
        output: &mut Printer,
        number: u64,
        _: &[u8],
        _: &mut impl BufRead,
    ) -> Result<(), InspectError> {
        output.json(&Refused { input: number, error: &format!("longer than {} bytes", Self::MAX_LEN) })
    }
}

fn encoded(command: &str, fields: &Fields<'_>) -> Result<BytesMut, String> {
    let mut bytes = BytesMut::new();
    frame(command, fields)?.try_encode(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn frame(command: &str, fields: &Fields<'_>) -> Result<Frame, String> {
    let topic = || fields.read("topic", Topic::new(fields.text("topic")?));
    let group = || fields.read("group", Token::new(fields.text("group")?));
    let partition = || fields.i32("partition");
    let opaque = || fields.i32("opaque").map(Opaque);
    Ok(match command {
        "put" => {
            let flag = Flag(fields.i32("flag")?);
            let mut put = PutCommand::from_data(topic()?, partition()?, flag, fields.data()?.into())
                .with_checksum(Checksum(fields.i32("checksum")?))
                .with_opaque(opaque()?);
            put.transaction = fields.transaction()?;
            put.into()
        }
        "sync" => {
            let (flag, data) = (Flag(fields.i32("flag")?), PutData::from(fields.data()?));
            SyncCommand::new(topic()?, partition()?, flag, fields.i64("msg_id")?, data)
                .with_checksum(Checksum(fields.i32("checksum")?))
                .with_opaque(opaque()?)
                .into()
        }
        "get" => {
            let (offset, max_size) = (fields.i64("offset")?, fields.i32("max_size")?);
            GetCommand::new(topic()?, group()?, partition()?, offset, max_size).with_opaque(opaque()?).into()
        }
        "offset" => OffsetCommand::new(topic()?, group()?, partition()?, fields.i64("offset")?)
            .with_opaque(opaque()?)
            .into(),
        "stats" => {
            let item = fields.text_if_any("item")?.map(Token::new).transpose();
            StatsCommand::new(fields.read("item", item)?, opaque()?).into()
        }
        "version" => VersionCommand::new(opaque()?).into(),
        "quit" => QuitCommand::new().into(),
        "transaction" => {
            let id = fields.transaction()?.ok_or("the field tx is missing")?;
            let session = fields.read("session", Token::new(fields.text("session")?))?;
            let action = fields.read("type", fields.text("type")?.parse())?;
            let step = TransactionCommand::new(id, session, action)
                .with_timeout(fields.i32("timeout")?)
                .with_opaque(opaque()?);
            match fields.text_if_any("qualifier")? {
                Some(qualifier) => fields.read("qualifier", step.with_qualifier(qualifier))?.into(),
                None => step.into(),
            }
        }
        "result" => {
            let message = Bytes::from(fields.optional_text("message")?.unwrap_or_default().to_owned());
            BooleanCommand::new(Status(fields.i32("code")?), message, opaque()?).into()
        }
        "value" => DataCommand::new(fields.data()?, opaque()?).into(),
        _ => return Err("not a command".to_owned()),
    })
}

/// The fields of a line, or the parts of a transaction id.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// Adds the name of the field to an error.
    fn read<T>(&self, name: &str, value: Result<T, impl Display>) -> Result<T, String> {
        value.map_err(|error| format!("the field {name} can't be used: {error}"))
    }

    fn i64(&self, name: &str) -> Result<i64, String> {
        match self.0.get(name) {
            Some(value) => value
                .as_i64()
                .ok_or_else(|| format!("the field {name} is not a whole number of 64 bits: {value:.40}")),
            None => Err(format!("the field {name} is missing")),
        }
    }

    fn i32(&self, name: &str) -> Result<i32, String> {
        let number = self.i64(name)?;
        i32::try_from(number).map_err(|_| format!("the field {name} is beyond 32 bits: {number}"))
    }

    /// Returns a text; null counts as absent.
    fn optional_text(&self, name: &str) -> Result<Option<&'a str>, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("the field {name} is not a text")),
        }
    }

    /// Returns a text; a blank one counts as absent, as in the Java client.
    fn text_if_any(&self, name: &str) -> Result<Option<&'a str>, String> {
        Ok(self.optional_text(name)?.filter(|text| !text.trim().is_empty()))
    }

    fn text(&self, name: &str) -> Result<&'a str, String> {
        self.optional_text(name)?.ok_or_else(|| format!("the field {name} is missing"))
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, String> {
        let text = self.optional_text(name)?.unwrap_or_default();
        self.read(name, hex::parse(text.as_bytes()))
    }

    fn data(&self) -> Result<Bytes, String> {
        self.bytes("data").map(Bytes::from)
    }

    fn transaction(&self) -> Result<Option<TransactionId>, String> {
        match self.0.get("tx") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(parts)) => self.read("tx", Fields(parts).transaction_id()).map(Some),
            Some(_) => Err("the field tx is not an object".to_owned()),
        }
    }

    /// Builds a transaction id from its parts; its `key` is redundant.
    fn transaction_id(&self) -> Result<TransactionId, String> {
        match self.text("type")? {
            "null" => Ok(TransactionId::Null),
            "local" => {
                let (session, number) = (self.text("session")?, self.i32("value")?);
                self.read("session", TransactionId::local(session, number))
            }
            "xa" => {
                let (gtrid, bqual) = (self.bytes("gtrid")?, self.bytes("bqual")?);
                let (format_id, qualifier) = (self.i32("format_id")?, self.text("qualifier")?);
                if qualifier.is_empty() {
                    // No client begins a transaction with an empty qualifier, but such an id can be encoded.
                    let key = format!("XID:{format_id}:{}:{}:", hex::Hex(&gtrid), hex::Hex(&bqual));
                    return self.read("qualifier", key.parse());
                }
                self.read("qualifier", TransactionId::xa(format_id, &gtrid, &bqual, qualifier))
            }
            other => Err(format!("the type {other:?} is not null, local or xa")),
        }
    }
}
