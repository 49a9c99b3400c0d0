//! Encoding and decoding beside the floor of the same work: the checksum of the bytes and one copy of them.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;

use bytes::{Buf as _, Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use metaq_protocol::{
    BooleanCommand, Checksum, Command, Decoder, Opaque, PutCommand, Response, Status, Topic,
};

const SIZES: [usize; 4] = [16, 128, 1024, 64 * 1024];

fn encode_put(c: &mut Criterion) {
    let mut group = c.benchmark_group("put");
    let topic = Topic::new("orders").unwrap();
    for size in SIZES {
        let payload = Bytes::from(vec![7; size]);
        let mut buffer = BytesMut::with_capacity(2 * size + 1024);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("floor", size), |b| {
            b.iter(|| {
                buffer.clear();
                black_box(Checksum::of(&payload));
                buffer.extend_from_slice(black_box(&payload));
            });
        });
        group.bench_function(BenchmarkId::new("encode", size), |b| {
            let mut opaque = 0;
            b.iter(|| {
                buffer.clear();
                opaque += 1;
                let mut put = PutCommand::new(topic.clone(), 1, payload.clone(), None);
                put.opaque = Opaque(opaque);
                Command::from(black_box(put)).encode(&mut buffer);
            });
        });
        let mut frames = BytesMut::new();
        let count = (1024 * 1024 / (size + 64)).max(1);
        for n in 0..count {
            let mut put = PutCommand::new(topic.clone(), 1, payload.clone(), None);
            put.opaque = Opaque(n as i32);
            Command::from(put).encode(&mut frames);
        }
        group.throughput(Throughput::Bytes((size * count) as u64));
        group.bench_function(BenchmarkId::new(format!("decode of {count}"), size), |b| {
            let mut decoder = Decoder::new();
            b.iter_batched_ref(
                || frames.clone(),
                |frames| {
                    while let Some(frame) = decoder.decode(frames).unwrap() {
                        black_box(&frame);
                    }
                },
                criterion::BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn decode_result(c: &mut Criterion) {
    let mut group = c.benchmark_group("result of a put");
    let mut frames = BytesMut::new();
    for n in 0..1000 {
        let body = Bytes::from_static(b"-5468924307537133568 3 123456789");
        Response::from(BooleanCommand::new(Status::SUCCESS, body, Opaque(n))).encode(&mut frames);
    }
    group.throughput(Throughput::Elements(1000));
    group.bench_function("decode of 1000 in place", |b| {
        let mut decoder = Decoder::new();
        b.iter(|| {
            let mut rest = &frames[..];
            while let Some((response, length)) = decoder.decode_response_in_place(rest).unwrap() {
                black_box(response);
                rest.advance(length);
            }
        });
    });
    group.bench_function("decode of 1000, bodies of their own", |b| {
        let mut decoder = Decoder::new();
        b.iter_batched_ref(
            || frames.clone(),
            |frames| {
                while let Some(frame) = decoder.decode(frames).unwrap() {
                    black_box(&frame);
                }
            },
            criterion::BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, encode_put, decode_result);
criterion_main!(benches);
