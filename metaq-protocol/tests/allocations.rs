//! Encoding and decoding allocate nothing per frame in steady state.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "there is no test harness to say so")]

use std::alloc::System;

use bytes::{Buf as _, Bytes, BytesMut};
use metaq_protocol::{BooleanCommand, Command, Decoder, Frame, Opaque, PutCommand, Response, Status, Topic};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn allocations(work: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    work();
    let change = region.change();
    change.allocations + change.reallocations
}

/// A program of its own: the threads of a test harness would be counted too.
fn main() {
    let topic = Topic::new("test").unwrap();
    let payload = Bytes::from(vec![7; 128]);
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    let put = |n| {
        let mut put = Command::from(PutCommand::new(topic.clone(), 1, payload.clone(), None));
        put.set_opaque(Opaque(n));
        put
    };
    // The first clone of a payload makes it shareable.
    drop(put(0));
    let encoding = allocations(|| {
        for n in 0..10_000 {
            buffer.clear();
            put(n).encode(&mut buffer);
        }
    });
    assert_eq!(encoding, 0, "encoding puts");

    let mut answers = BytesMut::new();
    for n in 0..1000 {
        let body = Bytes::from_static(b"-5468924307537133568 0 1234567");
        Response::from(BooleanCommand::new(Status::SUCCESS, body, Opaque(n))).encode(&mut answers);
    }
    let mut decoder = Decoder::new();
    let in_place = allocations(|| {
        let mut rest = &answers[..];
        while let Some((_, length)) = decoder.decode_response_in_place(rest).unwrap() {
            rest.advance(length);
        }
        assert!(rest.is_empty());
    });
    assert_eq!(in_place, 0, "decoding answers in place");

    // Bodies share the buffer; what makes it shareable is allocated once.
    let mut stream = answers.clone();
    let owned = allocations(|| while decoder.decode(&mut stream).unwrap().is_some() {});
    assert!(owned <= 1, "decoding answers: {owned} allocations for 1000 frames");

    let mut puts = BytesMut::new();
    (0..1000).for_each(|n| put(n).encode(&mut puts));
    assert!(matches!(decoder.decode(&mut puts), Ok(Some(Frame::Command(Command::Put(_))))));
    let broker_side = allocations(|| while decoder.decode(&mut puts).unwrap().is_some() {});
    assert_eq!(broker_side, 0, "decoding puts of the same topic");
    println!(
        "encoding puts: {encoding} allocations for 10000 frames; decoding answers in place: {in_place} for 1000,"
    );
    println!("with bodies of their own: {owned} for 1000; decoding puts: {broker_side} for 999");
}
