//! Frames: encoding and decoding.

use bytes::{Bytes, BytesMut};
use metaq_protocol::{
    BooleanCommand, Checksum, Command, DataCommand, Decoder, Flag, Frame, GetCommand, Limits,
    LocalTransactionId, OffsetCommand, Opaque, PutCommand, QuitCommand, Response, StatsCommand, Status,
    SyncCommand, Topic, TransactionCommand, TransactionId, VersionCommand, Word, XaTransactionId,
};
use serde_json::{Value, json};

use crate::{hex, run, same, to_hex};

#[test]
fn encode() {
    run("encode", include_str!("../vectors/encode.jsonl"), |case| {
        let frame = from_fields(case["command"].as_str().unwrap(), &case["fields"]);
        let Some(java) = case["bytes"].as_str() else {
            return if frame.is_err() { Ok(()) } else { Err("Java refuses this".to_owned()) };
        };
        let frame = frame.map_err(|error| format!("refused: {error}"))?;
        let bytes = encoded(&frame);
        same("bytes", to_hex(&bytes), java.to_owned())?;
        // Where Java doesn't read back what it wrote, it tells null from empty, which the wire doesn't.
        let again = Decoder::new().decode(&mut BytesMut::from(&bytes[..])).map_err(err)?;
        same("what is read back", again, Some(frame))
    });
}

fn decoder() -> Decoder {
    // As Java, which has no limits but those of its numbers.
    Decoder::with_limits(Limits::default().with_max_line(usize::MAX).with_max_body(usize::MAX))
}

#[test]
fn decode() {
    run("decode", include_str!("../vectors/decode.jsonl"), |case| {
        let bytes = hex(case["bytes"].as_str().unwrap());
        let splits: Vec<usize> = match case["splits"].as_array() {
            Some(splits) => splits.iter().map(|size| size.as_u64().unwrap() as usize).collect(),
            None => vec![bytes.len()],
        };
        let steps = decode_all(&bytes, &splits);
        let java: Vec<Value> = match case["steps"].as_array() {
            Some(steps) => steps.iter().map(|step| expected(step, case["splits"].is_array())).collect(),
            None => vec![expected(case, false)],
        };
        let with_chunk = case["splits"].is_array();
        let ours: Vec<_> = steps.iter().map(|step| step.to_value(with_chunk)).collect();
        same("steps", ours, java)?;
        // Any other way to cut the bytes gives the same frames.
        let whole: Vec<_> = steps.iter().map(|step| step.to_value(false)).collect();
        for size in [1, 2, 3, 7, 64] {
            let pieces = vec![size; bytes.len().div_ceil(size).min(20_000)];
            if bytes.len() <= 20_000 {
                let cut: Vec<_> =
                    decode_all(&bytes, &pieces).iter().map(|step| step.to_value(false)).collect();
                same("steps in pieces", &cut, &whole)?;
            }
        }
        Ok(())
    });
}

