//! Frames of any kind: decoded whole and in pieces with the same result, and unchanged when encoded and
//! decoded again.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use metaq_protocol::{DecodeError, Decoder, Frame, Limits};

fn decoder() -> Decoder {
    Decoder::with_limits(Limits::default().with_max_line(512).with_max_body(4096))
}

fn read(bytes: &[u8], piece: usize) -> (Vec<Frame>, Result<usize, DecodeError>) {
    let (mut decoder, mut buffer, mut frames) = (decoder(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, Ok(buffer.len()))
}

fuzz_target!(|input: &[u8]| {
    let Some((&piece, bytes)) = input.split_first() else {
        return;
    };
    let (whole, end) = read(bytes, usize::MAX);
    let (pieces, other_end) = read(bytes, usize::from(piece).max(1));
    assert_eq!(whole, pieces);
    // The text of a line that is too long depends on how much of it had arrived.
    assert_eq!(end.map_err(|error| error.kind()), other_end.map_err(|error| error.kind()));
    for frame in whole {
        let mut written = BytesMut::new();
        frame.encode(&mut written);
        assert_eq!(written.len(), frame.encoded_len());
        // An invalid byte becomes three bytes when it is written again, so a line may get longer.
        let again = Decoder::new().decode(&mut written);
        assert_eq!(again, Ok(Some(frame)));
        assert!(written.is_empty());
    }
});
