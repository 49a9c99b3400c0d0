//! Frames: encoding and decoding.

use bytes::BytesMut;
use metaq_protocol::{Decoder, Frame, Limits, json};
use serde_json::Value;

use crate::{hex, run, same};

#[test]
fn encode() {
    run("encode", include_str!("../vectors/encode.jsonl"), |case| {
        let frame = json::frame(case["command"].as_str().unwrap(), &case["fields"]);
        let Some(java) = case["bytes"].as_str() else {
            return if frame.is_err() { Ok(()) } else { Err("Java refuses this".to_owned()) };
        };
        let frame = frame.map_err(|error| format!("refused: {error}"))?;
        let bytes = encoded(&frame);
        same("bytes", json::to_hex([&bytes[..]]), java.to_owned())?;
        // Where Java doesn't read back what it wrote, it tells null from empty, which the wire doesn't.
        let again =
            Decoder::new().decode(&mut BytesMut::from(&bytes[..])).map_err(|error| error.to_string())?;
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
        let mut value = serde_json::json!({ "outcome": self.outcome });
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
    let mut value = serde_json::json!({ "outcome": step["outcome"] });
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
                        command: Some(json::fields(&frame)),
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