/// One thing that decoding came to.
struct Step {
    outcome: &'static str,
    command: Option<(&'static str, Value)>,
    consumed: usize,
    reencode: &'static str,
    chunk: usize,
}

impl Step {
    fn to_value(&self, with_chunk: bool) -> Value {
        let mut value = json!({ "outcome": self.outcome });
        if let Some((command, fields)) = &self.command {
            value["command"] = (*command).into();
            value["fields"] = fields.clone();
            value["consumed"] = self.consumed.into();
            value["reencode"] = self.reencode.into();
        }
        if with_chunk {
            value["chunk"] = self.chunk.into();
        }
        value
    }
}

/// What Java came to, as far as it is to be compared. Where Java can't write a frame again, this crate can.
fn expected(step: &Value, with_chunk: bool) -> Value {
    let mut value = json!({ "outcome": step["outcome"] });
    if step["outcome"] == "command" {
        for key in ["command", "fields", "consumed", "reencode"] {
            value[key] = step[key].clone();
        }
        // Asked about nothing, and not asked about anything: the answer is the same (wire rule 3.4).
        if value["command"] == "stats" && value["fields"]["item"] == "" {
            value["fields"]["item"] = Value::Null;
        }
        if step["reencode"] == "error" {
            value["reencode"] = "same".into();
        }
    }
    if with_chunk {
        value["chunk"] = step["chunk"].clone();
    }
    value
}

fn decode_all(bytes: &[u8], splits: &[usize]) -> Vec<Step> {
    let mut decoder = decoder();
    let (mut buffer, mut rest) = (BytesMut::new(), bytes);
    let mut steps = Vec::new();
    let mut taken = 0;
    let none = |outcome, chunk| Step { outcome, command: None, consumed: 0, reencode: "", chunk };
    for (chunk, size) in splits.iter().enumerate() {
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        rest = after;
        buffer.extend_from_slice(piece);
        while !buffer.is_empty() {
            let before = buffer.len();
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => {
                    let consumed = before - buffer.len();
                    let original = &bytes[taken..taken + consumed];
                    taken += consumed;
                    let reencode = if encoded(&frame) == original { "same" } else { "different" };
                    steps.push(Step {
                        outcome: "command",
                        command: Some(fields(&frame)),
                        consumed,
                        reencode,
                        chunk,
                    });
                }
                Ok(None) => break,
                Err(_) => {
                    steps.push(none("error", chunk));
                    return steps;
                }
            }
        }
    }
    if taken < bytes.len() || steps.is_empty() {
        steps.push(none("incomplete", splits.len().saturating_sub(1)));
    }
    steps
}

