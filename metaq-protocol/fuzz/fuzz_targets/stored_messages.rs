//! Going through stored messages: it ends, within the bytes, and what was whole can be written again.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use metaq_protocol::{PutData, StoredMessages, encode_stored_message};

fuzz_target!(|bytes: &[u8]| {
    let mut messages = StoredMessages::new(Bytes::copy_from_slice(bytes));
    let mut offset = 0;
    while let Some(message) = messages.next() {
        let Ok(message) = message else {
            assert_eq!(messages.offset(), offset);
            assert!(messages.next().is_none());
            break;
        };
        assert!(message.next_offset >= offset + 20 && message.next_offset <= bytes.len());
        let is_text = message.attribute.as_deref().is_none_or(|attribute| !attribute.contains('\u{FFFD}'));
        if is_text {
            let data = PutData::new(message.payload.clone(), message.attribute.as_deref());
            let mut again = BytesMut::new();
            encode_stored_message(&mut again, message.id, message.flag, &data.to_bytes());
            assert_eq!(again, &bytes[offset..message.next_offset]);
        }
        offset = message.next_offset;
        assert_eq!(messages.offset(), offset);
    }
});
