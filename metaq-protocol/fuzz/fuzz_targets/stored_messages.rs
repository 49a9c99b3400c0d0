//! Stored messages: iteration stays within its bytes, and its messages are stored again unchanged.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use metaq_protocol::{Checksum, StoredMessages, encode_stored_message};

/// A fuzzer does not guess checksums, so half of the inputs get correct ones.
fn correct_checksums(mut body: &mut [u8]) {
    while let [l0, l1, l2, l3, c0, c1, c2, c3, rest @ ..] = body {
        let length = i32::from_be_bytes([*l0, *l1, *l2, *l3]);
        let Some(data) = usize::try_from(length).ok().and_then(|length| rest.get(12..12 + length)) else {
            return;
        };
        [*c0, *c1, *c2, *c3] = Checksum::of(data).0.to_be_bytes();
        body = &mut rest[12 + length as usize..];
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&limit, body)) = input.split_first() else {
        return;
    };
    let mut body = body.to_vec();
    if limit % 2 == 1 {
        correct_checksums(&mut body);
    }
    let body = Bytes::from(body);
    let mut messages = StoredMessages::new(body.clone()).with_max_len(usize::from(limit) * 8);
    let mut start = 0;
    let mut corrupt = false;
    while let Some(message) = messages.next() {
        match message {
            Ok(message) => {
                let mut stored = BytesMut::new();
                let data = &body[start + 20..message.next_offset];
                encode_stored_message(&mut stored, message.id, message.flag, data);
                assert_eq!(stored, body[start..message.next_offset]);
                assert!(data.ends_with(&message.payload));
                match message.attribute {
                    None => assert_eq!(message.payload.len(), data.len()),
                    Some(attribute) => assert!(attribute.len() <= 3 * (data.len() - 4 - message.payload.len())),
                }
                start = message.next_offset;
            }
            Err(error) => {
                assert_eq!(error.offset(), start);
                corrupt = true;
            }
        }
    }
    assert_eq!(messages.offset(), start);
    match messages.truncated() {
        Some(tail) => assert!(!corrupt && tail.offset == start && tail.needed > tail.available),
        None => assert!(corrupt || start == body.len()),
    }
});
