//! Messages, stored and sent, and the bodies of answers.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use metaq_protocol::{
    BooleanCommand, Checksum, Flag, Opaque, Partition, PrepareAnswer, PutAnswer, PutCommand, PutData, Stats,
    Status, StoredMessages, Topic, XaAnswerError, encode_stored_message,
    json::{to_hex, transaction_id},
    parse_recover_answer,
};
use serde_json::{Value, json};

use crate::{hex, run, same};

fn int(value: &Value) -> i32 {
    value.as_i64().unwrap() as i32
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn message() {
    run("message", include_str!("../vectors/message.jsonl"), |case| match case["op"].as_str().unwrap() {
        "payload" => {
            let payload = Bytes::from(hex(case["payload"].as_str().unwrap()));
            let put = PutCommand::new(Topic::new("t").unwrap(), 0, payload, case["attribute"].as_str());
            same("data", to_hex([&put.data.to_bytes()[..]]), text(&case["data"]))?;
            same("flag", put.flag, Flag(int(&case["flag"])))?;
            same("checksum", put.checksum, Checksum(int(&case["checksum"])))
        }
        "checksum" => {
            let data = PutData::from(Bytes::from(hex(case["data"].as_str().unwrap())));
            same("checksum", data.checksum(), Checksum(int(&case["checksum"])))
        }
        "store" => {
            let data = hex(case["data"].as_str().unwrap());
            same("acceptance", Checksum(int(&case["checksum"])).matches(&data), case["outcome"] == "ok")?;
            match case["buffer"].as_str() {
                Some(buffer) => same("buffer", stored(std::slice::from_ref(case)), buffer.to_owned()),
                None => Ok(()),
            }
        }
        "store_batch" => same("buffer", stored(case["puts"].as_array().unwrap()), text(&case["buffer"])),
        "iterate" => iterate(case),
        "send_result" => send_result(case),
        other => panic!("unknown operation {other}"),
    });
}

fn stored(puts: &[Value]) -> String {
    let mut buffer = BytesMut::new();
    for put in puts {
        let data = hex(put["data"].as_str().unwrap());
        encode_stored_message(&mut buffer, put["msg_id"].as_i64().unwrap(), Flag(int(&put["flag"])), &data);
    }
    to_hex([&buffer[..]])
}

fn iterate(case: &Value) -> Result<(), String> {
    let buffer = match case["runs"].as_array() {
        Some(runs) => runs.iter().fold(Vec::new(), |mut buffer, run| {
            let piece = hex(run[0].as_str().unwrap());
            (0..run[1].as_u64().unwrap()).for_each(|_| buffer.extend_from_slice(&piece));
            buffer
        }),
        None => hex(case["buffer"].as_str().unwrap()),
    };
    let mut messages = StoredMessages::new(buffer.into());
    let mut ours = Vec::new();
    let mut outcome = "ok";
    for message in messages.by_ref() {
        let Ok(message) = message else {
            outcome = "error";
            break;
        };
        let mut value = json!({
            "id": message.id, "flag": message.flag.0, "attribute": message.attribute, "next_offset": message.next_offset,
        });
        if case["runs"].is_array() {
            value["payload_len"] = message.payload.len().into();
            value["payload_checksum"] = Checksum::of(&message.payload).0.into();
        } else {
            value["payload"] = to_hex([&message.payload[..]]).into();
        }
        ours.push(value);
    }
    same("outcome", outcome, case["outcome"].as_str().unwrap())?;
    same("messages", &ours, case["messages"].as_array().unwrap())?;
    same("offset", messages.offset(), case["offset"].as_u64().unwrap() as usize)
}

/// What a producer makes of an answer to a put (rules M-20 to M-24).
fn send_result(case: &Value) -> Result<(), String> {
    let status = Status(int(&case["code"]));
    let body = case["body"].as_str().unwrap_or_default();
    if !status.is_success() {
        return same("success", false, case["success"] == true);
    }
    match (PutAnswer::parse(body.as_bytes()), case["outcome"] == "ok") {
        (Ok(answer), true) => {
            same("message_id", answer.message_id, case["message_id"].as_i64().unwrap())?;
            same("offset", answer.offset, case["offset"].as_i64().unwrap())?;
            let partition = Partition::new(int(&case["broker_id"]), answer.partition);
            same("partition", partition.to_string(), text(&case["partition"]))
        }
        (Err(_), false) => Ok(()),
        (ours, _) => Err(format!("{ours:?}")),
    }
}

#[test]
fn body() {
    run("body", include_str!("../vectors/body.jsonl"), |case| {
        let body = case["body"].as_str().unwrap_or_default();
        let answer =
            || BooleanCommand::new(Status(int(&case["code"])), Bytes::from(body.to_owned()), Opaque::NONE);
        match case["op"].as_str().unwrap() {
            "xa_answer" if case["outcome"] == "ok" => same("success", answer().status.is_success(), true),
            "xa_answer" => {
                let error = XaAnswerError::of(&answer());
                same("code", error.code, int(&case["xa_code"]))?;
                same("message", error.message, case["xa_message"].as_str().unwrap_or_default().to_owned())
            }
            "prepare_answer" => {
                let vote = PrepareAnswer::parse(body.as_bytes()).ok().map(|vote| vote.0);
                same("vote", vote, case["vote"].as_i64().map(|vote| vote as i32))
            }
            "recover_answer" => {
                let success = answer().status.is_success();
                let read = if success { parse_recover_answer(body.as_bytes()) } else { Ok(Vec::new()) };
                let ids = read.unwrap_or_else(|(before, _)| before);
                let ours: Vec<_> = ids.into_iter().map(|id| transaction_id(&id.into())).collect();
                same("ids", &ours, case["xids"].as_array().unwrap())
            }
            _ => {
                let stats = Stats::parse(body.as_bytes());
                let ours: BTreeMap<_, _> = stats
                    .lines()
                    .map(|(key, value)| (key.to_owned(), value.unwrap_or("NO VALUE").to_owned()))
                    .collect();
                let java = case["values"].as_object().unwrap().iter();
                same("values", ours, java.map(|(key, value)| (key.clone(), text(value))).collect())
            }
        }
    });
}