fn encoded(frame: &Frame) -> BytesMut {
    let mut bytes = BytesMut::new();
    let length = match frame {
        Frame::Command(command) => {
            command.encode(&mut bytes);
            command.encoded_len()
        }
        Frame::Response(response) => {
            response.encode(&mut bytes);
            response.encoded_len()
        }
        _ => unreachable!(),
    };
    assert_eq!(bytes.len(), length, "the length is known beforehand");
    bytes
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn int(value: &Value) -> i32 {
    value.as_i64().unwrap() as i32
}

fn bytes(value: &Value) -> Bytes {
    hex(text(value)).into()
}

fn err(error: impl ToString) -> String {
    error.to_string()
}

fn transaction_id(value: &Value) -> Result<TransactionId, String> {
    Ok(match text(&value["type"]) {
        "null" => TransactionId::Null,
        "local" => {
            let number = value["value"].as_i64().unwrap().try_into().map_err(err)?;
            if text(&value["session"]).is_empty() {
                // Java writes a blank session; here it can only be read.
                return text(&value["key"]).parse().map_err(err);
            }
            LocalTransactionId::new(text(&value["session"]), number).map_err(err)?.into()
        }
        _ => {
            let (global, branch) = (bytes(&value["gtrid"]), bytes(&value["bqual"]));
            let qualifier = text(&value["qualifier"]);
            XaTransactionId::new(int(&value["format_id"]), &global, &branch, qualifier).map_err(err)?.into()
        }
    })
}

fn from_fields(command: &str, fields: &Value) -> Result<Frame, String> {
    let topic = || Topic::new(text(&fields["topic"])).map_err(err);
    let word = |key: &str| Word::new(text(&fields[key])).map_err(err);
    let opaque = Opaque(int(&fields["opaque"]));
    let partition = || int(&fields["partition"]);
    let checksum = || Checksum(int(&fields["checksum"]));
    let mut command: Command = match command {
        "put" => {
            let mut put = PutCommand::new(topic()?, partition(), Bytes::new(), None);
            put.data = bytes(&fields["data"]).into();
            put.flag = Flag(int(&fields["flag"]));
            put.checksum = checksum();
            put.transaction =
                if fields["tx"].is_null() { None } else { Some(transaction_id(&fields["tx"])?) };
            put.into()
        }
        "sync" => {
            let id = fields["msg_id"].as_i64().unwrap();
            let flag = Flag(int(&fields["flag"]));
            let mut sync = SyncCommand::new(topic()?, partition(), id, flag, bytes(&fields["data"]).into());
            sync.checksum = checksum();
            sync.into()
        }
        "get" => {
            let offset = fields["offset"].as_i64().unwrap();
            GetCommand::new(topic()?, word("group")?, partition(), offset, int(&fields["max_size"])).into()
        }
        "offset" => {
            OffsetCommand::new(topic()?, word("group")?, partition(), fields["offset"].as_i64().unwrap())
                .into()
        }
        "stats" if text(&fields["item"]).trim().is_empty() => StatsCommand::overview().into(),
        "stats" => StatsCommand::about(word("item")?).into(),
        "version" => VersionCommand::default().into(),
        "quit" => QuitCommand::default().into(),
        "transaction" => {
            let kind = text(&fields["type"]).parse().map_err(err)?;
            let mut transaction =
                TransactionCommand::new(transaction_id(&fields["tx"])?, word("session")?, kind)
                    .with_timeout(int(&fields["timeout"]));
            if !text(&fields["qualifier"]).trim().is_empty() {
                transaction = transaction.with_qualifier(word("qualifier")?).map_err(err)?;
            }
            transaction.into()
        }
        "result" => {
            let body = Bytes::from(text(&fields["message"]).to_owned());
            let answer = BooleanCommand::new(Status(int(&fields["code"])), body, opaque);
            return Ok(Frame::Response(answer.into()));
        }
        "value" => return Ok(Frame::Response(DataCommand::new(bytes(&fields["data"]), opaque).into())),
        other => panic!("unknown command {other}"),
    };
    command.set_opaque(opaque);
    Ok(Frame::Command(command))
}

pub(crate) fn transaction_value(id: &TransactionId) -> Value {
    let key = id.to_string();
    match id {
        TransactionId::Null => json!({ "type": "null", "key": key }),
        TransactionId::Local(local) => {
            json!({ "type": "local", "key": key, "session": local.session(), "value": local.number() })
        }
        TransactionId::Xa(xa) => xa_value(xa, &key),
        _ => unreachable!(),
    }
}

pub(crate) fn xa_value(xa: &XaTransactionId, key: &str) -> Value {
    let (global, branch) = (to_hex(xa.global()), to_hex(xa.branch()));
    json!({
        "type": "xa", "key": key, "format_id": xa.format_id(), "gtrid": global, "bqual": branch,
        "qualifier": xa.qualifier(),
    })
}

/// A frame's command and its fields as the vectors write them.
fn fields(frame: &Frame) -> (&'static str, Value) {
    let Frame::Command(command) = frame else {
        let Frame::Response(response) = frame else { unreachable!() };
        return match response {
            Response::Boolean(answer) => {
                let message = if answer.body.is_empty() { Value::Null } else { answer.text().into() };
                ("result", json!({ "code": answer.status.0, "message": message, "opaque": answer.opaque.0 }))
            }
            Response::Data(answer) => {
                ("value", json!({ "data": to_hex(&answer.data), "opaque": answer.opaque.0 }))
            }
            _ => unreachable!(),
        };
    };
    let opaque = command.opaque().0;
    let fields = match command {
        Command::Put(put) => json!({
            "topic": put.topic.as_str(), "partition": put.partition, "flag": put.flag.0, "checksum": put.checksum.0,
            "tx": put.transaction.as_ref().map_or(Value::Null, transaction_value), "opaque": opaque,
            "data": to_hex(&put.data.to_bytes()),
        }),
        Command::Sync(sync) => json!({
            "topic": sync.topic.as_str(), "partition": sync.partition, "flag": sync.flag.0,
            "msg_id": sync.message_id, "checksum": sync.checksum.0, "opaque": opaque,
            "data": to_hex(&sync.data.to_bytes()),
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
            "tx": transaction_value(transaction.id()), "session": &**transaction.session(),
            "type": transaction.kind().as_str(), "timeout": transaction.timeout(),
            "qualifier": transaction.qualifier().map(|qualifier| &**qualifier), "opaque": opaque,
        }),
        Command::Stats(stats) => json!({ "item": stats.item.as_deref(), "opaque": opaque }),
        Command::Version(_) | Command::Quit(_) => json!({ "opaque": opaque }),
        _ => unreachable!(),
    };
    (command.name(), fields)
}
