//! Memory use of the codec, counted by the allocator.

use std::{hint::black_box, time::Instant};

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
use metaq_protocol::{
    BooleanCommand, Command, Decoder, Frame, Limits, Opaque, PutCommand, PutResponse, Response, Status, Topic,
};

fn result(opaque: i32) -> Response {
    BooleanCommand::new(
        Status::SUCCESS,
        PutResponse::new(-5_468_924_307_537_133_568, 0, 0).to_body(),
        Opaque(opaque),
    )
    .into()
}

#[test]
fn encoding_a_put_allocates_nothing() {
    let topic: Topic = "orders".parse().unwrap();
    let payload = Bytes::from(vec![7; 128]);
    // A vector's first clone sets up the sharing.
    let _shared = payload.clone();
    let mut dst = BytesMut::with_capacity(1024);
    let counted = measure(|| {
        for opaque in 0..1000 {
            dst.clear();
            let put = PutCommand::new(topic.clone(), 3, payload.clone(), None).with_opaque(Opaque(opaque));
            black_box(Command::from(put)).encode(&mut dst);
        }
    });
    assert_eq!(counted.count_total, 0, "{counted:?}");
    assert!(dst.starts_with(b"put orders 3 128 0 ") && dst.len() > 128);
}

#[test]
fn decoding_responses_in_place_allocates_nothing() {
    let mut frames = BytesMut::new();
    (0..1000).for_each(|opaque| result(opaque).encode(&mut frames));
    let mut decoder = Decoder::new();
    let (mut used, mut answers) = (0, 0);
    let counted = measure(|| {
        while let Some((answer, length)) = decoder.decode_response_in_place(&frames[used..]).unwrap() {
            assert_eq!(answer.put_response().unwrap().offset, 0);
            used += length;
            answers += 1;
        }
    });
    assert_eq!((counted.count_total, answers), (0, 1000), "{counted:?}");
}

#[test]
fn decoding_from_a_buffer_allocates_nothing_in_steady_state() {
    let mut frames = BytesMut::new();
    for opaque in 0..16 {
        result(opaque).encode(&mut frames);
        let put = PutCommand::new("orders".parse().unwrap(), 3, Bytes::from_static(b"hello"), None);
        Frame::from(put.with_opaque(Opaque(opaque))).encode(&mut frames);
    }
    let (mut decoder, mut src) = (Decoder::new(), BytesMut::with_capacity(8192));
    let mut round = || {
        src.extend_from_slice(&frames);
        let mut count = 0;
        while let Some(frame) = decoder.decode(&mut src).unwrap() {
            black_box(frame);
            count += 1;
        }
        assert_eq!(count, 32);
    };
    round();
    let counted = measure(|| (0..100).for_each(|_| round()));
    assert_eq!(counted.count_total, 0, "{counted:?}");
}

#[test]
fn an_announced_length_is_not_trusted() {
    for line in [
        "put t 0 2147483647 0 -1 1\r\n",
        "sync t 0 2147483647 0 5 -1 1\r\n",
        "result 200 2147483647 1\r\n",
        "value 2147483647 1\r\n",
    ] {
        // Refused by the default limits, without waiting for the body.
        let mut decoder = Decoder::new();
        let error = decoder.decode(&mut BytesMut::from(line)).unwrap_err();
        assert_eq!((error.field(), error.limit()), (Some("length"), Some(64 << 20)), "{line}");
        // Accepted by other limits, but not trusted.
        let mut decoder = Decoder::with_limits(Limits::default().with_max_body(usize::MAX));
        let counted = measure(|| {
            let mut src = BytesMut::from(line);
            assert_eq!(decoder.decode(&mut src), Ok(None));
            src.extend_from_slice(b"abc");
            assert_eq!(decoder.decode(&mut src), Ok(None));
        });
        assert!(counted.bytes_max < 600 << 10, "{line}: {counted:?}");
    }
}

#[test]
fn reserved_space_grows_with_received_bytes() {
    let mut decoder = Decoder::new();
    let mut src = BytesMut::from("value 4000000 1\r\n");
    let whole = src.len() + 4_000_000;
    let counted = measure(|| {
        while decoder.decode(&mut src).unwrap().is_none() {
            let length = src.len();
            src.resize(length + 1000.min(whole - length), 7);
            assert!(src.capacity() <= 2 * src.len() + (600 << 10), "{}", src.capacity());
        }
    });
    assert!(counted.count_total < 20, "{counted:?}");
}

#[test]
fn errors_are_small() {
    let line = [&b"put "[..], &[b'x'; 60_000], b" y 1 0 -1 5\r\n"].concat();
    let mut src = BytesMut::from(&line[..]);
    let mut decoder = Decoder::new();
    let counted = measure(|| {
        let error = decoder.decode(&mut src).unwrap_err();
        assert_eq!((error.command(), error.field(), error.text()), (Some("put"), Some("partition"), "y"));
    });
    assert!(counted.bytes_max < 70_000, "the topic and little more: {counted:?}");
}

#[test]
fn no_byte_is_searched_twice() {
    // A megabyte that arrives byte by byte: reading all of it again for each byte would take minutes.
    let limits = Limits::default().with_max_line(2 << 20);
    let start = Instant::now();
    for (head, body) in [("version ", "1"), ("value 1048576 1\r\n", "x"), ("stats \n\n", "\n")] {
        let (mut decoder, mut src) = (Decoder::with_limits(limits), BytesMut::from(head));
        let (mut in_place, mut all) = (Decoder::with_limits(limits), BytesMut::from(head));
        for _ in 0..(1 << 20) - 1 {
            src.extend_from_slice(body.as_bytes());
            assert_eq!(decoder.decode(&mut src), Ok(None));
            if !head.starts_with("stats") {
                all.extend_from_slice(body.as_bytes());
                assert_eq!(in_place.decode_response_in_place(&all), Ok(None));
            }
        }
    }
    assert!(start.elapsed().as_secs() < 60, "took {:?}", start.elapsed());
}
