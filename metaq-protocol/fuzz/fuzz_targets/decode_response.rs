//! What a client reads: answers in place are those that the decoder gives otherwise.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use metaq_protocol::{Decoder, Frame, PrepareAnswer, PutAnswer, Response, Stats, XaAnswerError, parse_recover_answer};

fuzz_target!(|bytes: &[u8]| {
    let (mut in_place, mut owned) = (Decoder::new(), Decoder::new());
    let (mut used, mut buffer) = (0, BytesMut::from(bytes));
    loop {
        let response = in_place.decode_response_in_place(&bytes[used..]);
        if used == bytes.len() {
            assert_eq!(response, Ok(None));
            break;
        }
        match (response, owned.decode(&mut buffer)) {
            (Ok(Some((response, length))), Ok(Some(Frame::Response(other)))) => {
                used += length;
                assert_eq!(response.to_response(), other);
                assert_eq!(buffer, &bytes[used..]);
                read_body(&other);
            }
            (Ok(None), Ok(None)) | (Err(_), Err(_)) | (Err(_), Ok(Some(Frame::Command(_)))) => break,
            // A request's body is waited for by one, and the request refused at once by the other.
            (Err(_), Ok(None)) => break,
            (one, other) => panic!("{one:?} and {other:?}"),
        }
    }
});

/// Everything that reads bodies takes any.
fn read_body(response: &Response) {
    if let Response::Boolean(answer) = response {
        let _ = PutAnswer::parse(&answer.body);
        let _ = PrepareAnswer::parse(&answer.body);
        let _ = parse_recover_answer(&answer.body);
        let _ = XaAnswerError::of(answer);
        let _ = Stats::parse(&answer.body).get("END");
    }
}
