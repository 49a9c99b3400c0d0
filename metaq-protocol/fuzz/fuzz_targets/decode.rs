//! What a broker reads, and everything else that can be in a stream: the frames don't depend on how the bytes are cut,
//! they take no more memory than their bytes, and what is read can be written and read again.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use metaq_protocol::{Decoder, Frame, Limits};

fn decode(bytes: &[u8], piece: usize) -> (Vec<(Frame, usize)>, Option<String>) {
    let limits = Limits::default().with_max_line(512).with_max_body(4096);
    let (mut decoder, mut buffer) = (Decoder::with_limits(limits), BytesMut::new());
    let (mut frames, mut taken) = (Vec::new(), 0);
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.len();
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => {
                    taken += before - buffer.len();
                    frames.push((frame, taken));
                }
                Ok(None) => break,
                Err(error) => return (frames, Some(error.to_string())),
            }
        }
        assert!(buffer.capacity() <= 2 * bytes.len() + 16 * 1024, "memory that the bytes don't account for");
    }
    (frames, None)
}

fn encode(frame: &Frame) -> BytesMut {
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
    assert_eq!(bytes.len(), length);
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let (frames, error) = decode(bytes, bytes.len().max(1));
    // An error in a line that isn't complete yet may show up earlier, and say less.
    for piece in [1, 3, 17] {
        let (cut, cut_error) = decode(bytes, piece);
        assert_eq!(frames, cut);
        assert_eq!(error.is_some(), cut_error.is_some());
    }
    for (frame, _) in frames {
        let written = encode(&frame);
        let again = Decoder::new().decode(&mut written.clone()).expect("what was written can be read").expect("whole");
        assert_eq!(encode(&again), written, "and is the same from then on");
    }
});
