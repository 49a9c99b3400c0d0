//! Responses decoded in place: the same result as from a buffer, and the same in pieces.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use metaq_protocol::{Decoder, Frame, Limits, PutResponse, XaError, parse_recovered, parse_stats};

fn decoder() -> Decoder {
    Decoder::with_limits(Limits::default().with_max_line(512).with_max_body(4096))
}

fuzz_target!(|input: &[u8]| {
    let Some((&piece, bytes)) = input.split_first() else {
        return;
    };
    let (mut in_place, mut out_of_buffer) = (decoder(), decoder());
    let mut buffer = BytesMut::from(bytes);
    let (mut start, mut end, piece) = (0, bytes.len().min(piece.into()), usize::from(piece).max(1));
    loop {
        match in_place.decode_response_in_place(&bytes[start..end]) {
            Ok(Some((answer, used))) => {
                let response = answer.to_response();
                assert_eq!(out_of_buffer.decode(&mut buffer), Ok(Some(Frame::Response(response.clone()))));
                start += used;
                assert_eq!(buffer.len(), bytes.len() - start);
                assert_eq!(in_place.awaited_len(), None);
                if let Ok(answer) = answer.put_response() {
                    assert_eq!(PutResponse::parse(&answer.to_body()), Ok(answer));
                }
                parse_stats(answer.body).for_each(drop);
                parse_recovered(answer.body).for_each(drop);
                if let metaq_protocol::Response::Boolean(answer) = response {
                    assert_eq!(XaError::from_response(&answer).is_none(), answer.status.is_success());
                }
            }
            Ok(None) if end < bytes.len() => end = (end + piece).min(bytes.len()),
            Ok(None) => return assert_eq!(out_of_buffer.decode(&mut buffer), Ok(None)),
            Err(_) => {
                let other = out_of_buffer.decode(&mut buffer);
                return assert!(!matches!(other, Ok(Some(Frame::Response(_)))), "{other:?}");
            }
        }
    }
});
