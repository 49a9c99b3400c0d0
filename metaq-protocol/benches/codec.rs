//! Encoding and decoding, compared with the minimum for the same work: the checksum of the bytes and one
//! copy.
//!
//! `cargo bench -p metaq-protocol`. Compare `put/encode` with `put/floor` of the same size.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_main};
use metaq_protocol::{
    BooleanCommand, Checksum, Command, Decoder, Flag, Opaque, PutCommand, PutResponse, Response, Status,
    StoredMessages, Topic, encode_stored_message,
};

const SIZES: [(&str, usize); 4] = [("16B", 16), ("128B", 128), ("1KiB", 1 << 10), ("64KiB", 64 << 10)];

fn put(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("put");
    let topic: Topic = "orders".parse().expect("a name");
    for (name, size) in SIZES {
        let payload = Bytes::from(vec![0x5a; size]);
        group.throughput(Throughput::Bytes(size as u64));
        let mut dst = BytesMut::with_capacity(2 * size + 256);
        // The destination has the same offset within a page as a frame's body would have: at the offset of
        // the source the copy would be several times slower, and not the minimum.
        dst.extend_from_slice(b"put orders 3 65536 0 1274296614 123456789\r\n");
        let head = dst.len();
        group.bench_function(format!("floor/{name}"), |bencher| {
            bencher.iter(|| {
                dst.truncate(head);
                let checksum = Checksum::of(black_box(&payload));
                dst.extend_from_slice(&payload);
                black_box(checksum)
            });
        });
        let mut opaque = 0_i32;
        let mut put = PutCommand::new(topic.clone(), 3, payload.clone(), None);
        group.bench_function(format!("encode/{name}"), |bencher| {
            bencher.iter(|| {
                dst.clear();
                opaque = opaque.wrapping_add(1);
                put.checksum = black_box(&put.data).checksum();
                put.opaque = Opaque(opaque);
                put.encode(&mut dst);
                black_box(dst.len())
            });
        });
        // The same, including creation of the command, which shares topic and payload, and its drop.
        group.bench_function(format!("make_and_encode/{name}"), |bencher| {
            bencher.iter(|| {
                dst.clear();
                opaque = opaque.wrapping_add(1);
                let put = PutCommand::new(topic.clone(), 3, black_box(&payload).clone(), None);
                put.with_opaque(Opaque(opaque)).encode(&mut dst);
                black_box(dst.len())
            });
        });
        let command = Command::from(
            PutCommand::new(topic.clone(), 3, payload.clone(), None).with_opaque(Opaque(123_456_789)),
        );
        let mut frame = BytesMut::new();
        command.encode(&mut frame);
        // As in a broker: bytes are appended to a buffer, a command is decoded, its checksum is compared.
        let mut decoder = Decoder::new();
        let mut src = BytesMut::with_capacity(2 * frame.len());
        group.bench_function(format!("decode/{name}"), |bencher| {
            bencher.iter(|| {
                src.clear();
                src.extend_from_slice(black_box(&frame));
                let frame = decoder.decode(&mut src);
                if let Ok(Some(metaq_protocol::Frame::Command(Command::Put(put)))) = &frame {
                    black_box(put.checksum.matches(put.data.parts().1));
                }
                black_box(frame.is_ok())
            });
        });
    }
    group.finish();
}

fn result(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("result");
    let answer = PutResponse::new(-5_468_924_307_537_133_568, 3, 1_234_567);
    let response =
        Response::from(BooleanCommand::new(Status::SUCCESS, answer.to_body(), Opaque(123_456_789)));
    let mut frame = BytesMut::new();
    response.encode(&mut frame);
    let mut decoder = Decoder::new();
    group.bench_function("decode_in_place", |bencher| {
        bencher.iter(|| decoder.decode_response_in_place(black_box(&frame)).map(|answer| answer.is_some()));
    });
    group.bench_function("decode_in_place_and_parse", |bencher| {
        bencher.iter(|| {
            let (answer, _) = decoder.decode_response_in_place(black_box(&frame)).ok()??;
            let place = answer.put_response().ok()?;
            Some(place.message_id ^ place.offset ^ i64::from(place.partition))
        });
    });
    let batch: BytesMut = frame.repeat(64).as_slice().into();
    group.throughput(Throughput::Elements(64));
    group.bench_function("decode_in_place_64", |bencher| {
        bencher.iter(|| {
            let (mut used, mut sum) = (0, 0_i64);
            while let Ok(Some((answer, length))) = decoder.decode_response_in_place(black_box(&batch[used..]))
            {
                sum += i64::from(answer.opaque.0);
                used += length;
            }
            (sum, used)
        });
    });
    let mut src = BytesMut::with_capacity(2 * batch.len());
    group.bench_function("decode_64", |bencher| {
        bencher.iter(|| {
            src.clear();
            src.extend_from_slice(black_box(&batch));
            let mut frames = 0;
            while let Ok(Some(frame)) = decoder.decode(&mut src) {
                black_box(&frame);
                frames += 1;
            }
            frames
        });
    });
    let mut dst = BytesMut::with_capacity(256);
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            dst.clear();
            black_box(&response).encode(&mut dst);
            black_box(dst.len())
        });
    });
    group.finish();
}

fn stored(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stored");
    for (name, size) in SIZES {
        let data = vec![0x5a; size];
        let mut body = BytesMut::new();
        let count = (256 << 10) / (size + 20);
        for id in 0..count {
            encode_stored_message(&mut body, id as i64, Flag::EMPTY, &data);
        }
        let body = body.freeze();
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("iterate/{name}"), |bencher| {
            bencher.iter(|| StoredMessages::new(black_box(&body).clone()).filter(Result::is_ok).count());
        });
    }
    group.finish();
}

mod groups {
    use super::*;
    criterion::criterion_group!(benches, put, result, stored);
}
criterion_main!(groups::benches);
