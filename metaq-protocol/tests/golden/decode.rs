//! `decode.jsonl`: decoding yields the same as in Java.

use bytes::BytesMut;
use metaq_protocol::{Decoder, Frame, Limits, ResponseKind};
use serde_json::{Value, json};

use crate::{
    fields::{fields, hex, to_hex},
    run::{self, Outcome},
};

/// Java has no limits.
fn decoder() -> Decoder {
    Decoder::with_limits(Limits::default().with_max_line(usize::MAX).with_max_body(usize::MAX))
}

/// One step of decoding: a frame and the piece of input after which it was complete, or the end.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Frame { chunk: usize, consumed: usize, frame: Frame },
    Refused { chunk: usize, error: String },
}

/// Decodes `bytes` in pieces of these sizes. Also returns the number of unused bytes.
fn read(bytes: &[u8], pieces: &[usize]) -> (Vec<Step>, usize) {
    let (mut decoder, mut buffer, mut steps) = (decoder(), BytesMut::new(), Vec::new());
    let (mut rest, mut ends, mut fed) = (bytes, 0, 0);
    for (chunk, &piece) in pieces.iter().enumerate() {
        let (now, later) = rest.split_at(piece);
        rest = later;
        fed += now.len();
        buffer.extend_from_slice(now);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => {
                    let used = fed - buffer.len();
                    steps.push(Step::Frame { chunk, consumed: used - ends, frame });
                    ends = used;
                }
                Ok(None) => break,
                Err(error) => {
                    steps.push(Step::Refused { chunk, error: error.to_string() });
                    return (steps, bytes.len() - ends);
                }
            }
        }
    }
    assert!(rest.is_empty(), "the pieces add up to the bytes");
    (steps, bytes.len() - ends)
}

#[test]
fn reads_what_java_reads() {
    run::all("decode", 859, |case| {
        let bytes = hex(case["bytes"].as_str().unwrap());
        let pieces: Vec<usize> = match case["splits"].as_array() {
            Some(splits) => splits.iter().map(|size| size.as_u64().unwrap() as usize).collect(),
            None => vec![bytes.len()],
        };
        let expected = match case["steps"].as_array() {
            Some(steps) => steps.clone(),
            None => vec![case.clone()],
        };
        let (steps, unused) = read(&bytes, &pieces);
        let (by_byte, _) = read(&bytes, &vec![1; bytes.len()]);
        assert_eq!(without_chunks(&by_byte), without_chunks(&steps), "byte by byte");
        in_place(&bytes, &steps);
        raw(&bytes, &steps);
        compare(&expected, &steps, unused, &bytes, case["splits"].is_array())
    });
}

/// The steps without the pieces after which the frames were complete.
fn without_chunks(steps: &[Step]) -> Vec<Step> {
    steps
        .iter()
        .cloned()
        .map(|step| match step {
            Step::Frame { consumed, frame, .. } => Step::Frame { chunk: 0, consumed, frame },
            Step::Refused { error, .. } => Step::Refused { chunk: 0, error },
        })
        .collect()
}

fn compare(expected: &[Value], steps: &[Step], unused: usize, bytes: &[u8], in_pieces: bool) -> Outcome {
    let mut steps = steps.iter();
    let mut position = 0;
    for expected in expected {
        let step = steps.next();
        let defect = expected["java_defect"] == json!(true);
        match (expected["outcome"].as_str().unwrap(), step) {
            ("command", Some(Step::Frame { chunk, consumed, frame })) => {
                assert_eq!(frame.name(), expected["command"], "command");
                assert_eq!(fields(frame), expected["fields"], "fields");
                assert_eq!(json!(consumed), expected["consumed"], "consumed");
                if in_pieces {
                    assert_eq!(json!(chunk), expected["chunk"], "chunk");
                }
                written_again(frame, &expected["reencode"], &bytes[position..position + consumed]);
                position += consumed;
            }
            ("incomplete", None) => {
                assert_eq!(json!(unused), json!(bytes.len() - position), "unused");
                return Outcome::Same;
            }
            ("error", Some(Step::Refused { .. })) => return Outcome::Same,
            ("command" | "incomplete", Some(Step::Refused { error, .. })) if defect => {
                return Outcome::refused(error);
            }
            (outcome, step) => panic!("{outcome} expected, got {step:?}"),
        }
    }
    assert_eq!(steps.next(), None, "more than expected");
    Outcome::Same
}

/// A decoded frame is encoded as by Java, or at least so that decoding yields the same.
fn written_again(frame: &Frame, reencode: &Value, original: &[u8]) {
    let mut written = BytesMut::new();
    frame.encode(&mut written);
    assert_eq!(written.len(), frame.encoded_len(), "length");
    if reencode == "same" {
        assert_eq!(to_hex(&written), to_hex(original), "written again");
    }
    assert_eq!(decoder().decode(&mut written).unwrap().as_ref(), Some(frame), "read again");
    assert!(written.is_empty());
}

/// Decoding responses in place yields the same as decoding them from the buffer.
fn in_place(bytes: &[u8], steps: &[Step]) {
    let (mut decoder, mut position) = (decoder(), 0);
    for step in steps {
        let read = decoder.decode_response_in_place(&bytes[position..]);
        match step {
            Step::Refused { .. } => return assert!(read.is_err(), "{read:?} in place, expected {step:?}"),
            Step::Frame { frame: Frame::Response(response), consumed, .. } => {
                let (answer, used) = read.unwrap().unwrap();
                assert_eq!((answer.to_response(), used), (response.clone(), *consumed), "in place");
                position += used;
            }
            Step::Frame { .. } => return assert!(read.is_err(), "a request read in place"),
        }
    }
    if position > 0 {
        assert_eq!(decoder.decode_response_in_place(&bytes[position..]), Ok(None), "in place");
    }
}

/// The bytes of each frame equal the input, in any spelling, and also when they arrive one by one.
fn raw(bytes: &[u8], steps: &[Step]) {
    for pieces in [vec![bytes], bytes.chunks(1).collect()] {
        let (mut decoder, mut buffer, mut position) = (decoder(), BytesMut::new(), 0);
        let mut expected = steps.iter();
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while let Ok(Some(raw)) = decoder.decode_raw(&mut buffer) {
                let Some(Step::Frame { consumed, frame, .. }) = expected.next() else {
                    panic!("{raw:?} is too much")
                };
                assert_eq!(&raw.frame, frame, "raw");
                assert_eq!(to_hex(&raw.bytes), to_hex(&bytes[position..position + consumed]), "raw");
                position += consumed;
            }
        }
        assert!(!matches!(expected.next(), Some(Step::Frame { .. })), "raw");
    }
}

#[test]
fn decoding_in_place_resumes_where_it_stopped() {
    let bytes = b"result 200 24 1\r\n-5468924307537133568 0 0value 3 -7\r\nabcresult 404 1 +2\r\nx";
    let mut decoder = Decoder::new();
    let (mut start, mut found) = (0, Vec::new());
    for end in 0..=bytes.len() {
        while let Some((answer, used)) = decoder.decode_response_in_place(&bytes[start..end]).unwrap() {
            assert_eq!(used, end - start, "came out with its last byte");
            found.push((answer.kind, answer.opaque.0, answer.body.to_vec()));
            start += used;
        }
    }
    let status = |code| ResponseKind::Boolean(metaq_protocol::Status(code));
    let expected = [
        (status(200), 1, b"-5468924307537133568 0 0".to_vec()),
        (ResponseKind::Data, -7, b"abc".to_vec()),
        (status(404), 2, b"x".to_vec()),
    ];
    assert_eq!(found, expected);
}
