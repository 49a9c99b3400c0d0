//! `message.jsonl`: messages in their put and stored forms.

use bytes::{Bytes, BytesMut};
use metaq_protocol::{
    Checksum, CorruptMessageKind, Flag, Opaque, Partition, PutCommand, PutData, PutResponse, ResponseRef,
    Status, StoredMessages, encode_stored_message,
};
use serde_json::{Value, json};

use crate::{
    fields::{hex, int, text, to_hex},
    run::{self, Outcome},
};

#[test]
fn messages_equal_those_of_java() {
    run::all("message", 243, |case| {
        match case["op"].as_str().unwrap() {
            "payload" => payload(case),
            "checksum" => {
                let data = hex(text(case, "data").unwrap());
                let checksum = Checksum(int(case, "checksum"));
                assert_eq!(Checksum::of(&data), checksum);
                assert!(checksum.matches(&data) && Checksum::NONE.matches(&data));
                let (left, right) = data.split_at(data.len() / 2);
                assert_eq!(Checksum::of_parts([left, right]), checksum);
            }
            "store" => store(case),
            "store_batch" => {
                let mut buffer = BytesMut::new();
                // Checksums aren't compared inside a transaction (protocol §3.7).
                for put in case["puts"].as_array().unwrap() {
                    stored(put, &mut buffer);
                }
                assert_eq!(to_hex(&buffer), case["buffer"].as_str().unwrap());
            }
            "iterate" => iterate(case),
            "send_result" => send_result(case),
            other => panic!("no operation {other}"),
        }
        Outcome::Same
    });
}

fn payload(case: &Value) {
    let (payload, attribute) = (hex(text(case, "payload").unwrap()), text(case, "attribute"));
    let put = PutCommand::new("t".parse().unwrap(), 0, payload.into(), attribute);
    assert_eq!(to_hex(&put.data.to_bytes()), case["data"].as_str().unwrap());
    assert_eq!(json!(put.flag.0), case["flag"]);
    assert_eq!(json!(put.checksum.0), case["checksum"]);
    let raw = PutData::from(Bytes::from(hex(text(case, "data").unwrap())));
    assert_eq!(put.data, raw);
    for data in [&put.data, &raw] {
        let split = data.split(put.flag).unwrap();
        assert_eq!(split.attribute_text().as_deref(), attribute);
        assert_eq!(to_hex(&split.payload), text(case, "payload").unwrap());
    }
}

fn stored(put: &Value, buffer: &mut BytesMut) {
    let data = hex(text(put, "data").unwrap());
    encode_stored_message(buffer, int(put, "msg_id"), Flag(int(put, "flag")), &data);
}

/// A broker refuses a put because of its checksum, or stores it with a new one.
fn store(case: &Value) {
    let fits = Checksum(int(case, "checksum")).matches(&hex(text(case, "data").unwrap()));
    assert_eq!(fits, case["outcome"] == "ok");
    if fits {
        let mut buffer = BytesMut::new();
        stored(case, &mut buffer);
        assert_eq!(to_hex(&buffer), text(case, "buffer").unwrap());
    }
}

fn iterate(case: &Value) {
    let buffer = match case["runs"].as_array() {
        None => hex(text(case, "buffer").unwrap()),
        Some(runs) => runs
            .iter()
            .flat_map(|run| hex(run[0].as_str().unwrap()).repeat(run[1].as_u64().unwrap() as usize))
            .collect(),
    };
    let length = buffer.len();
    let mut messages = StoredMessages::new(buffer);
    for expected in case["messages"].as_array().unwrap() {
        let message = messages.next().unwrap().unwrap();
        assert_eq!(json!(message.id), expected["id"]);
        assert_eq!(json!(message.flag.0), expected["flag"]);
        assert_eq!(json!(message.attribute), expected["attribute"]);
        assert_eq!(json!(message.next_offset), expected["next_offset"]);
        match expected["payload"].as_str() {
            Some(payload) => assert_eq!(to_hex(&message.payload), payload),
            None => {
                assert_eq!(json!(message.payload.len()), expected["payload_len"]);
                assert_eq!(json!(Checksum::of(&message.payload).0), expected["payload_checksum"]);
            }
        }
    }
    let end = messages.next();
    let offset = int::<usize>(case, "offset");
    assert_eq!(messages.offset(), offset);
    if case["outcome"] == "ok" {
        assert!(end.is_none(), "{end:?}");
        assert_eq!(messages.truncated().map(|tail| tail.offset), (offset < length).then_some(offset));
    } else {
        let error = end.unwrap().unwrap_err();
        assert_eq!(error.offset(), offset);
        let category = text(case, "cat").unwrap();
        let fits = match error.kind() {
            CorruptMessageKind::NegativeLength { .. } => category == "iterate-length",
            CorruptMessageKind::Checksum { .. } => matches!(category, "iterate-checksum" | "iterate-zero"),
            CorruptMessageKind::TooLong { .. } => category == "iterate-large",
            _ => case["java_defect"] == json!(true),
        };
        assert!(fits, "{error}");
        assert_eq!(messages.truncated(), None);
        assert!(messages.next().is_none());
    }
}

/// Interpretation of the response to a put by the producer.
fn send_result(case: &Value) {
    let status = Status(int(case, "code"));
    let body = text(case, "body").unwrap_or_default();
    let response = metaq_protocol::BooleanCommand::new(status, body.to_owned().into(), Opaque(1));
    let read = PutResponse::parse(&response.body);
    if case["outcome"] == "error" {
        let error = read.unwrap_err().to_string();
        return assert!(error.contains("to put has no valid"), "{error}");
    }
    assert_eq!(status.is_success(), case["success"] == json!(true));
    if !status.is_success() {
        // Java drops the text of a 403.
        let shown = if status == Status::FORBIDDEN { "403".into() } else { response.text() };
        return assert_eq!(json!((!shown.is_empty()).then_some(shown)), case["error_message"]);
    }
    let answer = read.unwrap();
    assert_eq!(json!(answer.message_id), case["message_id"]);
    assert_eq!(json!(answer.offset), case["offset"]);
    let partition = Partition::new(int(case, "broker_id"), answer.partition);
    assert_eq!(partition.to_string(), case["partition"].as_str().unwrap());
    assert_eq!(PutResponse::parse(&answer.to_body()), Ok(answer));
    assert_eq!(answer.to_body(), answer.to_string());
    let mut frame = BytesMut::new();
    response.encode(&mut frame);
    let mut decoder = metaq_protocol::Decoder::new();
    let (in_place, _): (ResponseRef<'_>, usize) = decoder.decode_response_in_place(&frame).unwrap().unwrap();
    assert_eq!(in_place.put_response(), Ok(answer));
}
