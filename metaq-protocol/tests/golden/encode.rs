//! `encode.jsonl`: encoding yields the same as in Java.

use bytes::{Bytes, BytesMut};
use metaq_protocol::{Decoder, Frame, PutData};
use serde_json::Value;

use crate::{
    fields::{self, frame, hex, to_hex},
    run::{self, Outcome},
};

/// Returns true where Java's encoder fails for a reason that doesn't apply here: names outside ASCII and the
/// smallest `i64`, which the text form can carry and every decoder accepts.
fn java_cannot_write(case: &Value) -> bool {
    matches!(
        case["cat"].as_str().unwrap(),
        "unicode-name" | "get-extreme" | "offset-extreme" | "sync-extreme"
    )
}

#[test]
fn writes_what_java_writes() {
    run::all("encode", 344, |case| {
        let frame = frame(case["command"].as_str().unwrap(), &case["fields"]);
        if case["outcome"] == "ok" {
            return match frame {
                Ok(frame) => {
                    written_as(&frame, &hex(case["bytes"].as_str().unwrap()));
                    Outcome::Same
                }
                Err(refusal) => Outcome::refused(refusal),
            };
        }
        match frame {
            Err(_) => assert!(!java_cannot_write(case), "refused"),
            Ok(frame) => {
                assert!(java_cannot_write(case), "not refused");
                let mut bytes = BytesMut::new();
                frame.encode(&mut bytes);
                assert_eq!(Decoder::new().decode(&mut bytes).unwrap(), Some(frame));
                assert!(bytes.is_empty());
            }
        }
        Outcome::Same
    });
}

fn written_as(frame: &Frame, expected: &[u8]) {
    assert_eq!(frame.encoded_len(), expected.len(), "length");
    let mut whole = BytesMut::from(&b"before"[..]);
    frame.encode(&mut whole);
    assert_eq!(to_hex(&whole[6..]), to_hex(expected), "whole");
    let mut parts = BytesMut::new();
    frame.encode_head(&mut parts);
    let (first, second) = frame.body_parts();
    assert_eq!(first.len() + second.len(), frame.body_len());
    parts.extend_from_slice(first);
    parts.extend_from_slice(second);
    assert_eq!(to_hex(&parts), to_hex(expected), "in parts");
}

#[test]
fn attribute_and_payload_are_written_one_behind_the_other() {
    let put = metaq_protocol::PutCommand::new(
        "test".parse().unwrap(),
        1,
        Bytes::from_static(b"hello"),
        Some("attr"),
    )
    .with_opaque(metaq_protocol::Opaque(-2_147_483_647));
    let bytes = b"put test 1 13 1 1264772380 -2147483647\r\n\x00\x00\x00\x04attrhello";
    written_as(&put.clone().into(), bytes);
    let raw = PutData::from(Bytes::from_static(b"\x00\x00\x00\x04attrhello"));
    assert_eq!(put.data, raw);
    assert_eq!(fields::fields(&put.into())["data"], to_hex(&raw.to_bytes()));
}
